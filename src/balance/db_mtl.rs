//! DB-MTL (Lin et al. 2023): dual balancing. Losses are balanced by their logarithm, whose gradient is g_k/L_k;
//! gradients by dividing the moving average m_k of that by its norm and giving all the largest norm:
//!
//!   m_k ← ĝ_k + (β/t^σ)(m_k − ĝ_k)  with ĝ_k = g_k/(L_k + 1e-8)        d = max_j‖m_j‖ · Σ_k m_k/‖m_k‖
//!
//! The task-specific parameters keep their plain gradient, as with every method that sees gradients.

use super::slices::{OnSlices, Slices, Sum, add_scaled, alone, squares};
use super::{Balancer, KEY, Needs, Signal, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: db_mtl}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Share of the old average in the new one. 0: no average.
    beta: f64,
    /// How fast that share falls with the step t: β/t^σ.
    sigma: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { beta: 0.9, sigma: 0.0 }
    }
}

/// Keeps a loss of 0 from dividing by zero.
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
struct DbMtl {
    options: Options,
    tasks: usize,
    /// Steps in which each task was there.
    steps: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let tasks = names.len();
    let options: Options = component.options(KEY)?;
    if !((0.0..1.0).contains(&options.beta) && options.sigma >= 0.0 && options.sigma.is_finite()) {
        return Err(Error::job("db_mtl needs 0 ≤ `beta` < 1 and a `sigma` ≥ 0").at("key", KEY));
    }
    component.resolve(&options)?;
    Ok(Box::new(DbMtl { options, tasks, steps: vec![0.0; tasks] }))
}

impl Balancer for DbMtl {
    fn needs(&self) -> Needs {
        Needs::Slices
    }

    fn on_slices(&mut self) -> Option<&mut dyn OnSlices> {
        Some(self)
    }

    remembers!(steps);
}

impl OnSlices for DbMtl {
    fn slots(&self) -> Vec<String> {
        (0..self.tasks).map(|task| format!("average.{task}")).collect()
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
        let scale = |task: usize| 1.0 / (signal.losses[task].max(0.0) + EPSILON);
        for &task in &present {
            self.steps[task] += 1.0;
            let old = (self.options.beta / libm::pow(self.steps[task], self.options.sigma)) as f32;
            let new = (1.0 - f64::from(old)) * scale(task);
            for (average, &gradient) in slots[task].iter_mut().zip(slices.of(task)) {
                *average = old * *average + new as f32 * gradient;
            }
        }
        let averages: Vec<&[f32]> = present.iter().map(|&task| &*slots[task]).collect();
        let norms: Vec<f64> = squares(&averages, sum)?.into_iter().map(f64::sqrt).collect();
        if let Some(weights) = alone(signal, slices, direction) {
            return Ok(weights);
        }
        let largest = norms.iter().copied().fold(0.0, f64::max);
        let mut weights = vec![0.0; slices.tasks];
        for ((&task, average), norm) in present.iter().zip(&averages).zip(norms) {
            // A task whose average is zero has no direction to add.
            let factor = if norm > 0.0 { largest / norm } else { 0.0 };
            add_scaled(direction, factor, average);
            weights[task] = factor * scale(task);
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, method, sliced};

    #[test]
    fn two_steps_by_hand() {
        // β = ½. Step 1: m = ½g/L = (1, 0)·½/2 and (0, 1)·½/1 = (¼, 0) and (0, ½); the largest norm is ½.
        let mut balancer = method("{kind: db_mtl, beta: 0.5}", 2);
        let rows = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let mut kept = Vec::new();
        let (d, w) = sliced(balancer.as_mut(), &rows, &[2.0, 1.0], &mut kept, &[true; 2]);
        assert_close(&d, &[0.5, 0.5], 1e-6);
        assert_close(&w, &[2.0 * 0.5, 1.0], 1e-6);
        // Step 2 with the first gradient turned: m₁ = (⅛, ½·½·… ) stays an average of both.
        let rows = [vec![0.0, 1.0], vec![0.0, 1.0]];
        let (d, _) = sliced(balancer.as_mut(), &rows, &[2.0, 1.0], &mut kept, &[true; 2]);
        // m₁ = (⅛, ¼), m₂ = (0, ¾): d = ¾·m₁/‖m₁‖ + m₂.
        let norm = (1.0f64 / 64.0 + 1.0 / 16.0).sqrt();
        assert_close(&d, &[0.75 * 0.125 / norm, 0.75 * 0.25 / norm + 0.75], 1e-6);
    }

    #[test]
    fn the_scale_of_a_loss_does_not_matter() {
        let rows = |c: f64| [vec![c, 2.0 * c, -c], vec![0.3, 0.1, 0.2]];
        let of = |c: f64| {
            let mut balancer = method("{kind: db_mtl}", 2);
            let mut kept = Vec::new();
            for _ in 0..3 {
                sliced(balancer.as_mut(), &rows(c), &[c, 0.7], &mut kept, &[true; 2]);
            }
            sliced(balancer.as_mut(), &rows(c), &[c, 0.7], &mut kept, &[true; 2]).0
        };
        assert_close(&of(1.0), &of(1024.0), 1e-5);
    }
}
