//! Adagrad (Duchi, Hazan & Singer 2011), as `torch.optim.Adagrad`.
//!
//! g ← g + weight_decay·p;  s ← s + g²;  p ← p − lr/(1 + (t−1)·lr_decay) · g / (√s + eps).

use super::{DenseOptimizer, KEY, require};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: adagrad}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Adagrad {
    /// Learning rate.
    lr: f64,
    /// The rate is divided by 1 + (t − 1)·lr_decay.
    lr_decay: f64,
    /// Value of the sum of squares before the first update.
    initial_accumulator: f64,
    /// Added to the root of the sum of squares.
    eps: f64,
    /// L2 penalty, added to the gradient.
    weight_decay: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self { lr: 0.01, lr_decay: 0.0, initial_accumulator: 0.0, eps: 1e-10, weight_decay: 0.0 }
    }
}

pub(super) fn build(component: &mut Component) -> Result<Box<dyn DenseOptimizer>> {
    let options: Adagrad = component.options(KEY)?;
    for (name, value) in [
        ("lr", options.lr),
        ("lr_decay", options.lr_decay),
        ("initial_accumulator", options.initial_accumulator),
        ("eps", options.eps),
        ("weight_decay", options.weight_decay),
    ] {
        require(KEY, name, value, |x| x >= 0.0, "a number ≥ 0")?;
    }
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl DenseOptimizer for Adagrad {
    fn slot_names(&self) -> &'static [&'static str] {
        &["sum"]
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn update(&self, params: &mut [f32], grads: &[f32], slots: &mut [Vec<f32>], lr: f64, t: u64) {
        let [sum] = slots else {
            debug_assert!(false, "Adagrad has one slot");
            return;
        };
        let rate = (lr / (1.0 + t.saturating_sub(1) as f64 * self.lr_decay)) as f32;
        let (decay, eps) = (self.weight_decay as f32, self.eps as f32);
        // The slot starts at 0 like every slot, so the initial value is added where it is used.
        let initial = self.initial_accumulator as f32;
        for ((p, g), s) in params.iter_mut().zip(grads).zip(sum) {
            let g = g + decay * *p;
            *s += g * g;
            *p -= rate * g / ((*s + initial).sqrt() + eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::optim::testing::{assert_follows, run};

    #[test]
    fn two_steps_by_hand() {
        // g = 3: s = 9, p = 1 − 0.1 = 0.9; g = 4: s = 25, p = 0.9 − 0.1·4/5 = 0.82.
        let p = run("{kind: adagrad, lr: 0.1}", 1.0, &[3.0, 4.0]);
        assert!((p[0] - 0.9).abs() < 1e-6 && (p[1] - 0.82).abs() < 1e-6, "{p:?}");
    }

    #[test]
    fn a_zero_gradient_moves_nothing() {
        // eps beside the root of 0 keeps 0/0 away.
        assert_eq!(run("{kind: adagrad, lr: 0.1}", 1.0, &[0.0]), [1.0]);
    }

    #[test]
    fn follows_a_float64_reference() {
        let job = "{kind: adagrad, lr: 0.1, lr_decay: 0.05, initial_accumulator: 0.1, weight_decay: 0.01}";
        assert_follows(job, |p, g, s, lr, t| {
            let g = g + 0.01 * p;
            s[0] += g * g;
            p - lr / (1.0 + f64::from(t - 1) * 0.05) * g / ((s[0] + 0.1).sqrt() + 1e-10)
        });
    }
}
