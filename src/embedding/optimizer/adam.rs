//! Lazy Adam (Kingma & Ba 2015, algorithm 1): moments and the step of the bias correction belong to the row,
//! so a rare row is corrected for its own few updates, not for the steps of the run.

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
    beta1: f64,
    beta2: f64,
    eps: f64,
    l2: f64,
    clip_norm: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, l2: 0.0, clip_norm: None }
    }
}

#[derive(Debug)]
struct Adam {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f32,
    shared: Shared,
}

/// Builds it from `component` at `key`.
pub fn build(component: &mut Component, key: &str) -> Result<Optimizer> {
    let options: Options = component.options(key)?;
    check_lr(options.lr, key)?;
    for (name, beta) in [("beta1", options.beta1), ("beta2", options.beta2)] {
        options::check((0.0..1.0).contains(&beta), key, name, beta, "a number from 0 to below 1")?;
    }
    options::check(options.eps > 0.0, key, "eps", options.eps, "a number above 0")?;
    component.resolve(&options)?;
    Ok(Box::new(Adam {
        lr: options.lr,
        beta1: options.beta1,
        beta2: options.beta2,
        eps: options.eps as f32,
        shared: Shared::new(options.l2, options.clip_norm, key)?,
    }))
}

impl SparseOptimizer for Adam {
    fn slots(&self, dim: usize) -> Vec<Slot> {
        // The count of updates is exact in a float up to 2^24, where the correction has long been 1.
        vec![Slot { name: "m", width: dim }, Slot { name: "v", width: dim }, Slot { name: "t", width: 1 }]
    }

    fn update(&self, values: &mut [f32], state: &mut [f32], grad: &[f32], lr_factor: f64) {
        let scale = self.shared.scale(grad);
        let (m, rest) = state.split_at_mut(values.len());
        let (v, t) = rest.split_at_mut(values.len());
        t[0] += 1.0;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(f64::from(t[0])));
        let rate = (self.lr * lr_factor * correction(self.beta1)) as f32;
        let second = correction(self.beta2) as f32;
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        let (new1, new2) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32);
        for (((w, m), v), &g) in values.iter_mut().zip(m).zip(v).zip(grad) {
            let g = self.shared.regularise(scale, g, *w);
            *m = beta1 * *m + new1 * g;
            *v = beta2 * *v + new2 * g * g;
            *w -= rate * *m / ((*v * second).sqrt() + self.eps);
        }
    }
}
