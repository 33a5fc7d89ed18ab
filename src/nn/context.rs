//! What a forward pass is told beside its input.

use super::{Graph, Precision};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use send_wrapper::SendWrapper;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::sync::Arc;

/// Sums a short vector over all ranks, in place, with the same bits everywhere. Layers that need moments
/// of the *global* batch call it; they do not know who answers.
pub trait AllSum {
    /// Replaces `values` by its sum over ranks.
    fn all_sum(&self, values: &mut [f64]) -> crate::Result<()>;
}

/// A single process: the sum is the value.
impl AllSum for () {
    fn all_sum(&self, _: &mut [f64]) -> crate::Result<()> {
        Ok(())
    }
}

/// How one forward pass runs.
///
/// With batch norm, forward and backward call [`AllSum`]: every rank must then run the same forward and the
/// same backward passes, also where none of its own rows carries a label.
#[derive(Clone)]
pub struct Context {
    /// Training (dropout on, batch norm from batch moments) or evaluation.
    pub train: bool,
    /// Seed of the job.
    pub seed: u64,
    /// Step, for random draws.
    pub step: u64,
    /// The part of the planned training that is done, from 0 to 1.
    pub progress: f64,
    /// Position of each row in the global batch ([`crate::data::batch::Batch::slots`]): with seed and step it
    /// determines a dropout mask without knowing the ranks.
    pub slots: Arc<[u32]>,
    /// `[B, 1]`: 1 for rows, 0 for padding.
    pub present: Tensor,
    /// Sums over ranks. Wrapped because candle's graph must be `Send`, while MPI stays on one thread.
    pub all_sum: SendWrapper<Rc<dyn AllSum>>,
    /// Where the operations are written down for the backward passes.
    pub graph: Graph,
    /// Fused layers, or plain candle.
    pub kernels: Kernels,
    /// Of the matrix products.
    pub precision: Precision,
}

impl Context {
    /// Of one rank, in evaluation mode, with `rows` rows that are all present.
    pub fn alone(rows: usize, graph: Graph) -> crate::Result<Self> {
        Ok(Self {
            train: false,
            seed: 0,
            step: 0,
            progress: 0.0,
            slots: (0..rows as u32).collect(),
            present: Tensor::ones((rows, 1), DType::F32, &Device::Cpu)?,
            all_sum: SendWrapper::new(Rc::new(())),
            graph,
            kernels: Kernels::Fused,
            precision: Precision::F32,
        })
    }

    /// Whether losses will be taken of this pass: so that what only losses need is left out of predictions.
    pub fn learns(&self) -> bool {
        self.train || matches!(self.graph, Graph::Candle | Graph::Tape(_))
    }
}

/// What computes the layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kernels {
    /// One operation a layer, with its own backward.
    #[default]
    Fused,
    /// Candle's own operations, for comparison.
    Reference,
}
