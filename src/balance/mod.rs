//! Balancing methods: from the tasks' losses or the Gram matrix of their *global* gradients to one
//! weight per task.
//!
//! A method is one file with a struct, its options and a line in `REGISTRY`. It computes in float64
//! from numbers that are the same bits on every rank, so every rank finds the same weights without
//! another message. For the same reason nothing here calls a library that picks its arithmetic by the
//! CPU it runs on: ranks may sit on different machines. (The exponentials of the C library do: `libm` is used.)
//!
//! Rules that all methods keep: a task with no labelled row in the batch (`present` false) has weight 0 and
//! the others are weighted as if it did not exist; a single task has weight 1; weights are finite for any
//! positive semi-definite Gram matrix, of any rank and scale.

mod adam;
mod aligned_mtl;
mod cagrad;
mod config;
mod crmogm;
mod dual_proj;
mod dwa;
mod fairgrad;
mod fairness;
mod gls;
mod gradcraft;
mod gradvac;
pub mod gram;
mod imtl_g;
mod imtl_l;
mod mgda;
mod nash_mtl;
mod order;
mod pcd;
mod pcgrad;
mod preference;
mod rlw;
mod softmax;
mod solvers;
mod spectrum;
mod static_weights;
mod stch;
mod uncertainty;
mod uniform;
mod upgrad;

use crate::config::{Component, unknown_kind};
use crate::error::{Error, Result};

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
    /// Steps of an epoch, at least 1: what a method does by the epoch is told from it and `step`.
    pub steps_per_epoch: u64,
    /// Seed of the job: random methods draw from `(seed, step)`.
    pub seed: u64,
}

impl Signal<'_> {
    /// Indices of the tasks that take part.
    fn present(&self) -> Vec<usize> {
        (0..self.present.len()).filter(|&k| self.present[k]).collect()
    }

    /// Refuses numbers that no method can use.
    ///
    /// # Errors
    /// A loss or an element of the Gram matrix is not finite; names the task by its index.
    fn check(&self, needs: Needs) -> Result<()> {
        let tasks = self.present.len();
        debug_assert_eq!(self.losses.len(), tasks);
        let at = |error: Error, task: usize| Err(error.at("step", self.step).at("task index", task));
        for task in self.present() {
            if !self.losses[task].is_finite() {
                return at(Error::numeric(format!("the loss is {}", self.losses[task])), task);
            }
        }
        if needs == Needs::Gram {
            debug_assert_eq!(self.gram.len(), tasks * tasks);
            if let Some(bad) = self.gram.iter().position(|g| !g.is_finite()) {
                let what = format!("the product of two tasks' gradients is {}", self.gram[bad]);
                return at(Error::numeric(what), bad / tasks);
            }
        }
        Ok(())
    }
}

/// A balancing method.
pub trait Balancer: std::fmt::Debug {
    /// What it needs.
    fn needs(&self) -> Needs;

    /// The weight of each task for this step; the update direction is Σ w_k g_k. Advances the state.
    ///
    /// # Errors
    /// A loss or a gradient that is not finite.
    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>>;

    /// Everything that a resumed run needs, as plain numbers.
    fn state(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Restores what [`Balancer::state`] returned.
    ///
    /// # Errors
    /// A state of another length: the checkpoint is of another job.
    fn restore(&mut self, state: &[f64]) -> Result<()> {
        restore_exactly(&mut [], state)
    }
}

/// Losses below this (or negative ones, which have no scale) count as this where a method divides by them.
const LEAST_LOSS: f64 = 1e-8;

/// Place of the component in the job, for messages.
const KEY: &str = "balance";

type Build = fn(&mut Component, usize) -> Result<Box<dyn Balancer>>;

/// Every method by name.
const REGISTRY: &[(&str, Build)] = &[
    ("uniform", uniform::build),
    ("static", static_weights::build),
    ("uncertainty", uncertainty::build),
    ("dwa", dwa::build),
    ("rlw", rlw::build),
    ("gls", gls::build),
    ("imtl_l", imtl_l::build),
    ("stch", stch::build),
    ("mgda", mgda::build),
    ("pcgrad", pcgrad::build),
    ("cagrad", cagrad::build),
    ("imtl_g", imtl_g::build),
    ("nash_mtl", nash_mtl::build),
    ("fairgrad", fairgrad::build),
    ("aligned_mtl", aligned_mtl::build),
    ("upgrad", upgrad::build),
    ("dual_proj", dual_proj::build),
    ("config", config::build),
    ("gradvac", gradvac::build),
    ("gradcraft", gradcraft::build),
    ("pcd", pcd::build),
    ("crmogm", crmogm::build),
];

/// Names of all methods.
pub fn kinds() -> Vec<&'static str> {
    REGISTRY.iter().map(|(name, _)| *name).collect()
}

/// Builds the method named by `balance` for `tasks` tasks and fills all defaults into `component`.
///
/// # Errors
/// An unknown kind or option, or a value out of range: an error of the job.
pub fn build(component: &mut Component, tasks: usize) -> Result<Box<dyn Balancer>> {
    match REGISTRY.iter().find(|(name, _)| *name == component.kind) {
        Some((_, build)) => build(component, tasks),
        None => Err(unknown_kind(KEY, &component.kind, &kinds())),
    }
}

/// Weights of the present tasks whose shared gradient is not zero, by `solve`, which gets these gradients and the
/// tasks' numbers. The other tasks get 0: there is nothing of theirs to weigh, and for many methods one gradient of
/// length 0 stops all. Where no gradient moves, tasks share equally; a task alone has weight 1.
fn weigh_moving(signal: &Signal, solve: impl FnOnce(&gram::Scaled, &[usize]) -> Result<Vec<f64>>) -> Result<Vec<f64>> {
    signal.check(Needs::Gram)?;
    let tasks = signal.present.len();
    let present = signal.present();
    let mut weights = vec![0.0; tasks];
    let moving: Vec<usize> = present.iter().copied().filter(|&k| signal.gram[k * tasks + k] > 0.0).collect();
    if present.len() == 1 || moving.is_empty() {
        present.iter().for_each(|&k| weights[k] = 1.0 / present.len() as f64);
        return Ok(weights);
    }
    let solved = solve(&gram::Scaled::new(signal.gram, tasks, &moving), &moving)?;
    moving.iter().zip(solved).for_each(|(&k, weight)| weights[k] = weight);
    Ok(weights)
}

/// Refuses an option `ridge` that is negative or not finite.
fn check_ridge(ridge: f64) -> Result<()> {
    if ridge >= 0.0 && ridge.is_finite() {
        return Ok(());
    }
    Err(Error::job(format!("ridge is {ridge}")).at("key", format!("{KEY}.ridge")).fix("give a number ≥ 0"))
}

/// Copies a saved state over `own`, if it is as long.
fn restore_exactly(own: &mut [f64], saved: &[f64]) -> Result<()> {
    if own.len() != saved.len() {
        let what = format!("the balancing method has {} numbers of state, the checkpoint {}", own.len(), saved.len());
        return Err(
            Error::checkpoint(what).fix("resume with the `balance:` and the tasks that the checkpoint was made with")
        );
    }
    own.copy_from_slice(saved);
    Ok(())
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests;
