//! Joins the layers' wish for global sums with the communicator.

use crate::comm::{Comm, collectives};
use crate::data::batch::Batch;
use crate::error::Result;
use crate::nn::{AllSum, Context};
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

/// The context of one forward pass over `batch`.
pub fn context(comm: &Comm, batch: &Batch, train: bool, seed: u64, step: u64) -> Result<Context> {
    let present: Vec<f32> = batch.present.iter().map(|&p| f32::from(u8::from(p))).collect();
    Ok(Context {
        train,
        seed,
        step,
        slots: Arc::from(batch.slots.as_slice()),
        present: Tensor::from_vec(present, (batch.rows, 1), &Device::Cpu)?,
        all_sum: SendWrapper::new(Rc::new(RankSum(comm.clone()))),
        tap: None,
    })
}
