//! Balancing methods: from the tasks' losses or the Gram matrix of their *global* gradients to one
//! weight per task.
//!
//! A method is one file with a struct, its options and a line in [`registry`]. It computes in float64
//! from numbers that are the same bits on every rank, so every rank finds the same weights without
//! another message.

use crate::config::Component;
use crate::error::Result;

/// What a method needs the step to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Only the losses: one backward pass of Σ w_k L_k. Heads are weighted too.
    Losses,
    /// The Gram matrix of the shared gradients: one backward pass per task. A task's own parameters get
    /// their own, unweighted gradient.
    Gram,
}

/// What the step tells a method. K tasks.
#[derive(Debug, Clone, Copy)]
pub struct Signal<'a> {
    /// Mean loss of each task over its labelled rows of the global batch; 0 where there are none.
    pub losses: &'a [f64],
    /// Whether the global batch has a labelled row of the task.
    pub present: &'a [bool],
    /// Row-major K × K Gram matrix of the globally reduced shared gradients (only for [`Needs::Gram`]).
    pub gram: &'a [f64],
    /// Steps since the start of training.
    pub step: u64,
    /// Seed of the job: random methods draw from `(seed, step)`.
    pub seed: u64,
}

/// A balancing method.
pub trait Balancer {
    /// What it needs.
    fn needs(&self) -> Needs;

    /// The weight of each task for this step; the update direction is Σ w_k g_k. Advances the state.
    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>>;

    /// Everything that a resumed run needs, as plain numbers.
    fn state(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Restores what [`Balancer::state`] returned.
    fn restore(&mut self, _state: &[f64]) -> Result<()> {
        Ok(())
    }
}
