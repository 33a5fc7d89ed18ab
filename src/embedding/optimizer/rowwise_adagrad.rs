//! Row-wise Adagrad: one accumulator per row, the mean of its squared gradients (Naumov et al. 2019,
//! "Deep Learning Recommendation Model", section on parallelism; Mudigere et al. 2022, section 4.1.4).

use super::{Optimizer, Shared, Slot, SparseOptimizer, check_lr};
use crate::config::Component;
use crate::embedding::options;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options, as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    lr: f64,
    eps: f64,
    initial_accumulator: f64,
    l2: f64,
    clip_norm: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { lr: 0.02, eps: 1e-8, initial_accumulator: 0.0, l2: 0.0, clip_norm: None }
    }
}

#[derive(Debug)]
struct RowwiseAdagrad {
    lr: f64,
    eps: f32,
    initial_accumulator: f32,
    shared: Shared,
}

/// Builds it from `component` at `key`.
pub fn build(component: &mut Component, key: &str) -> Result<Optimizer> {
    let options: Options = component.options(key)?;
    check_lr(options.lr, key)?;
    options::check(options.eps > 0.0, key, "eps", options.eps, "a number above 0")?;
    let start = options.initial_accumulator;
    options::check(start >= 0.0, key, "initial_accumulator", start, "a number ≥ 0")?;
    component.resolve(&options)?;
    Ok(Box::new(RowwiseAdagrad {
        lr: options.lr,
        eps: options.eps as f32,
        initial_accumulator: start as f32,
        shared: Shared::new(options.l2, options.clip_norm, key)?,
    }))
}

impl RowwiseAdagrad {
    /// The sum of squares of the gradient, in eight running sums: one would wait for itself at each addition.
    #[inline]
    fn squares(&self, scale: f32, values: &[f32], grad: &[f32]) -> f32 {
        let mut sums = [0.0; 8];
        let (values, last_values) = values.as_chunks::<8>();
        let (grad, last_grad) = grad.as_chunks::<8>();
        for (values, grad) in values.iter().zip(grad) {
            for ((sum, &w), &g) in sums.iter_mut().zip(values).zip(grad) {
                let g = self.shared.regularise(scale, g, w);
                *sum += g * g;
            }
        }
        for ((sum, &w), &g) in sums.iter_mut().zip(last_values).zip(last_grad) {
            let g = self.shared.regularise(scale, g, w);
            *sum += g * g;
        }
        sums.iter().sum()
    }
}

impl SparseOptimizer for RowwiseAdagrad {
    fn slots(&self, _dim: usize) -> Vec<Slot> {
        vec![Slot { name: "accumulator", width: 1 }]
    }

    fn init(&self, _values: &[f32], state: &mut [f32]) {
        state.fill(self.initial_accumulator);
    }

    fn update(&self, values: &mut [f32], state: &mut [f32], grad: &[f32], lr_factor: f64) {
        let scale = self.shared.scale(grad);
        state[0] += self.squares(scale, values, grad) / grad.len() as f32;
        let rate = (self.lr * lr_factor) as f32 / (state[0].sqrt() + self.eps);
        for (w, &g) in values.iter_mut().zip(grad) {
            *w -= rate * self.shared.regularise(scale, g, *w);
        }
    }
}
