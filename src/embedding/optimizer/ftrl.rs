//! FTRL-Proximal (McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", algorithm 1).
//!
//! ```text
//! σ = (√(n + g²) − √n) / α      z += g − σ w      n += g²
//! w = 0 if |z| ≤ λ1, else −(z − sign(z) λ1) / ((β + √n) / α + λ2)
//! ```
//!
//! Two choices the paper leaves open. A new row starts at the z whose closed form is its initial values,
//! for w is a function of z alone and would forget them. And the schedule's factor multiplies g inside z,
//! not α: the closed form divides the whole history by α, so that a warm-up of α would rescale the row.
//! With a factor of 1 both are the paper's algorithm.

use super::{Optimizer, Shared, Slot, SparseOptimizer, check_lr};
use crate::config::Component;
use crate::embedding::options;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options, as written. `l2` is λ2 of the closed form.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    lr: f64,
    beta: f64,
    l1: f64,
    initial_accumulator: f64,
    l2: f64,
    clip_norm: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { lr: 0.05, beta: 1.0, l1: 0.0, initial_accumulator: 0.0, l2: 0.0, clip_norm: None }
    }
}

#[derive(Debug)]
struct Ftrl {
    lr: f32,
    beta: f32,
    l1: f32,
    l2: f32,
    initial_accumulator: f32,
    shared: Shared,
}

/// Builds it from `component` at `key`.
pub fn build(component: &mut Component, key: &str) -> Result<Optimizer> {
    let options: Options = component.options(key)?;
    check_lr(options.lr, key)?;
    let Options { lr, beta, l1, l2, initial_accumulator, clip_norm } = options;
    for (name, value) in [("beta", beta), ("l1", l1), ("l2", l2), ("initial_accumulator", initial_accumulator)] {
        options::check(value >= 0.0, key, name, value, "a number ≥ 0")?;
    }
    options::check(
        beta + initial_accumulator > 0.0,
        key,
        "beta",
        beta,
        "a number above 0 (or an initial_accumulator)",
    )?;
    component.resolve(&options)?;
    Ok(Box::new(Ftrl {
        lr: lr as f32,
        beta: beta as f32,
        l1: l1 as f32,
        l2: l2 as f32,
        initial_accumulator: initial_accumulator as f32,
        shared: Shared::new(0.0, clip_norm, key)?,
    }))
}

impl Ftrl {
    fn curvature(&self, n: f32) -> f32 {
        (self.beta + n.sqrt()) / self.lr + self.l2
    }
}

impl SparseOptimizer for Ftrl {
    fn slots(&self, dim: usize) -> Vec<Slot> {
        vec![Slot { name: "z", width: dim }, Slot { name: "n", width: dim }]
    }

    fn init(&self, values: &[f32], state: &mut [f32]) {
        let (z, n) = state.split_at_mut(values.len());
        n.fill(self.initial_accumulator);
        let curvature = self.curvature(self.initial_accumulator);
        for (z, &w) in z.iter_mut().zip(values) {
            let l1 = if w == 0.0 { 0.0 } else { self.l1.copysign(w) };
            *z = -w * curvature - l1;
        }
    }

    fn update(&self, values: &mut [f32], state: &mut [f32], grad: &[f32], lr_factor: f64) {
        let scale = self.shared.scale(grad);
        let factor = lr_factor as f32;
        let (z, n) = state.split_at_mut(values.len());
        for (((w, z), n), &g) in values.iter_mut().zip(z).zip(n).zip(grad) {
            let g = scale * g;
            let sum = *n + g * g;
            let sigma = (sum.sqrt() - n.sqrt()) / self.lr;
            *z += factor * g - sigma * *w;
            *n = sum;
            let shrunk = (z.abs() - self.l1).max(0.0);
            *w = -shrunk.copysign(*z) / self.curvature(sum);
        }
    }
}
