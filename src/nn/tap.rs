//! The gradient of the model's input, computed once for all tasks.
//!
//! With one backward pass per task, dx_k = Σ_layers dz_k · Wᵀ over the layers that read the input x is a third
//! of the work of the widest layer, K times over, while only Σ_k w_k dx_k is needed. So the input is cut off
//! from the graph, each first layer leaves its dz_k here instead of computing dx_k, and when the weights are
//! known
//!
//! ```text
//! dx = Σ_layers (Σ_k w_k dz_k) · Wᵀ        then on to the embeddings, once
//! ```

use super::floats::{self, Floats};
use super::gemm::{Matrix, multiply};
use super::{parallel, seed::backward_from};
use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId};
use std::sync::{Arc, Mutex, MutexGuard};

/// Stands between the input and the first layers of a model for one forward pass and its backward passes.
#[derive(Debug, Clone, Default)]
pub struct InputTap(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    input: Option<Tensor>,
    leaf: Option<TensorId>,
    parts: Vec<Part>,
}

/// What one layer leaves in one backward pass.
#[derive(Debug, Clone)]
struct Part {
    /// `[in, out]`.
    weight: Tensor,
    /// `[rows, out]`.
    dz: Tensor,
}

/// What one task's backward pass left: see [`InputTap::take`].
#[derive(Debug, Clone, Default)]
pub struct InputGradient(Vec<Part>);

impl InputTap {
    /// A tap for one forward pass.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts `input` off: the returned tensor has its values, and only linear layers may read it.
    pub(crate) fn cut(&self, input: Tensor) -> Tensor {
        let leaf = input.detach();
        let mut state = self.state();
        state.leaf = Some(leaf.id());
        state.input = Some(input);
        leaf
    }

    /// Whether `tensor` is the cut-off input.
    pub(crate) fn owns(&self, tensor: &Tensor) -> bool {
        self.state().leaf == Some(tensor.id())
    }

    pub(crate) fn leave(&self, weight: &Tensor, dz: &Tensor) {
        self.state().parts.push(Part { weight: weight.clone(), dz: dz.clone() });
    }

    /// What the backward pass that has just ended left; call it after each pass.
    pub fn take(&self) -> InputGradient {
        InputGradient(std::mem::take(&mut self.state().parts))
    }

    /// The gradients of the embeddings for the weighted sum of the tasks' losses: pulls
    /// Σ_k w_k dx_k back from the model's input to its leaves.
    pub fn backward(&self, tasks: &[(f64, InputGradient)]) -> Result<GradStore> {
        let input = self.state().input.clone();
        let input = input.ok_or_else(|| Error::internal("the model did not pass its input through the tap"))?;
        let (rows, width) = floats::rows_of(input.dims());
        let mut dx = vec![0.0; rows * width];
        let mut product = vec![0.0; rows * width];
        for (weight, dz) in weighted(tasks)? {
            let out = dz.len() / rows.max(1);
            let weight = Floats::of(&weight)?;
            multiply(&mut product, width, Matrix::new(&dz, rows, out, out), Matrix::new(&weight, width, out, out).t());
            parallel::rows(&mut dx, width, |row, dx| {
                dx.iter_mut().zip(&product[row * width..]).for_each(|(sum, &value)| *sum += value);
            });
        }
        backward_from(&[(&input, floats::tensor(dx, input.dims())?)])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Σ_k w_k dz_k for every layer, in the order in which the layers first left something.
fn weighted(tasks: &[(f64, InputGradient)]) -> Result<Vec<(Tensor, Vec<f32>)>> {
    let mut layers: Vec<(Tensor, Vec<f32>)> = Vec::new();
    for (task_weight, gradient) in tasks {
        let w = *task_weight as f32;
        for Part { weight, dz } in &gradient.0 {
            let dz = Floats::of(dz)?;
            match layers.iter_mut().find(|(known, _)| known.id() == weight.id()) {
                Some((_, sum)) => parallel::rows(sum, 1024, |row, sum| {
                    sum.iter_mut().zip(&dz[row * 1024..]).for_each(|(sum, &value)| *sum += w * value);
                }),
                None => layers.push((weight.clone(), dz.iter().map(|&value| w * value).collect())),
            }
        }
    }
    Ok(layers)
}
