//! The moments that Adam and AdamW share (Kingma & Ba 2015, algorithm 1).

use super::require;
use crate::error::Result;

/// Checks the options that Adam and AdamW have in common.
pub(super) fn check(key: &str, lr: f64, betas: [f64; 2], eps: f64, weight_decay: f64) -> Result<()> {
    require(key, "lr", lr, |x| x >= 0.0, "a number ≥ 0")?;
    for beta in betas {
        require(key, "betas", beta, |x| (0.0..1.0).contains(&x), "two numbers in [0, 1)")?;
    }
    require(key, "eps", eps, |x| x >= 0.0, "a number ≥ 0")?;
    require(key, "weight_decay", weight_decay, |x| x >= 0.0, "a number ≥ 0")
}

/// The scalars of one Adam update.
///
/// m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
/// p ← shrink·p − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + eps).
///
/// eps is added to the *bias-corrected* root, as PyTorch does (the paper's "ε-hat" variant adds it before).
pub(super) struct Update {
    /// Added to the gradient, times the parameter (L2).
    pub l2: f64,
    /// Factor of the parameter itself (decoupled decay).
    pub shrink: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub lr: f64,
    /// Counts from 1.
    pub t: u64,
}

impl Update {
    /// Applies the update to a slice; `slots` are m and v.
    pub fn apply(&self, params: &mut [f32], grads: &[f32], slots: &mut [Vec<f32>]) {
        let [m, v] = slots else {
            debug_assert!(false, "Adam has two slots");
            return;
        };
        let t = self.t as f64;
        let step = (self.lr / (1.0 - self.betas[0].powf(t))) as f32;
        let root = (1.0 / (1.0 - self.betas[1].powf(t)).sqrt()) as f32;
        let (b1, c1) = (self.betas[0] as f32, (1.0 - self.betas[0]) as f32);
        let (b2, c2) = (self.betas[1] as f32, (1.0 - self.betas[1]) as f32);
        let (l2, shrink, eps) = (self.l2 as f32, self.shrink as f32, self.eps as f32);
        for (((p, g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
            let g = g + l2 * *p;
            *m = b1 * *m + c1 * g;
            *v = b2 * *v + c2 * g * g;
            *p = shrink * *p - step * *m / (v.sqrt() * root + eps);
        }
    }
}
