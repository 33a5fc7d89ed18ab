//! What all sparse optimizers have in common: clipping and L2.

use crate::embedding::options;
use crate::error::Result;

/// Checked `clip_norm` and `l2`, applied to the gradient of each row in this order: clipping limits what
/// the data says, not the decay.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shared {
    l2: f32,
    clip_norm: Option<f64>,
}

impl Shared {
    /// Checks the options of the optimizer at `key`.
    pub fn new(l2: f64, clip_norm: Option<f64>, key: &str) -> Result<Self> {
        options::check(l2 >= 0.0, key, "l2", l2, "a number ≥ 0")?;
        if let Some(norm) = clip_norm {
            options::check(norm > 0.0, key, "clip_norm", norm, "a number above 0, or leave it out")?;
        }
        Ok(Self { l2: l2 as f32, clip_norm })
    }

    /// The factor that brings the Euclidean norm of a row's gradient down to `clip_norm`; else 1.
    #[inline]
    pub fn scale(&self, grad: &[f32]) -> f32 {
        let Some(clip_norm) = self.clip_norm else {
            return 1.0;
        };
        let norm = grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        if norm > clip_norm { (clip_norm / norm) as f32 } else { 1.0 }
    }

    /// One element of the gradient after clipping by `scale` and with L2's `l2 · w` added.
    #[inline]
    pub fn regularise(&self, scale: f32, g: f32, w: f32) -> f32 {
        scale * g + self.l2 * w
    }
}
