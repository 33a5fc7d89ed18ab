//! Row-wise Adagrad: one accumulator per row, the mean of its squared gradients (Naumov et al. 2019,
//! "Deep Learning Recommendation Model", section on parallelism; Mudigere et al. 2022, section 4.1.4).

use super::adagrad::{self, Adagrad};
use super::{Optimizer, Slot, SparseOptimizer};
use crate::config::Component;
use crate::error::Result;

#[derive(Debug)]
struct RowwiseAdagrad(Adagrad);

/// Builds it from `component` at `key`; the options are Adagrad's.
pub fn build(component: &mut Component, key: &str) -> Result<Optimizer> {
    Ok(Box::new(RowwiseAdagrad(adagrad::read(component, key)?)))
}

impl RowwiseAdagrad {
    /// The sum of squares of the gradient, in eight running sums: one would wait for itself at each addition.
    #[inline]
    fn squares(&self, scale: f32, values: &[f32], grad: &[f32]) -> f32 {
        let mut sums = [0.0; 8];
        let (values, last_values) = values.as_chunks::<8>();
        let (grad, last_grad) = grad.as_chunks::<8>();
        for (values, grad) in values.iter().zip(grad) {
            for ((sum, &w), &g) in sums.iter_mut().zip(values).zip(grad) {
                let g = self.0.shared.regularise(scale, g, w);
                *sum += g * g;
            }
        }
        for ((sum, &w), &g) in sums.iter_mut().zip(last_values).zip(last_grad) {
            let g = self.0.shared.regularise(scale, g, w);
            *sum += g * g;
        }
        sums.iter().sum()
    }
}

impl SparseOptimizer for RowwiseAdagrad {
    fn slots(&self, _dim: usize) -> Vec<Slot> {
        vec![Slot { name: "accumulator", width: 1 }]
    }

    fn init(&self, _values: &[f32], state: &mut [f32]) {
        state.fill(self.0.initial_accumulator);
    }

    fn update(&self, values: &mut [f32], state: &mut [f32], grad: &[f32], lr_factor: f64) {
        let scale = self.0.shared.scale(grad);
        state[0] += self.squares(scale, values, grad) / grad.len() as f32;
        let rate = (self.0.lr * lr_factor) as f32 / (state[0].sqrt() + self.0.eps);
        for (w, &g) in values.iter_mut().zip(grad) {
            *w -= rate * self.0.shared.regularise(scale, g, *w);
        }
    }
}
