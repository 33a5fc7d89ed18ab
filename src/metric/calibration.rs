//! Calibration of binary tasks: mean prediction over mean label (1 is right, 2 predicts twice too many), and
//! the expected calibration error over buckets of the prediction (Naeini et al., AAAI 2015).
//!
//! Buckets are half a unit of *logit* wide rather than equal in probability: click rates are a few percent, and
//! equal buckets would put them all into one.

use super::{Better, Definition, Metric, Rows, Value, is_positive, quotient, sigmoid};
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
    /// Σ predictions of each bucket, in fixed point, then its positives.
    sums: [u128; 2 * BUCKETS],
    rows: u64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { sums: [0; 2 * BUCKETS], rows: 0 }
    }
}

impl Metric for Calibration {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        for (&logit, &label) in rows.logits.iter().zip(rows.labels) {
            let bucket = bucket(logit);
            self.sums[bucket] += (sigmoid(logit) * UNIT) as u128;
            self.sums[BUCKETS + bucket] += u128::from(is_positive(label)?);
            self.rows += 1;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>> {
        collectives::all_reduce_sum(comm, &mut self.sums)?;
        let mut rows = [self.rows];
        collectives::all_reduce_sum(comm, &mut rows)?;
        let (predicted, positive) = self.sums.split_at(BUCKETS);
        let total = |sums: &[u128]| sums.iter().sum::<u128>() as f64;
        let gaps = predicted.iter().zip(positive).map(|(&p, &y)| (p as f64 / UNIT - y as f64).abs());
        Ok(vec![quotient(total(predicted) / UNIT, total(positive)), quotient(gaps.sum(), rows[0] as f64)])
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
