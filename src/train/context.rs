//! Joins the layers' wish for global sums with the communicator.

use crate::comm::{Comm, collectives};
use crate::data::batch::Batch;
use crate::error::Result;
use crate::nn::{AllSum, Context, Graph, Kernels, Precision};
use candle_core::{Device, Tensor};
use send_wrapper::SendWrapper;
use std::rc::Rc;
use std::sync::Arc;

struct RankSum(Comm);

impl AllSum for RankSum {
    fn all_sum(&self, values: &mut [f64]) -> Result<()> {
        collectives::all_reduce_sum(self.0.as_ref(), values)
    }
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step, with a way back.
    Train(Kernels, Precision),
    /// Another look at the batch of a step, without a way back.
    Look(Kernels, Precision),
    /// Predictions: always in f32, so that they are what an exported model gives.
    Infer(Kernels),
}

/// The context of one forward pass over `batch`.
pub fn context(comm: &Comm, batch: &Batch, kind: Kind, seed: u64, step: u64) -> Result<Context> {
    let present: Vec<f32> = batch.present.iter().map(|&p| f32::from(u8::from(p))).collect();
    let (train, kernels, precision) = match kind {
        Kind::Train(kernels, precision) | Kind::Look(kernels, precision) => (true, kernels, precision),
        Kind::Infer(kernels) => (false, kernels, Precision::F32),
    };
    let graph = match kind {
        Kind::Train(Kernels::Fused, _) => Graph::tape(),
        Kind::Train(Kernels::Reference, _) => Graph::Candle,
        Kind::Look(..) | Kind::Infer(_) => Graph::None,
    };
    Ok(Context {
        train,
        seed,
        step,
        progress: 0.0,
        slots: Arc::from(batch.slots.as_slice()),
        present: Tensor::from_vec(present, (batch.rows, 1), &Device::Cpu)?,
        all_sum: SendWrapper::new(Rc::new(RankSum(comm.clone()))),
        graph,
        kernels,
        precision,
    })
}
