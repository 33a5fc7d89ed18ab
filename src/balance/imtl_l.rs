//! Impartial multi-task learning, the loss part (Liu et al., ICLR 2021): each task has a learned scale s_k, and
//! Σ e^{s_k}L_k − s_k is minimised. At the optimum every weighted loss is 1.

use super::{Balancer, KEY, Needs, Signal, adam, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: imtl_l}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Learning rate of the s_k, which start at 0 and have an Adam of their own.
    lr: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { lr: 1e-3 }
    }
}

#[derive(Debug)]
struct ImtlL {
    options: Options,
    /// [`adam`]'s state of each task's s.
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    if !(options.lr >= 0.0 && options.lr.is_finite()) {
        return Err(Error::job(format!("lr is {}", options.lr)).at("key", "balance.lr").fix("give a number ≥ 0"));
    }
    component.resolve(&options)?;
    Ok(Box::new(ImtlL { options, state: adam::start(0.0, names.len()) }))
}

impl Balancer for ImtlL {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let mut weights = vec![0.0; signal.present.len()];
        if weights.len() == 1 {
            return Ok(vec![f64::from(u8::from(signal.present[0]))]);
        }
        for (task, state) in self.state.chunks_exact_mut(adam::WIDTH).enumerate() {
            if signal.present[task] {
                weights[task] = libm::exp(state[0]);
                adam::update(state, weights[task] * signal.losses[task] - 1.0, self.options.lr);
            }
        }
        Ok(weights)
    }

    remembers!(state);
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{method, of_losses, try_method};

    #[test]
    fn weights_start_at_one_and_lead_to_weighted_losses_of_one() {
        let losses = [0.1, 1.0, 30.0];
        let mut method = method("{kind: imtl_l, lr: 0.02}", 3);
        assert_eq!(method.weights(&of_losses(&losses, &[true; 3])).unwrap(), [1.0; 3]);
        let mut weights = Vec::new();
        for _ in 0..3000 {
            weights = method.weights(&of_losses(&losses, &[true; 3])).unwrap();
        }
        assert!(weights.iter().zip(losses).all(|(w, l)| (w * l - 1.0).abs() < 5e-3), "{weights:?}");
    }

    #[test]
    fn an_absent_task_keeps_its_scale() {
        let mut method = method("{kind: imtl_l}", 2);
        assert_eq!(method.weights(&of_losses(&[0.1, 0.0], &[true, false])).unwrap(), [1.0, 0.0]);
        assert_eq!(method.state()[4..], [0.0; 4]);
        assert!(try_method("{kind: imtl_l, lr: -1}", 2).is_err());
    }
}
