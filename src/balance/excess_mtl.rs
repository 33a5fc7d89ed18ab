//! ExcessMTL (He et al., ICML 2024): weights follow the tasks' *excess* risk, how far a task still is from its own
//! optimum, so that a noisy label cannot attract weight by its irreducible loss. It is estimated by the gradient in
//! the metric of a diagonal curvature (Adagrad's sum H of squares):
//!
//!   H_k ← H_k + g_k²       e_k = g_kᵀ (H_k + ε)^{−½} g_k       w_k ← w_k · exp(η e_k/e_k⁰),  Σ w = K       d = Σ w_k g_k
//!
//! e⁰ is the estimate of the first step.

use super::slices::{OnSlices, Slices, Sum, add_scaled, alone};
use super::{Balancer, KEY, Needs, Signal, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: excess_mtl}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Step size η of the weights.
    lr: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { lr: 1e-2 }
    }
}

/// Keeps a coordinate that never had a gradient from dividing by zero.
const EPSILON: f64 = 1e-7;

#[derive(Debug)]
struct ExcessMtl {
    options: Options,
    tasks: usize,
    /// log w of each task, then e⁰ of each task (0: not seen yet).
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let tasks = names.len();
    let options: Options = component.options(KEY)?;
    if !(options.lr >= 0.0 && options.lr.is_finite()) {
        return Err(Error::job(format!("lr is {}", options.lr)).at("key", "balance.lr").fix("give a number ≥ 0"));
    }
    component.resolve(&options)?;
    Ok(Box::new(ExcessMtl { options, tasks, state: vec![0.0; 2 * tasks] }))
}

impl Balancer for ExcessMtl {
    fn needs(&self) -> Needs {
        Needs::Slices
    }

    fn on_slices(&mut self) -> Option<&mut dyn OnSlices> {
        Some(self)
    }

    remembers!(state);
}

impl OnSlices for ExcessMtl {
    fn slots(&self) -> Vec<String> {
        (0..self.tasks).map(|task| format!("squares.{task}")).collect()
    }

    fn direction(
        &mut self,
        signal: &Signal,
        slices: &Slices,
        slots: &mut [&mut [f32]],
        direction: &mut [f32],
        sum: Sum,
    ) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let present = signal.present();
        let mut excess: Vec<f64> = present.iter().map(|&task| curved_square(slices.of(task), slots[task])).collect();
        sum(&mut excess)?;
        if let Some(weights) = alone(signal, slices, direction) {
            return Ok(weights);
        }
        let (log_weights, initial) = self.state.split_at_mut(self.tasks);
        for (&task, excess) in present.iter().zip(excess) {
            if initial[task] > 0.0 {
                log_weights[task] += self.options.lr * excess / initial[task];
            } else {
                initial[task] = excess;
            }
        }
        let weights = normalised(log_weights, &present);
        for &task in &present {
            add_scaled(direction, weights[task], slices.of(task));
        }
        Ok(weights)
    }
}

/// Adds the squares of `gradient` to `squares`, and returns Σ g²/√(squares + ε).
fn curved_square(gradient: &[f32], squares: &mut [f32]) -> f64 {
    let each = gradient.iter().zip(squares).map(|(&g, h)| {
        *h += g * g;
        f64::from(g) * f64::from(g) / (f64::from(*h) + EPSILON).sqrt()
    });
    each.sum()
}

/// e^{x} over the present tasks, so scaled that they sum to their number. The logarithms are kept near 0, so that a
/// long run cannot overflow them.
fn normalised(log_weights: &mut [f64], present: &[usize]) -> Vec<f64> {
    let most = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    log_weights.iter_mut().for_each(|x| *x -= most);
    let sum: f64 = present.iter().map(|&task| libm::exp(log_weights[task])).sum();
    let mut weights = vec![0.0; log_weights.len()];
    for &task in present {
        weights[task] = libm::exp(log_weights[task]) * present.len() as f64 / sum;
    }
    weights
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, method, sliced};

    #[test]
    fn the_first_step_is_the_sum_and_the_second_follows_the_excess() {
        let mut balancer = method("{kind: excess_mtl, lr: 1}", 2);
        let mut kept = Vec::new();
        let (d, w) = sliced(balancer.as_mut(), &[vec![2.0, 0.0], vec![0.0, 3.0]], &[1.0, 1.0], &mut kept, &[true; 2]);
        assert_close(&d, &[2.0, 3.0], 1e-6);
        assert_close(&w, &[1.0, 1.0], 0.0);
        // e⁰ = (2, 3). Now H = (8, 10): e = (4/√8, 1/√10).
        let (_, w) = sliced(balancer.as_mut(), &[vec![2.0, 0.0], vec![0.0, 1.0]], &[1.0, 1.0], &mut kept, &[true; 2]);
        let (a, b) = ((4.0 / 8f64.sqrt() / 2.0).exp(), (1.0 / 10f64.sqrt() / 3.0).exp());
        assert_close(&w, &[2.0 * a / (a + b), 2.0 * b / (a + b)], 1e-5);
    }

    #[test]
    fn weights_stay_finite_over_a_long_run() {
        let mut balancer = method("{kind: excess_mtl, lr: 100}", 2);
        let mut kept = Vec::new();
        for _ in 0..500 {
            let (_, w) = sliced(balancer.as_mut(), &[vec![1.0], vec![0.1]], &[1.0, 1.0], &mut kept, &[true; 2]);
            assert!(w.iter().all(|w| w.is_finite()) && (w.iter().sum::<f64>() - 2.0).abs() < 1e-9, "{w:?}");
        }
    }
}
