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
mod cone;
mod config;
pub mod conflict;
mod crmogm;
mod db_mtl;
mod dual_proj;
mod dwa;
mod excess_mtl;
mod fairgrad;
mod fairness;
mod famo;
mod gls;
mod gradcraft;
mod graddrop;
mod gradnorm;
mod gradvac;
pub mod gram;
mod imtl_g;
mod imtl_l;
mod memory;
mod metabalance;
mod mgda;
mod moco;
mod modo;
mod nash_mtl;
pub mod once;
mod order;
mod pcd;
mod pcgrad;
mod pmtrec;
mod preference;
mod representation;
mod rlw;
mod rows;
mod scope;
mod sdmgrad;
mod signal;
mod slices;
mod softmax;
mod solvers;
mod spectrum;
mod static_weights;
mod stch;
mod task_name;
mod uncertainty;
mod uniform;
mod upgrad;

pub use representation::{OnRepresentation, Representation};
pub use rows::{OnRows, Rows};
pub use scope::Scope;
pub use signal::Signal;
pub use slices::{OnSlices, Slices, Sum};
pub use softmax::softmax;

use crate::config::{Component, unknown_kind};
use crate::error::{Error, Result};

/// What a method needs the step to compute. But for the first, a task's own parameters get their own, unweighted
/// gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Only the losses: one backward pass of Σ w_k L_k. Heads are weighted too.
    Losses,
    /// The Gram matrix of the tasks' gradients.
    Gram,
    /// The shared gradients themselves ([`Balancer::on_slices`]).
    Slices,
    /// The gradients of the shared representation, element by element ([`Balancer::on_representation`]).
    Representation,
    /// The gradients of the tables' rows ([`Balancer::on_rows`]).
    Rows,
}

/// Weights of an earlier step.
#[derive(Debug, Clone, PartialEq)]
pub struct Reused {
    /// Of each task.
    pub weights: Vec<f64>,
    /// The shared update is shortened to this norm.
    pub max_norm: Option<f64>,
}

/// The `balance` of a job.
#[derive(Debug)]
pub struct Balance {
    /// The gradients that the method compares; none if it looks at losses only.
    pub scope: Option<Scope>,
    /// The method.
    pub method: Box<dyn Balancer>,
}

/// A balancing method.
pub trait Balancer: std::fmt::Debug {
    /// What it needs.
    fn needs(&self) -> Needs;

    /// The scopes it can be used with, the usual one first.
    fn scopes(&self) -> &'static [Scope] {
        match self.needs() {
            Needs::Losses => &[],
            Needs::Gram if self.parts() > 1 => &[Scope::Shared],
            Needs::Gram => &[Scope::Shared, Scope::Representation, Scope::SharedAndRows],
            Needs::Slices => &[Scope::Shared],
            Needs::Representation => &[Scope::Representation],
            Needs::Rows => &[Scope::SharedAndRows],
        }
    }

    /// Independent parts of each batch whose gradients it wants apart. With more than one, the Gram matrix and the
    /// weights have one row per part and task, part by part.
    fn parts(&self) -> usize {
        1
    }

    /// The weight of each task for this step, from what it needs: losses or the Gram matrix; the update direction is
    /// Σ w_k g_k. Advances the state.
    ///
    /// # Errors
    /// A loss or a gradient that is not finite.
    fn weights(&mut self, _: &Signal) -> Result<Vec<f64>> {
        Err(Error::internal(format!("{self:?} finds no weights without {:?}", self.needs())))
    }

    /// Weights of an earlier step that serve for this one too, so that no gradients need to be compared. Advances the
    /// state if there are some. `present` as in [`Signal`].
    fn reuse(&mut self, _present: &[bool]) -> Option<Reused> {
        None
    }

    /// The method, where it [needs](Needs::Slices) the gradients themselves.
    fn on_slices(&mut self) -> Option<&mut dyn OnSlices> {
        None
    }

    /// The method, where it [needs](Needs::Representation) the representation.
    fn on_representation(&self) -> Option<&dyn OnRepresentation> {
        None
    }

    /// The method, where it [needs](Needs::Rows) rows.
    fn on_rows(&mut self) -> Option<&mut dyn OnRows> {
        None
    }

    /// Whether it wants to see the losses of the same batch again after the step.
    fn looks_back(&self) -> bool {
        false
    }

    /// Takes the losses of the batch of the last [`Balancer::weights`], after the step. Advances the state.
    ///
    /// # Errors
    /// A loss that is not finite.
    fn look_back(&mut self, _losses: &[f64], _present: &[bool]) -> Result<()> {
        Ok(())
    }

    /// Everything that a resumed run needs, as plain numbers.
    fn state(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Restores what [`Balancer::state`] returned.
    ///
    /// # Errors
    /// A state of another length: the checkpoint is of another job.
    fn restore(&mut self, state: &[f64]) -> Result<()> {
        memory::restore_exactly(&mut [], state)
    }
}

/// Losses below this (or negative ones, which have no scale) count as this where a method divides by them.
const LEAST_LOSS: f64 = 1e-8;

/// Place of the component in the job, for messages.
const KEY: &str = "balance";

/// From the component of the job and the names of the tasks.
type Build = fn(&mut Component, &[String]) -> Result<Box<dyn Balancer>>;

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
    ("db_mtl", db_mtl::build),
    ("moco", moco::build),
    ("excess_mtl", excess_mtl::build),
    ("metabalance", metabalance::build),
    ("gradnorm", gradnorm::build),
    ("famo", famo::build),
    ("graddrop", graddrop::build),
    ("sdmgrad", sdmgrad::build),
    ("modo", modo::build),
    ("pmtrec", pmtrec::build),
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

/// Builds the method named by `balance` for the tasks of these names, in the order of the job, and fills all defaults into `component`.
///
/// # Errors
/// An unknown kind or option, or a value out of range: an error of the job.
pub fn build(component: &mut Component, tasks: &[String]) -> Result<Balance> {
    let wanted = Scope::take(component)?;
    let method = build_method(component, tasks)?;
    let scope = Scope::settle(wanted, method.scopes(), component)?;
    Ok(Balance { scope, method })
}

/// [`build`] without the scope.
fn build_method(component: &mut Component, tasks: &[String]) -> Result<Box<dyn Balancer>> {
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

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests;
