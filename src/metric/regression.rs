//! Mean absolute and (root) mean squared error of regression tasks.

use super::sum::ExactSum;
use super::{Better, Definition, Metric, Rows, Value, quotient};
use crate::comm::{Communicator, collectives};
use crate::config::job::TaskKind;
use crate::error::{Error, Result};

pub(super) const DEFINITION: Definition = Definition {
    values: &[("mae", Better::Lower), ("rmse", Better::Lower), ("mse", Better::Lower)],
    build: |task, _| (task.kind == TaskKind::Regression).then(|| Box::new(Regression::default()) as Box<dyn Metric>),
};

#[derive(Debug, Default)]
struct Regression {
    absolute: ExactSum,
    squared: ExactSum,
    rows: u64,
}

impl Metric for Regression {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        for (&predicted, &label) in rows.logits.iter().zip(rows.labels) {
            if !label.is_finite() {
                return Err(Error::data(format!("label {label} is not a finite number")));
            }
            let error = f64::from(predicted) - f64::from(label);
            self.absolute.add(error.abs());
            self.squared.add(error * error);
            self.rows += 1;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>> {
        let (absolute, squared) = (self.absolute.finish(comm)?, self.squared.finish(comm)?);
        let mut rows = [self.rows];
        collectives::all_reduce_sum(comm, &mut rows)?;
        let rows = rows[0] as f64;
        Ok(vec![quotient(absolute, rows), quotient(squared, rows).map(f64::sqrt), quotient(squared, rows)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::testing::values;

    #[test]
    fn errors_by_hand() {
        let rows = [(vec![1.0], 2.0), (vec![5.0], 2.0), (vec![-1.0], -1.0)];
        for ranks in 1..=4 {
            let got = values::<Regression>(&rows, ranks);
            let want = [4.0 / 3.0, (10.0f64 / 3.0).sqrt(), 10.0 / 3.0];
            assert!(got.iter().zip(want).all(|(g, w)| (g.get().unwrap() - w).abs() < 1e-15), "{got:?}");
        }
        assert_eq!(values::<Regression>(&[], 2), [Value::Undefined; 3]);
    }

    #[test]
    fn a_label_that_is_not_finite_is_an_error() {
        let mut metric = Regression::default();
        assert!(metric.add(&Rows { outputs: 1, logits: &[0.0], labels: &[f32::NAN], groups: &[] }).is_err());
    }
}
