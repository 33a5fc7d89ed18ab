//! Adagrad: one accumulator per element (Duchi, Hazan & Singer 2011).

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

/// Checked options, which row-wise Adagrad has too.
#[derive(Debug)]
pub(super) struct Adagrad {
    pub lr: f64,
    pub eps: f32,
    pub initial_accumulator: f32,
    pub shared: Shared,
}

/// Builds it from `component` at `key`.
pub fn build(component: &mut Component, key: &str) -> Result<Optimizer> {
    Ok(Box::new(read(component, key)?))
}

/// Reads, checks and resolves the options of `component` at `key`.
pub(super) fn read(component: &mut Component, key: &str) -> Result<Adagrad> {
    let options: Options = component.options(key)?;
    check_lr(options.lr, key)?;
    options::check(options.eps > 0.0, key, "eps", options.eps, "a number above 0")?;
    let start = options.initial_accumulator;
    options::check(start >= 0.0, key, "initial_accumulator", start, "a number ≥ 0")?;
    component.resolve(&options)?;
    Ok(Adagrad {
        lr: options.lr,
        eps: options.eps as f32,
        initial_accumulator: start as f32,
        shared: Shared::new(options.l2, options.clip_norm, key)?,
    })
}

impl SparseOptimizer for Adagrad {
    fn slots(&self, dim: usize) -> Vec<Slot> {
        vec![Slot { name: "accumulator", width: dim }]
    }

    fn init(&self, _values: &[f32], state: &mut [f32]) {
        state.fill(self.initial_accumulator);
    }

    fn update(&self, values: &mut [f32], state: &mut [f32], grad: &[f32], lr_factor: f64) {
        let scale = self.shared.scale(grad);
        let lr = (self.lr * lr_factor) as f32;
        for ((w, sum), &g) in values.iter_mut().zip(state).zip(grad) {
            let g = self.shared.regularise(scale, g, *w);
            *sum += g * g;
            *w -= lr * g / (sum.sqrt() + self.eps);
        }
    }
}
