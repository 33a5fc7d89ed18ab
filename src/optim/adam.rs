//! Adam (Kingma & Ba 2015), as `torch.optim.Adam`: weight decay is an L2 penalty on the gradient.

use super::moments::{self, Update};
use super::{DenseOptimizer, KEY};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: adam}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Adam {
    /// Learning rate.
    lr: f64,
    /// Decay of the first and second moment.
    betas: [f64; 2],
    /// Added to the bias-corrected root of the second moment.
    eps: f64,
    /// L2 penalty, added to the gradient before the moments.
    weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }
    }
}

pub(super) fn build(component: &mut Component) -> Result<Box<dyn DenseOptimizer>> {
    let options: Adam = component.options(KEY)?;
    moments::check(KEY, options.lr, options.betas, options.eps, options.weight_decay)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl DenseOptimizer for Adam {
    fn slot_names(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn update(&self, params: &mut [f32], grads: &[f32], slots: &mut [Vec<f32>], lr: f64, t: u64) {
        let update = Update { l2: self.weight_decay, shrink: 1.0, betas: self.betas, eps: self.eps, lr, t };
        update.apply(params, grads, slots);
    }
}

#[cfg(test)]
mod tests {
    use crate::optim::testing::{assert_follows, run};

    #[test]
    fn two_steps_by_hand() {
        // Step 1: m̂ = g, v̂ = g², so p = 1 − 0.1·sign(g) up to eps. Step 2 with g = −0.5:
        // m̂ = (0.9·0.05 − 0.05)/0.19 = −0.0263157895, v̂ = 0.25, so p += 0.1·0.0263157895/0.5.
        let p = run("{kind: adam, lr: 0.1}", 1.0, &[0.5, -0.5]);
        assert!((p[0] - 0.9).abs() < 1e-6 && (p[1] - 0.905_263_2).abs() < 1e-6, "{p:?}");
    }

    #[test]
    fn eps_stands_beside_the_corrected_root() {
        // With g = eps the corrected root is eps, so the first step is lr/2 only if eps is added after it.
        let p = run("{kind: adam, lr: 0.1, eps: 0.001}", 1.0, &[0.001]);
        assert!((p[0] - 0.95).abs() < 1e-6, "{p:?}");
    }

    #[test]
    fn follows_a_float64_reference() {
        assert_follows(
            "{kind: adam, lr: 0.01, betas: [0.8, 0.95], eps: 1.0e-6, weight_decay: 0.1}",
            |p, g, s, lr, t| {
                let g = g + 0.1 * p;
                s[0] = 0.8 * s[0] + 0.2 * g;
                s[1] = 0.95 * s[1] + 0.05 * g * g;
                let (m, v) = (s[0] / (1.0 - 0.8f64.powi(t)), s[1] / (1.0 - 0.95f64.powi(t)));
                p - lr * m / (v.sqrt() + 1e-6)
            },
        );
    }
}
