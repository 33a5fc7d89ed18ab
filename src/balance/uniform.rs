//! Equal weights: the sum of the losses, or their mean.

use super::{Balancer, KEY, Needs, Signal};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: uniform}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Uniform {
    /// `sum` weighs each task by 1, `mean` by 1 / (number of tasks with a label in the batch).
    reduction: Reduction,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reduction {
    #[default]
    Sum,
    Mean,
}

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Uniform = component.options(KEY)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for Uniform {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let weight = match self.reduction {
            Reduction::Sum => 1.0,
            Reduction::Mean => 1.0 / signal.present().len().max(1) as f64,
        };
        Ok(signal.present.iter().map(|&p| if p { weight } else { 0.0 }).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{method, of_losses};

    #[test]
    fn sum_and_mean_count_only_tasks_that_are_there() {
        let present = [true, false, true, true];
        let losses = [1.0, 0.0, 2.0, 3.0];
        let sum = method("{kind: uniform}", 4).weights(&of_losses(&losses, &present)).unwrap();
        assert_eq!(sum, [1.0, 0.0, 1.0, 1.0]);
        let mean = method("{kind: uniform, reduction: mean}", 4).weights(&of_losses(&losses, &present)).unwrap();
        assert_eq!(mean, [1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]);
    }

    #[test]
    fn a_batch_without_any_label_is_no_division_by_zero() {
        let mut mean = method("{kind: uniform, reduction: mean}", 2);
        assert_eq!(mean.weights(&of_losses(&[0.0, 0.0], &[false, false])).unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn a_loss_that_is_not_finite_is_named() {
        let error = method("{kind: uniform}", 2).weights(&of_losses(&[1.0, f64::NAN], &[true, true])).unwrap_err();
        assert!(error.to_string().contains("task index 1"), "{error}");
    }
}
