//! Methods that weigh the rows of the embedding tables one by one.
//!
//! A row's owner sees each task's gradient of it, already summed over ranks; what the method does with a row needs no
//! other message than a few sums.

use super::{Signal, Sum};
use crate::error::Result;

/// The rows of one table that this rank owns and the global batch touches.
#[derive(Debug)]
pub struct Rows<'a> {
    /// Floats of a row, d.
    pub dim: usize,
    /// One block of `rows × d` gradients per task. The method leaves one block, the combined gradients.
    pub values: &'a mut Vec<f32>,
    /// The method puts here the numbers of rows that the step is to leave alone, state and all: a gradient of zero would
    /// still move them by an optimizer's momentum.
    pub left_alone: &'a mut Vec<usize>,
}

impl Rows<'_> {
    /// Number of rows.
    pub(super) fn len(&self, tasks: usize) -> usize {
        self.values.len() / (tasks * self.dim).max(1)
    }
}

/// A method that weighs rows.
pub trait OnRows {
    /// Replaces the gradients of every table by their combination. Returns the weight of each task for the shared dense
    /// parameters. Advances the state.
    ///
    /// # Errors
    /// A loss or a gradient that is not finite, or a failed sum.
    fn combine(&mut self, signal: &Signal, tables: &mut [Rows], sum: Sum) -> Result<Vec<f64>>;
}
