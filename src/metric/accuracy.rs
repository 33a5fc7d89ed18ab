//! Accuracy and log-loss (softmax cross-entropy, in nats) of multi-class tasks.

use super::sum::ExactSum;
use super::{Better, Definition, Metric, Rows, Value, quotient};
use crate::comm::{Communicator, collectives};
use crate::config::job::TaskKind;
use crate::error::{Error, Result};

pub(super) const DEFINITION: Definition = Definition {
    values: &[("accuracy", Better::Higher), ("logloss", Better::Lower)],
    build: |task, _| (task.kind == TaskKind::Multiclass).then(|| Box::new(Accuracy::default()) as Box<dyn Metric>),
};

#[derive(Debug, Default)]
struct Accuracy {
    rows: u64,
    right: u64,
    loss: ExactSum,
}

impl Metric for Accuracy {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        for (logits, &label) in rows.logits.chunks_exact(rows.outputs).zip(rows.labels) {
            let class = class(label, rows.outputs)?;
            self.rows += 1;
            self.right += u64::from(first_highest(logits) == class);
            self.loss.add(cross_entropy(logits, class));
        }
        Ok(())
    }

    fn finish(self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>> {
        let loss = self.loss.finish(comm)?;
        let mut counts = [self.rows, self.right];
        collectives::all_reduce_sum(comm, &mut counts)?;
        let [rows, right] = counts.map(|n| n as f64);
        Ok(vec![quotient(right, rows), quotient(loss, rows)])
    }
}

fn class(label: f32, classes: usize) -> Result<usize> {
    if label >= 0.0 && label.fract() == 0.0 && (label as usize) < classes {
        return Ok(label as usize);
    }
    Err(Error::data(format!("label {label} is no class in 0..{classes}")).fix("raise `classes`, or map the label"))
}

/// The class with the highest logit; of several the first.
fn first_highest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best
}

/// −log softmax(logits)[class], without overflow.
fn cross_entropy(logits: &[f32], class: usize) -> f64 {
    let highest = f64::from(logits[first_highest(logits)]);
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - highest).exp()).sum();
    sum.ln() + highest - f64::from(logits[class])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::values;

    #[test]
    fn rows_by_hand() {
        let rows = [
            (vec![1.0, 2.0, 0.0], 1.0),
            (vec![1.0, 2.0, 0.0], 0.0),
            (vec![0.0, 0.0, 0.0], 0.0), // a tie goes to the first class
            (vec![1e30, 0.0, 0.0], 0.0),
        ];
        let log_sum = (1f64.exp() + 2f64.exp() + 1.0).ln();
        let loss = (2.0 * log_sum - 3.0 + 3f64.ln()) / 4.0;
        for ranks in 1..=4 {
            let got = values::<Accuracy>(&rows, ranks);
            assert_eq!(got[0].get(), Some(0.75));
            assert!((got[1].get().unwrap() - loss).abs() < 1e-12);
        }
    }

    #[test]
    fn a_label_outside_the_classes_is_an_error() {
        for label in [-1.0, 3.0, 0.5, f32::NAN] {
            assert!(class(label, 3).is_err(), "{label}");
        }
        assert_eq!(class(2.0, 3).unwrap(), 2);
    }
}
