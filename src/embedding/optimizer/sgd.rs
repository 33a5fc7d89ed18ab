//! Stochastic gradient descent, with momentum if asked. The momentum of a row rests between its updates.

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
    momentum: f64,
    l2: f64,
    clip_norm: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { lr: 0.1, momentum: 0.0, l2: 0.0, clip_norm: None }
    }
}

#[derive(Debug)]
struct Sgd {
    lr: f64,
    momentum: f32,
    shared: Shared,
}

/// Builds it from `component` at `key`.
pub fn build(component: &mut Component, key: &str) -> Result<Optimizer> {
    let options: Options = component.options(key)?;
    check_lr(options.lr, key)?;
    let momentum = options.momentum;
    options::check((0.0..1.0).contains(&momentum), key, "momentum", momentum, "a number from 0 to below 1")?;
    component.resolve(&options)?;
    let shared = Shared::new(options.l2, options.clip_norm, key)?;
    Ok(Box::new(Sgd { lr: options.lr, momentum: momentum as f32, shared }))
}

impl SparseOptimizer for Sgd {
    fn slots(&self, dim: usize) -> Vec<Slot> {
        if self.momentum == 0.0 { Vec::new() } else { vec![Slot { name: "momentum", width: dim }] }
    }

    fn update(&self, values: &mut [f32], state: &mut [f32], grad: &[f32], lr_factor: f64) {
        let scale = self.shared.scale(grad);
        let lr = (self.lr * lr_factor) as f32;
        if state.is_empty() {
            for (w, &g) in values.iter_mut().zip(grad) {
                *w -= lr * self.shared.regularise(scale, g, *w);
            }
            return;
        }
        for ((w, velocity), &g) in values.iter_mut().zip(state).zip(grad) {
            *velocity = self.momentum * *velocity + self.shared.regularise(scale, g, *w);
            *w -= lr * *velocity;
        }
    }
}
