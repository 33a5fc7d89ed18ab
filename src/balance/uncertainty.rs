//! Homoscedastic uncertainty (Kendall, Gal & Cipolla, CVPR 2018): each task has a learned log-variance s_k.
//!
//! `form: gaussian` minimises Σ L_k/(2e^{s_k}) + s_k/2 (eq. 7, for every kind of loss, as LibMTL does);
//! `form: classification` minimises Σ e^{−s_k}L_k + s_k/2 (eq. 10). Both are w_k L_k + s_k/2, so
//! ∂/∂s_k = ½ − w_k L_k: it needs the global losses only, and every rank takes the same step of s.

use super::{Balancer, KEY, Needs, Signal, adam, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: uncertainty}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Which of the paper's two losses.
    form: Form,
    /// Initial log-variance.
    init: f64,
    /// Learning rate of the log-variances; they have an Adam of their own.
    lr: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { form: Form::Gaussian, init: -0.5, lr: 1e-3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    Gaussian,
    Classification,
}

#[derive(Debug)]
struct Uncertainty {
    options: Options,
    /// [`adam`]'s state of each task's s.
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    if !(options.lr >= 0.0 && options.lr.is_finite() && options.init.is_finite()) {
        return Err(Error::job("uncertainty needs a finite `init` and an `lr` ≥ 0").at("key", KEY));
    }
    component.resolve(&options)?;
    Ok(Box::new(Uncertainty { options, state: adam::start(options.init, names.len()) }))
}

impl Balancer for Uncertainty {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let mut weights = vec![0.0; signal.present.len()];
        if weights.len() == 1 {
            return Ok(vec![f64::from(u8::from(signal.present[0]))]);
        }
        let half = if self.options.form == Form::Gaussian { 0.5 } else { 1.0 };
        for (task, state) in self.state.chunks_exact_mut(adam::WIDTH).enumerate() {
            if signal.present[task] {
                let weight = half * libm::exp(-state[0]);
                weights[task] = weight;
                adam::update(state, 0.5 - weight * signal.losses[task], self.options.lr);
            }
        }
        Ok(weights)
    }

    remembers!(state);
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{method, of_losses};

    #[test]
    fn the_first_weights_come_from_the_initial_variance() {
        let signal = of_losses(&[1.0, 2.0], &[true, true]);
        let gaussian = method("{kind: uncertainty}", 2).weights(&signal).unwrap();
        assert!(gaussian.iter().all(|w| (w - 0.5 * 0.5f64.exp()).abs() < 1e-15));
        let other = method("{kind: uncertainty, form: classification, init: 0}", 2).weights(&signal).unwrap();
        assert_eq!(other, [1.0, 1.0]);
    }

    #[test]
    fn constant_losses_lead_to_the_optimum() {
        // At the optimum w_k L_k = ½ in both forms.
        let losses = [0.1, 1.0, 30.0];
        for form in ["gaussian", "classification"] {
            let mut method = method(&format!("{{kind: uncertainty, form: {form}, lr: 0.02}}"), 3);
            let mut weights = Vec::new();
            for _ in 0..3000 {
                weights = method.weights(&of_losses(&losses, &[true; 3])).unwrap();
            }
            for (w, l) in weights.iter().zip(losses) {
                assert!((w * l - 0.5).abs() < 5e-3, "{form}: {w} × {l}");
            }
        }
    }

    #[test]
    fn the_gradient_of_s_is_that_of_the_papers_loss() {
        // Adam's first step has the sign of the gradient: L = 0.1 < ½/w lowers s, L = 10 raises it.
        let mut method = method("{kind: uncertainty, lr: 0.1}", 2);
        method.weights(&of_losses(&[0.1, 10.0], &[true, true])).unwrap();
        let state = method.state();
        assert!((state[0] + 0.6).abs() < 1e-6 && (state[4] + 0.4).abs() < 1e-6, "{state:?}");
    }

    #[test]
    fn an_absent_task_keeps_its_variance() {
        let mut method = method("{kind: uncertainty, lr: 0.1}", 2);
        let weights = method.weights(&of_losses(&[0.1, 0.0], &[true, false])).unwrap();
        assert_eq!(weights[1], 0.0);
        assert_eq!(method.state()[4..], [-0.5, 0.0, 0.0, 0.0]);
    }
}
