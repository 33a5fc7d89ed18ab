//! Log-loss of binary tasks from logits, and normalized entropy (He et al., ADKDD 2014): log-loss over the
//! entropy of the base rate, so that predicting the base rate is 1.

use super::sum::ExactSum;
use super::{Better, Definition, Metric, Rows, Value, is_positive, quotient};
use crate::comm::{Communicator, collectives};
use crate::config::job::TaskKind;
use crate::error::Result;

pub(super) const DEFINITION: Definition = Definition {
    values: &[("logloss", Better::Lower), ("normalized_entropy", Better::Lower)],
    build: |task, _| (task.kind == TaskKind::Binary).then(|| Box::new(LogLoss::default()) as Box<dyn Metric>),
};

#[derive(Debug, Default)]
struct LogLoss {
    sum: ExactSum,
    rows: u64,
    positives: u64,
}

impl Metric for LogLoss {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        for (&logit, &label) in rows.logits.iter().zip(rows.labels) {
            let positive = is_positive(label)?;
            self.sum.add(loss(logit, positive));
            self.rows += 1;
            self.positives += u64::from(positive);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>> {
        let sum = self.sum.finish(comm)?;
        let mut counts = [self.rows, self.positives];
        collectives::all_reduce_sum(comm, &mut counts)?;
        let [rows, positives] = counts.map(|n| n as f64);
        Ok(vec![quotient(sum, rows), quotient(sum, rows * entropy(positives / rows))])
    }
}

/// −log σ(x) or −log(1 − σ(x)), without overflow: max(x, 0) − x·y + log(1 + e^{−|x|}).
fn loss(logit: f32, positive: bool) -> f64 {
    let x = f64::from(logit);
    let wrong = if positive { -x } else { x };
    wrong.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Entropy in nats of a coin with this rate; 0 where there is no coin to toss.
fn entropy(rate: f64) -> f64 {
    if rate > 0.0 && rate < 1.0 { -rate * rate.ln() - (1.0 - rate) * (-rate).ln_1p() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::{binary, values};

    #[test]
    fn it_is_the_mean_of_the_textbook_formula() {
        let rows: Vec<(f32, bool)> = (0..100).map(|i| ((i as f32 - 50.0) / 8.0, i % 3 == 0)).collect();
        let naive: f64 = rows
            .iter()
            .map(|&(x, y)| {
                let p = 1.0 / (1.0 + f64::from(-x).exp());
                if y { -p.ln() } else { -(1.0 - p).ln() }
            })
            .sum::<f64>()
            / 100.0;
        let rate: f64 = 0.34;
        let base = -rate * rate.ln() - (1.0 - rate) * (1.0 - rate).ln();
        for ranks in 1..=4 {
            let got = values::<LogLoss>(&binary(&rows), ranks);
            assert!((got[0].get().unwrap() - naive).abs() < 1e-12);
            assert!((got[1].get().unwrap() - naive / base).abs() < 1e-12);
            assert_eq!(got, values::<LogLoss>(&binary(&rows), 1));
        }
    }

    #[test]
    fn extreme_logits_stay_finite() {
        assert_eq!(loss(1e30, true), 0.0);
        assert_eq!(loss(-1e30, true), f64::from(1e30f32));
        assert_eq!(loss(0.0, false), std::f64::consts::LN_2);
    }

    #[test]
    fn one_class_has_a_loss_but_no_base_entropy() {
        let got = values::<LogLoss>(&binary(&[(1.0, true), (2.0, true)]), 2);
        assert!(got[0].get().is_some());
        assert_eq!(got[1], Value::Undefined);
        assert_eq!(values::<LogLoss>(&[], 2), [Value::Undefined, Value::Undefined]);
    }
}
