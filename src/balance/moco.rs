//! MoCo (Fernando et al., ICLR 2023): multi-objective gradient correction. A moving average y_k tracks each task's
//! gradient, and λ follows the gradient of ‖Yᵀλ‖² instead of solving for its minimum in every noisy step:
//!
//!   y_k ← y_k − β_t(y_k − ĝ_k)  with ĝ_k = L_k · g_k/‖g_k‖       λ ← softmax(λ − γ_t(YYᵀ + ρI)λ)       d = Yᵀλ
//!
//! with β_t = β/t^a and γ_t = γ/t^b. The paper projects λ onto the simplex; its public code takes the softmax, and so
//! does this.

use super::gram::partial_of;
use super::slices::{OnSlices, Slices, Sum, add_scaled, alone};
use super::softmax::softmax;
use super::{Balancer, KEY, Needs, Signal, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: moco}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Step size of the average at t = 1.
    beta: f64,
    /// How fast it falls: β/t^beta_sigma.
    beta_sigma: f64,
    /// Step size of λ at t = 1.
    gamma: f64,
    /// How fast it falls.
    gamma_sigma: f64,
    /// Added to the diagonal of YYᵀ.
    rho: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { beta: 0.5, beta_sigma: 0.5, gamma: 0.1, gamma_sigma: 0.5, rho: 0.0 }
    }
}

#[derive(Debug)]
struct MoCo {
    options: Options,
    /// λ of each task, then the number of steps.
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let tasks = names.len();
    let options: Options = component.options(KEY)?;
    let Options { beta, beta_sigma, gamma, gamma_sigma, rho } = options;
    if !(beta > 0.0 && beta <= 1.0 && [beta_sigma, gamma, gamma_sigma, rho].iter().all(|v| *v >= 0.0 && v.is_finite()))
    {
        return Err(Error::job("moco needs 0 < `beta` ≤ 1 and all other options ≥ 0").at("key", KEY));
    }
    component.resolve(&options)?;
    let mut state = vec![1.0 / tasks as f64; tasks];
    state.push(0.0);
    Ok(Box::new(MoCo { options, state }))
}

impl Balancer for MoCo {
    fn needs(&self) -> Needs {
        Needs::Slices
    }

    fn on_slices(&mut self) -> Option<&mut dyn OnSlices> {
        Some(self)
    }

    remembers!(state);
}

impl OnSlices for MoCo {
    fn slots(&self) -> Vec<String> {
        (0..self.state.len() - 1).map(|task| format!("tracking.{task}")).collect()
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
        let (present, tasks) = (signal.present(), slices.tasks);
        let Some((steps, lambda)) = self.state.split_last_mut() else { return Ok(Vec::new()) };
        *steps += 1.0;
        let beta = self.options.beta / libm::pow(*steps, self.options.beta_sigma);
        let gamma = self.options.gamma / libm::pow(*steps, self.options.gamma_sigma);
        // Of ĝ = L·g/‖g‖; a zero gradient stays zero.
        let scale = |task: usize| {
            let norm = signal.gram[task * tasks + task].max(0.0).sqrt();
            if norm > 0.0 { signal.losses[task] / norm } else { 0.0 }
        };
        for &task in &present {
            let (old, new) = ((1.0 - beta) as f32, (beta * scale(task)) as f32);
            slots[task].iter_mut().zip(slices.of(task)).for_each(|(y, &g)| *y = old * *y + new * g);
        }
        let tracked: Vec<&[f32]> = present.iter().map(|&task| &*slots[task]).collect();
        let mut gram = partial_of(&tracked);
        sum(&mut gram)?;
        if let Some(weights) = alone(signal, slices, direction) {
            return Ok(weights);
        }
        let n = present.len();
        let old: Vec<f64> = present.iter().map(|&task| lambda[task]).collect();
        let slope = |i: usize| (0..n).map(|j| gram[i * n + j] * old[j]).sum::<f64>() + self.options.rho * old[i];
        let moved: Vec<f64> = (0..n).map(|i| old[i] - gamma * slope(i)).collect();
        let mut weights = vec![0.0; tasks];
        for ((&task, new), y) in present.iter().zip(softmax(&moved)).zip(&tracked) {
            lambda[task] = new;
            add_scaled(direction, new, y);
            weights[task] = new * scale(task);
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, method, sliced};

    #[test]
    fn the_first_step_by_hand() {
        // β₁ = ½: y = ½·L·g/‖g‖ = (1, 0) and (0, ½); λ = ½ − 0.1·(½·1, ½·¼) = (0.45, 0.4875), then the softmax.
        let mut balancer = method("{kind: moco}", 2);
        let (d, w) =
            sliced(balancer.as_mut(), &[vec![5.0, 0.0], vec![0.0, 3.0]], &[2.0, 1.0], &mut Vec::new(), &[true; 2]);
        let first = 0.45f64.exp() / (0.45f64.exp() + 0.4875f64.exp());
        assert_close(&d, &[first, 0.5 * (1.0 - first)], 1e-6);
        assert_close(&w, &[first * 2.0 / 5.0, (1.0 - first) / 3.0], 1e-6);
        assert_close(&balancer.state(), &[first, 1.0 - first, 1.0], 1e-9);
    }

    #[test]
    fn lambda_moves_to_the_task_of_the_smaller_tracked_gradient() {
        let mut balancer = method("{kind: moco, gamma_sigma: 0, gamma: 1}", 2);
        let mut kept = Vec::new();
        for _ in 0..50 {
            sliced(balancer.as_mut(), &[vec![1.0, 0.0], vec![0.0, 1.0]], &[2.0, 0.5], &mut kept, &[true; 2]);
        }
        assert!(balancer.state()[1] > 0.6, "{:?}", balancer.state());
    }
}
