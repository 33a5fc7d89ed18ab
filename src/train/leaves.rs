//! The leaves of a step's graph: embedding rows and dense features as tensors, and the gradients that
//! flow back to the embedding rows.

use crate::data::batch::Batch;
use crate::embedding::Lookup;
use crate::error::Result;
use crate::model::{Input, InputSpec, Sequence};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

/// The input of one forward pass. The embedding leaves are variables, so that their gradient is kept.
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
                    values: leaf(std::mem::take(&mut sequence.values), shape)?,
                    mask: Tensor::from_vec(std::mem::take(&mut sequence.mask), (rows, s.max_len), &Device::Cpu)?,
                })
            })
            .collect::<Result<_>>()?;
        let input = Input {
            pooled: leaf(std::mem::take(&mut lookup.pooled), (rows, width))?,
            sequences,
            dense: Tensor::from_slice(&batch.dense, (rows, spec.dense_width), &Device::Cpu)?,
        };
        Ok(Self { input })
    }

    /// The leaves' gradients after a backward pass; zero where the loss does not reach one.
    pub fn gradients(&self, grads: &GradStore) -> Result<LeafGradients> {
        let sequences = self.input.sequences.iter().map(|s| gradient(grads, &s.values)).collect::<Result<_>>()?;
        Ok(LeafGradients { pooled: gradient(grads, &self.input.pooled)?, sequences })
    }
}

fn leaf(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    let tensor = Tensor::from_vec(values, shape.into(), &Device::Cpu)?;
    Ok(Var::from_tensor(&tensor)?.into_inner())
}

fn gradient(grads: &GradStore, leaf: &Tensor) -> Result<Vec<f32>> {
    match grads.get(leaf) {
        Some(gradient) => Ok(gradient.flatten_all()?.to_vec1()?),
        None => Ok(vec![0.0; leaf.elem_count()]),
    }
}
