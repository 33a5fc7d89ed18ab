//! Stochastic gradient descent with momentum, as `torch.optim.SGD` with `dampening=0`.
//!
//! d = g + weight_decay·p;  b ← momentum·b + d;  p ← p − lr·(nesterov ? d + momentum·b : b).

use super::{DenseOptimizer, KEY, require};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: sgd}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sgd {
    /// Learning rate.
    lr: f64,
    /// Share of the previous direction that is kept.
    momentum: f64,
    /// Looks ahead along the new momentum.
    nesterov: bool,
    /// L2 penalty, added to the gradient.
    weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { lr: 0.01, momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

pub(super) fn build(component: &mut Component) -> Result<Box<dyn DenseOptimizer>> {
    let options: Sgd = component.options(KEY)?;
    require(KEY, "lr", options.lr, |x| x >= 0.0, "a number ≥ 0")?;
    require(KEY, "momentum", options.momentum, |x| (0.0..1.0).contains(&x), "a number in [0, 1)")?;
    require(KEY, "weight_decay", options.weight_decay, |x| x >= 0.0, "a number ≥ 0")?;
    if options.nesterov && options.momentum == 0.0 {
        return Err(Error::job("nesterov needs momentum").at("key", KEY).fix("give `momentum: 0.9`"));
    }
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl DenseOptimizer for Sgd {
    fn slot_names(&self) -> &'static [&'static str] {
        if self.momentum > 0.0 { &["momentum"] } else { &[] }
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn update(&self, params: &mut [f32], grads: &[f32], slots: &mut [Vec<f32>], lr: f64, _t: u64) {
        let (lr, decay, momentum) = (lr as f32, self.weight_decay as f32, self.momentum as f32);
        let [buffer] = slots else {
            for (p, g) in params.iter_mut().zip(grads) {
                *p -= lr * (g + decay * *p);
            }
            return;
        };
        // d + momentum·b for Nesterov and b alone for plain momentum, without a branch in the loop.
        let (of_gradient, of_buffer) = if self.nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        for ((p, g), b) in params.iter_mut().zip(grads).zip(buffer) {
            let d = g + decay * *p;
            *b = momentum * *b + d;
            *p -= lr * (of_gradient * d + of_buffer * *b);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::optim::testing::{assert_follows, run};

    #[test]
    fn two_steps_by_hand() {
        // p = 1, g = 0.5, then 0.25, with lr 0.1: b = 0.5, p = 0.95; b = 0.9·0.5 + 0.25 = 0.7, p = 0.88.
        let p = run("{kind: sgd, lr: 0.1, momentum: 0.9}", 1.0, &[0.5, 0.25]);
        assert!((p[0] - 0.95).abs() < 1e-6 && (p[1] - 0.88).abs() < 1e-6, "{p:?}");
        // Nesterov: d + 0.9·b = 0.95, p = 0.905; then 0.25 + 0.63 = 0.88, p = 0.817.
        let p = run("{kind: sgd, lr: 0.1, momentum: 0.9, nesterov: true}", 1.0, &[0.5, 0.25]);
        assert!((p[0] - 0.905).abs() < 1e-6 && (p[1] - 0.817).abs() < 1e-6, "{p:?}");
        // Weight decay: g + 0.1·p = 0.6, p = 0.94.
        let p = run("{kind: sgd, lr: 0.1, weight_decay: 0.1}", 1.0, &[0.5]);
        assert!((p[0] - 0.94).abs() < 1e-6, "{p:?}");
    }

    #[test]
    fn follows_a_float64_reference() {
        for (momentum, nesterov, decay) in [(0.0, false, 0.01), (0.9, false, 0.0), (0.8, true, 0.02)] {
            let job =
                format!("{{kind: sgd, lr: 0.05, momentum: {momentum}, nesterov: {nesterov}, weight_decay: {decay}}}");
            assert_follows(&job, |p, g, state, lr, _| {
                let d = g + decay * p;
                state[0] = momentum * state[0] + d;
                p - lr * if nesterov { d + momentum * state[0] } else { state[0] }
            });
        }
    }
}
