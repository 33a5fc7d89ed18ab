//! Given weights: linear scalarization.

use super::preference::Preference;
use super::{Balancer, KEY, Needs, Signal};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: static}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Static {
    /// Weight of each task; empty: all 1.
    weights: Preference,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Static = component.options(KEY)?;
    options.weights.check("weights", names.len())?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for Static {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let present = signal.present();
        let mut weights = vec![0.0; signal.present.len()];
        present.iter().zip(self.weights.of(&present, 1.0)).for_each(|(&k, weight)| weights[k] = weight);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{method, of_losses, try_method};

    #[test]
    fn given_weights_are_used_where_a_task_has_labels() {
        let mut method = method("{kind: static, weights: [1, 0.5, 3]}", 3);
        assert_eq!(method.weights(&of_losses(&[1.0, 0.0, 2.0], &[true, false, true])).unwrap(), [1.0, 0.0, 3.0]);
    }

    #[test]
    fn the_list_must_fit_the_tasks() {
        let error = try_method("{kind: static, weights: [1, 2]}", 3).unwrap_err().to_string();
        assert!(error.contains("balance.weights") && error.contains("2 factors for 3 tasks"), "{error}");
    }
}
