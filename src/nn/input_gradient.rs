//! The gradient of the model's input, computed once for all tasks.
//!
//! With one backward pass per task, dx_k = Σ_layers dz_k · Wᵀ over the layers that read the input x is a third
//! of the work of the widest layer, K times over, while only Σ_k w_k dx_k is needed. So the input is cut off
//! from the tape ([`super::Graph::cut`]), each first layer leaves its dz_k here instead of computing dx_k, and when
//! the weights are known
//!
//! ```text
//! dx = Σ_layers (Σ_k w_k dz_k) · Wᵀ        then on to the embeddings, once
//! ```

use super::floats::{self, Floats};
use super::gemm::{Matrix, Precision, multiply_add};
use super::parallel;
use crate::error::{Error, Result};
use candle_core::Tensor;

/// Numbers that are added up at a time: few enough to stay in a cache near the core.
const CHUNK: usize = 1024;

/// What one backward pass left to do for the gradient of the model's input.
#[derive(Debug, Default)]
pub struct InputGradient(Vec<Part>);

/// One operation's part of it.
#[derive(Debug)]
pub(crate) enum Part {
    /// dz `[rows, out]` of a linear layer with weights `[in, out]`: dx = dz · Wᵀ.
    Linear { weight: Tensor, dz: Tensor, precision: Precision },
    /// dx itself.
    Whole(Tensor),
}

/// The parts of all passes that are to be multiplied by one matrix, with their weights.
struct Layer<'a> {
    weight: &'a Tensor,
    precision: Precision,
    parts: Vec<(f32, &'a Tensor)>,
}

impl InputGradient {
    pub(crate) fn push(&mut self, part: Part) {
        self.0.push(part);
    }

    /// Σ w dx over `passes`, for an input of `shape`.
    pub(crate) fn weighted_sum(passes: &[(f64, &Self)], shape: &[usize]) -> Result<Tensor> {
        let (rows, width) = floats::rows_of(shape);
        let mut dx = vec![0.0; rows * width];
        let (layers, whole) = sorted(passes);
        for (w, part) in whole {
            add_scaled(&mut dx, &[(w, Floats::of(part)?)]);
        }
        for Layer { weight, precision, parts } in layers {
            let dz = weighted_sum(&parts)?;
            let (dz, weight) = (Floats::of(&dz)?, Floats::of(weight)?);
            let out = dz.len() / rows.max(1);
            let dz = Matrix::new(&dz, rows, out, out);
            multiply_add(precision, &mut dx, width, dz, Matrix::new(&weight, width, out, out).t());
        }
        Ok(floats::tensor(dx, shape)?)
    }
}

/// The parts by layer, in the order in which the layers first left something, and those that are dx itself.
fn sorted<'a>(passes: &[(f64, &'a InputGradient)]) -> (Vec<Layer<'a>>, Vec<(f32, &'a Tensor)>) {
    let mut layers: Vec<Layer> = Vec::new();
    let mut whole = Vec::new();
    for &(w, InputGradient(parts)) in passes {
        for part in parts {
            match part {
                Part::Whole(dx) => whole.push((w as f32, dx)),
                Part::Linear { weight, dz, precision } => {
                    match layers.iter_mut().find(|known| known.weight.id() == weight.id()) {
                        Some(layer) => layer.parts.push((w as f32, dz)),
                        None => layers.push(Layer { weight, precision: *precision, parts: vec![(w as f32, dz)] }),
                    }
                }
            }
        }
    }
    (layers, whole)
}

/// Σ w · part over contiguous tensors of one shape, without a copy where that is the part itself.
///
/// # Errors
/// No part, or one that is not contiguous f32.
pub fn weighted_sum(parts: &[(f32, &Tensor)]) -> Result<Tensor> {
    match parts {
        [] => Err(Error::internal("a weighted sum of nothing")),
        [(1.0, only)] => Ok((*only).clone()),
        [(_, first), ..] => {
            let mut sum = vec![0.0; first.elem_count()];
            let parts = parts.iter().map(|(w, dz)| Ok((*w, Floats::of(dz)?))).collect::<Result<Vec<_>>>()?;
            add_scaled(&mut sum, &parts);
            Ok(floats::tensor(sum, first.dims())?)
        }
    }
}

/// `sum` += Σ w · part.
fn add_scaled(sum: &mut [f32], parts: &[(f32, Floats)]) {
    parallel::rows(sum, CHUNK, |chunk, sum| {
        for (w, part) in parts {
            sum.iter_mut().zip(&part[chunk * CHUNK..]).for_each(|(sum, &value)| *sum += w * value);
        }
    });
}
