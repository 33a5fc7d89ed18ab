//! The leaves of a step's graph: embedding rows and dense features as tensors, and the gradients that
//! flow back to the embedding rows.

use crate::data::batch::Batch;
use crate::embedding::Lookup;
use crate::error::Result;
use crate::model::{Input, InputSpec, Sequence};
use crate::nn::{Floats, weighted_sum};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;
use std::sync::Arc;

/// The input of one forward pass. The embedding leaves are variables, so that their gradient is kept, unless all their
/// tables are frozen.
pub struct Leaves {
    /// What the model sees.
    pub input: Input,
}

/// Gradients of the embedding leaves, row-major like the lookup's values.
#[derive(Debug, Clone, Default)]
pub struct LeafGradients {
    /// `rows × pooled_width`.
    pub pooled: Vec<f32>,
    /// `rows × max_len × dim` per sequence.
    pub sequences: Vec<Vec<f32>>,
}

impl LeafGradients {
    /// Multiplies all of it.
    pub fn scale(&mut self, factor: f32) {
        self.sequences.iter_mut().chain([&mut self.pooled]).flatten().for_each(|value| *value *= factor);
    }

    /// Whether every number of it is finite.
    pub fn are_finite(&self) -> bool {
        self.sequences.iter().chain([&self.pooled]).all(|values| all_finite(values))
    }
}

impl Leaves {
    /// Puts the looked-up rows of `batch` into tensors shaped as `spec` says.
    pub fn new(batch: &Batch, lookup: &mut Lookup, spec: &InputSpec) -> Result<Self> {
        let rows = batch.rows;
        let width = spec.fields.iter().map(|f| f.width).sum();
        let sequences = lookup
            .sequences
            .iter_mut()
            .zip(&spec.sequences)
            .map(|(sequence, s)| {
                let shape = (rows, s.max_len, s.dim);
                Ok(Sequence {
                    values: leaf(std::mem::take(&mut sequence.values), shape, sequence.trained)?,
                    mask: Tensor::from_vec(std::mem::take(&mut sequence.mask), (rows, s.max_len), &Device::Cpu)?,
                })
            })
            .collect::<Result<_>>()?;
        let input = Input {
            pooled: leaf(std::mem::take(&mut lookup.pooled), (rows, width), lookup.trains_pooled)?,
            sequences,
            dense: Tensor::from_slice(&batch.dense, (rows, spec.dense_width), &Device::Cpu)?,
            scenarios: batch.scenarios.as_slice().into(),
            classes: Arc::from([]),
            repeats: Arc::from([]),
        };
        Ok(Self { input })
    }

    /// Whether the gradients with which one backward pass reaches leaves are finite.
    pub fn reached_finitely(&self, grads: &GradStore) -> bool {
        let leaves = self.input.sequences.iter().map(|sequence| &sequence.values).chain([&self.input.pooled]);
        leaves.filter_map(|leaf| grads.get(leaf)).all(|gradient| {
            let gradient = gradient.contiguous();
            gradient.is_ok_and(|gradient| Floats::of(&gradient).is_ok_and(|values| all_finite(&values)))
        })
    }

    /// The leaves' gradients for the weighted sum of some backward passes, `(weight, gradients)`; zero where
    /// none of them reaches one.
    pub fn gradients(&self, passes: &[(f64, &GradStore)]) -> Result<LeafGradients> {
        let sequences = self.input.sequences.iter().map(|s| gradient(passes, &s.values)).collect::<Result<_>>()?;
        Ok(LeafGradients { pooled: gradient(passes, &self.input.pooled)?, sequences })
    }
}

/// Blocks are looked at without a branch for each number, which would keep the compiler from using vectors.
fn all_finite(values: &[f32]) -> bool {
    /// Of an exponent that is all ones: infinity or no number.
    const EXPONENT: u32 = 0x7f80_0000;
    let block = |block: &[f32]| !block.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT));
    values.par_chunks(1 << 14).all(block)
}

/// `values` as a tensor whose gradient is kept if it is `trained`.
pub(super) fn leaf(values: Vec<f32>, shape: impl Into<candle_core::Shape>, trained: bool) -> Result<Tensor> {
    let shape = shape.into();
    Ok(match trained {
        true => Var::from_vec(values, shape, &Device::Cpu)?.into_inner(),
        false => Tensor::from_vec(values, shape, &Device::Cpu)?,
    })
}

fn gradient(passes: &[(f64, &GradStore)], leaf: &Tensor) -> Result<Vec<f32>> {
    let reached = passes.iter().filter_map(|(weight, grads)| Some((*weight as f32, grads.get(leaf)?.contiguous())));
    let parts = reached.map(|(weight, gradient)| Ok((weight, gradient?))).collect::<Result<Vec<_>>>()?;
    if parts.is_empty() {
        return Ok(vec![0.0; leaf.elem_count()]);
    }
    let parts: Vec<_> = parts.iter().map(|(weight, gradient)| (*weight, gradient)).collect();
    Ok(weighted_sum(&parts)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Shape;

    #[test]
    fn a_number_that_is_not_finite_is_found_wherever_it_stands() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 1, 16_383, 16_384, 39_999] {
                let mut values = vec![f32::MAX; 40_000];
                assert!(all_finite(&values));
                values[at] = bad;
                assert!(!all_finite(&values), "{bad} at {at}");
            }
        }
        assert!(all_finite(&[]));
    }

    #[test]
    fn passes_are_weighted_wherever_they_reach_a_leaf() {
        let values = |values: &[f32]| leaf(values.to_vec(), Shape::from((1, values.len())), true).unwrap();
        let (pooled, apart) = (values(&[1.0, 2.0]), values(&[3.0]));
        let mask = Tensor::ones((1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        let sequences = vec![Sequence { values: apart.clone(), mask }];
        let (scenarios, classes) = (Arc::from([]), Arc::from([]));
        let input = Input {
            pooled: pooled.clone(),
            sequences,
            dense: pooled.clone(),
            scenarios,
            classes,
            repeats: Arc::from([]),
        };
        let leaves = Leaves { input };
        let square = pooled.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let sum = (pooled.sum_all().unwrap() + apart.sum_all().unwrap()).unwrap().backward().unwrap();
        let LeafGradients { pooled, sequences } = leaves.gradients(&[(1.0, &square), (0.5, &sum)]).unwrap();
        assert_eq!((pooled, sequences), (vec![2.5, 4.5], vec![vec![0.5]]));
        let LeafGradients { pooled, sequences } = leaves.gradients(&[]).unwrap();
        assert_eq!((pooled, sequences), (vec![0.0; 2], vec![vec![0.0]]));
    }
}
