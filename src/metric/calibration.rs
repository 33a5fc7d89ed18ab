//! Calibration of binary tasks: mean prediction over mean label (1 is right, 2 predicts twice too many), and
//! the expected calibration error over buckets of the prediction (Naeini et al., AAAI 2015).
//!
//! Buckets are half a unit of *logit* wide rather than equal in probability: click rates are a few percent, and
//! equal buckets would put them all into one.

use super::{Better, Bucket, Curves, Definition, Metric, Rows, Value, is_positive, quotient, sigmoid};
use crate::comm::{Communicator, collectives};
use crate::config::job::TaskKind;
use crate::error::Result;

pub(super) const DEFINITION: Definition = Definition {
    values: &[("calibration", Better::Neither), ("ece", Better::Lower)],
    build: |task, _| (task.kind == TaskKind::Binary).then(|| Box::new(Calibration::default()) as Box<dyn Metric>),
};

/// Logits −16 … 16 in halves; the outermost buckets take all beyond.
const BUCKETS: usize = 64;

/// A prediction of 1 in fixed point: sums are integers, the same in any order.
const UNIT: f64 = (1u64 << 60) as f64;

#[derive(Debug)]
struct Calibration {
    /// Σ predictions of each bucket, in fixed point, then its positives, then its rows.
    sums: [u128; 3 * BUCKETS],
}

impl Default for Calibration {
    fn default() -> Self {
        Self { sums: [0; 3 * BUCKETS] }
    }
}

impl Metric for Calibration {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        for (&logit, &label) in rows.logits.iter().zip(rows.labels) {
            let bucket = bucket(logit);
            self.sums[bucket] += (sigmoid(logit) * UNIT) as u128;
            self.sums[BUCKETS + bucket] += u128::from(is_positive(label)?);
            self.sums[2 * BUCKETS + bucket] += 1;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>> {
        self.finish_drawn(comm, &mut Curves::default())
    }

    fn finish_drawn(mut self: Box<Self>, comm: &dyn Communicator, curves: &mut Curves) -> Result<Vec<Value>> {
        collectives::all_reduce_sum(comm, &mut self.sums)?;
        let (predicted, rest) = self.sums.split_at(BUCKETS);
        let (positive, rows) = rest.split_at(BUCKETS);
        let buckets = predicted.iter().zip(positive).zip(rows).filter(|(_, rows)| **rows > 0);
        let mean = |sum: f64, rows: u128| sum / rows as f64;
        curves.calibration = buckets
            .map(|((&p, &y), &rows)| Bucket {
                predicted: mean(p as f64 / UNIT, rows),
                observed: mean(y as f64, rows),
                rows: rows as u64,
            })
            .collect();
        let total = |sums: &[u128]| sums.iter().sum::<u128>() as f64;
        let gaps = predicted.iter().zip(positive).map(|(&p, &y)| (p as f64 / UNIT - y as f64).abs());
        Ok(vec![quotient(total(predicted) / UNIT, total(positive)), quotient(gaps.sum(), total(rows))])
    }
}

fn bucket(logit: f32) -> usize {
    // The cast saturates: logits below −16 fall into bucket 0.
    ((2.0 * (logit + 16.0)) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{binary, values};

    #[test]
    fn means_and_buckets_by_hand() {
        // σ(0) = ½ twice with one positive: right. σ(3) twice with one positive: too high by σ(3) − ½ each.
        let rows = binary(&[(0.0, true), (0.1 - 0.1, false), (3.0, true), (3.0, false)]);
        let high = 1.0 / (1.0 + (-3.0f64).exp());
        for ranks in 1..=4 {
            let got = values::<Calibration>(&rows, ranks);
            assert!((got[0].get().unwrap() - (1.0 + 2.0 * high) / 2.0).abs() < 1e-15);
            assert!((got[1].get().unwrap() - (2.0 * high - 1.0) / 4.0).abs() < 1e-15);
            assert_eq!(got, values::<Calibration>(&rows, 1));
        }
    }

    #[test]
    fn without_a_positive_the_ratio_is_undefined() {
        let got = values::<Calibration>(&binary(&[(0.0, false)]), 1);
        assert_eq!((got[0], got[1].get()), (Value::Undefined, Some(0.5)));
        assert_eq!(values::<Calibration>(&[], 1), [Value::Undefined, Value::Undefined]);
    }

    #[test]
    fn every_logit_has_a_bucket() {
        let of = [f32::MIN, -16.0, -0.1, 0.0, 0.49, 0.5, 15.9, 16.0, f32::MAX].map(bucket);
        assert_eq!(of, [0, 0, 31, 32, 32, 33, 63, 63, 63]);
    }
}
