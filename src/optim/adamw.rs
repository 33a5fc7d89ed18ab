//! AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW`: the parameter itself decays by
//! `1 − lr·weight_decay` before Adam's step.

use super::moments::{self, Update};
use super::{DenseOptimizer, KEY};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: adamw}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AdamW {
    /// Learning rate.
    lr: f64,
    /// Decay of the first and second moment.
    betas: [f64; 2],
    /// Added to the bias-corrected root of the second moment.
    eps: f64,
    /// Decoupled weight decay.
    weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2 }
    }
}

pub(super) fn build(component: &mut Component) -> Result<Box<dyn DenseOptimizer>> {
    let options: AdamW = component.options(KEY)?;
    moments::check(KEY, options.lr, options.betas, options.eps, options.weight_decay)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl DenseOptimizer for AdamW {
    fn slot_names(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn update(&self, params: &mut [f32], grads: &[f32], slots: &mut [Vec<f32>], lr: f64, t: u64) {
        let shrink = 1.0 - lr * self.weight_decay;
        Update { l2: 0.0, shrink, betas: self.betas, eps: self.eps, lr, t }.apply(params, grads, slots);
    }
}

#[cfg(test)]
mod tests {
    use crate::optim::testing::{assert_follows, run};

    #[test]
    fn decay_does_not_pass_through_the_moments() {
        // p = 1·(1 − 0.1·0.5) − 0.1·sign(g) = 0.85.
        let p = run("{kind: adamw, lr: 0.1, weight_decay: 0.5}", 1.0, &[3.0]);
        assert!((p[0] - 0.85).abs() < 1e-6, "{p:?}");
    }

    #[test]
    fn follows_a_float64_reference() {
        assert_follows("{kind: adamw, lr: 0.01, weight_decay: 0.3}", |p, g, s, lr, t| {
            s[0] = 0.9 * s[0] + 0.1 * g;
            s[1] = 0.999 * s[1] + 0.001 * g * g;
            let (m, v) = (s[0] / (1.0 - 0.9f64.powi(t)), s[1] / (1.0 - 0.999f64.powi(t)));
            p * (1.0 - lr * 0.3) - lr * m / (v.sqrt() + 1e-8)
        });
    }
}
