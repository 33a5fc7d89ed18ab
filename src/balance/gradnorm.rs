//! GradNorm (Chen et al., ICML 2018): the weights are learned so that the weighted gradients' norms follow the tasks'
//! relative rates of training:
//!
//!   G_k = w_k‖g_k‖       r_k = (L_k/L_k⁰) / mean_j(L_j/L_j⁰)       min over w of Σ |G_k − mean(G) · r_k^α|   with Σ w = K
//!
//! where the target mean(G)·r^α is a constant. w = K · softmax(v) keeps the weights positive (as LibMTL does), and v has
//! an Adam of its own. With `scope: last_layer` g_k is the paper's ∂L_k/∂W of the last shared layer, which takes K passes
//! through the heads and that layer and one through the rest; with `scope: shared` (as LibMTL has it) it is that of all
//! shared parameters; with `scope: representation` that of the last shared layer's output.

use super::softmax::{backward, softmax};
use super::{Balancer, KEY, Needs, Scope, Signal, adam, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: gradnorm}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// How strongly tasks that train slowly are favoured; 0: all weighted norms alike.
    alpha: f64,
    /// Learning rate of v.
    lr: f64,
    /// What the losses are compared with.
    initial: Initial,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Initial {
    /// Each task's loss at the first step in which it is there.
    #[default]
    FirstStep,
    /// log 2: the cross-entropy of a binary task that knows nothing.
    Ln2,
}

impl Default for Options {
    fn default() -> Self {
        Self { alpha: 1.5, lr: 0.025, initial: Initial::FirstStep }
    }
}

#[derive(Debug)]
struct GradNorm {
    options: Options,
    tasks: usize,
    /// `[v, m, v, t]` of each task, then L⁰ of each (0: not seen yet).
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let tasks = names.len();
    let options: Options = component.options(KEY)?;
    if !(options.lr >= 0.0 && options.lr.is_finite() && options.alpha >= 0.0 && options.alpha.is_finite()) {
        return Err(Error::job("gradnorm needs an `alpha` and an `lr` ≥ 0").at("key", KEY));
    }
    component.resolve(&options)?;
    let mut state = adam::start(0.0, tasks);
    state.resize(tasks * (adam::WIDTH + 1), 0.0);
    Ok(Box::new(GradNorm { options, tasks, state }))
}

impl GradNorm {
    /// L_k / L_k⁰ of a task.
    fn ratio(&mut self, task: usize, loss: f64) -> f64 {
        let initial = &mut self.state[self.tasks * adam::WIDTH + task];
        if *initial == 0.0 {
            *initial = if self.options.initial == Initial::Ln2 { std::f64::consts::LN_2 } else { loss };
        }
        // A task that starts at a loss of 0 has no rate: it counts as one that trains like the others.
        if *initial > 0.0 { loss / *initial } else { 1.0 }
    }

    fn learn(&mut self, signal: &Signal, present: &[usize], weights: &[f64]) {
        let (n, tasks) = (present.len() as f64, self.tasks);
        let norms: Vec<f64> = present.iter().map(|&k| signal.gram[k * tasks + k].max(0.0).sqrt()).collect();
        let ratios: Vec<f64> = present.iter().map(|&k| self.ratio(k, signal.losses[k])).collect();
        let mean_ratio = ratios.iter().sum::<f64>() / n;
        let weighted: Vec<f64> = norms.iter().zip(weights).map(|(norm, w)| norm * w).collect();
        let mean = weighted.iter().sum::<f64>() / n;
        if mean == 0.0 || mean_ratio.is_nan() || mean_ratio <= 0.0 {
            return;
        }
        // Over the mean norm: the scale of all gradients is not the rate's business.
        let d_weights: Vec<f64> = (0..present.len())
            .map(|i| {
                let excess = weighted[i] - mean * libm::pow(ratios[i] / mean_ratio, self.options.alpha);
                let sign = if excess == 0.0 { 0.0 } else { excess.signum() };
                sign * norms[i] / mean
            })
            .collect();
        let shares: Vec<f64> = weights.iter().map(|w| w / n).collect();
        let gradients = backward(&shares, &d_weights);
        for (&task, gradient) in present.iter().zip(gradients) {
            adam::update(&mut self.state[task * adam::WIDTH..][..adam::WIDTH], n * gradient, self.options.lr);
        }
    }
}

impl Balancer for GradNorm {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn scopes(&self) -> &'static [Scope] {
        &[Scope::Shared, Scope::LastLayer, Scope::Representation, Scope::SharedAndRows]
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let present = signal.present();
        let logits: Vec<f64> = present.iter().map(|&task| self.state[task * adam::WIDTH]).collect();
        let of_present: Vec<f64> = softmax(&logits).iter().map(|z| z * present.len() as f64).collect();
        let mut weights = vec![0.0; self.tasks];
        for (&task, &weight) in present.iter().zip(&of_present) {
            weights[task] = weight;
        }
        self.learn(signal, &present, &of_present);
        Ok(weights)
    }

    remembers!(state);
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, method, of_gram};

    #[test]
    fn equal_rates_make_the_weighted_norms_equal() {
        let gram = [16.0, 0.0, 0.0, 1.0];
        let mut balancer = method("{kind: gradnorm, lr: 0.01}", 2);
        let mut weights = Vec::new();
        for _ in 0..2000 {
            weights = balancer.weights(&of_gram(&gram, &[1.0, 1.0], &[true; 2])).unwrap();
        }
        // 4·w₁ = 1·w₂ with w₁ + w₂ = 2.
        assert_close(&weights, &[0.4, 1.6], 0.03);
    }

    #[test]
    fn the_task_that_trains_slowly_gains_weight() {
        let mut balancer = method("{kind: gradnorm, lr: 0.01}", 2);
        let gram = [1.0, 0.0, 0.0, 1.0];
        let first = balancer.weights(&of_gram(&gram, &[1.0, 1.0], &[true; 2])).unwrap();
        assert_eq!(first, [1.0, 1.0]);
        let mut weights = first;
        for _ in 0..500 {
            weights = balancer.weights(&of_gram(&gram, &[0.5, 1.0], &[true; 2])).unwrap();
        }
        // r = (⅔, 4/3): the norms go as r^1.5, (0.544, 1.540), which is what mean(G) = 1 makes of the weights.
        assert!(weights[1] > 1.3 && (weights[0] + weights[1] - 2.0).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn a_known_start_is_used_in_place_of_the_first_loss() {
        let mut balancer = method("{kind: gradnorm, initial: ln2}", 2);
        balancer.weights(&of_gram(&[1.0, 0.0, 0.0, 1.0], &[0.3, 0.0], &[true, false])).unwrap();
        assert_eq!(balancer.state()[8..], [std::f64::consts::LN_2, 0.0]);
    }

    #[test]
    fn zero_losses_and_zero_gradients_stay_finite() {
        let mut balancer = method("{kind: gradnorm}", 2);
        for losses in [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]] {
            let weights = balancer.weights(&of_gram(&[0.0; 4], &losses, &[true; 2])).unwrap();
            assert!(weights.iter().all(|w| w.is_finite()));
            let weights = balancer.weights(&of_gram(&[1.0, 0.0, 0.0, 0.0], &losses, &[true; 2])).unwrap();
            assert!(weights.iter().all(|w| w.is_finite()));
        }
    }
}
