//! Sparse optimizers: one update of one embedding row from the sum of its gradients over the whole step.
//!
//! An optimizer is one file with its options and a line in `KINDS`. Its state stands behind the row's
//! values in the same page, so that an update touches one piece of memory. All are lazy: a row that no
//! training row of the step names is left alone, its state too.

mod adagrad;
mod adam;
mod ftrl;
mod rowwise_adagrad;
mod sgd;
mod shared;

pub use shared::Shared;

use super::options;
use crate::config::{Component, unknown_kind};
use crate::error::Result;
use std::fmt::Debug;

/// One named part of the state of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Name, for checkpoints and inspection.
    pub name: &'static str,
    /// Floats.
    pub width: usize,
}

/// An optimizer of embedding rows.
pub trait SparseOptimizer: Debug + Send + Sync {
    /// The parts of the state of a row of `dim` floats, in the order in which they are stored.
    fn slots(&self, dim: usize) -> Vec<Slot>;

    /// Fills the `state` (Σ widths floats) of a new row that holds `values`.
    fn init(&self, _values: &[f32], state: &mut [f32]) {
        state.fill(0.0);
    }

    /// Updates `values` and `state` from `grad`, which is as long as `values`. `lr_factor` is the
    /// schedule's factor of the base rate.
    fn update(&self, values: &mut [f32], state: &mut [f32], grad: &[f32], lr_factor: f64);
}

/// A boxed optimizer.
pub type Optimizer = Box<dyn SparseOptimizer>;

type Build = fn(&mut Component, &str) -> Result<Optimizer>;

/// The registry.
const KINDS: [(&str, Build); 5] = [
    ("rowwise_adagrad", rowwise_adagrad::build),
    ("adagrad", adagrad::build),
    ("adam", adam::build),
    ("sgd", sgd::build),
    ("ftrl", ftrl::build),
];

/// Names of all sparse optimizers.
pub fn kinds() -> Vec<&'static str> {
    KINDS.map(|(kind, _)| kind).to_vec()
}

/// Builds the optimizer that `component` names. `key` is its place in the job (`optimizer.sparse`). The
/// options are replaced by the resolved ones, with all defaults.
///
/// # Errors
/// An unknown kind, an unknown option, or a value out of range.
pub fn build(component: &mut Component, key: &str) -> Result<Optimizer> {
    match KINDS.iter().find(|(kind, _)| *kind == component.kind) {
        Some((_, build)) => build(component, key),
        None => Err(unknown_kind(key, &component.kind, &KINDS.map(|(kind, _)| kind))),
    }
}

/// Checks a learning rate.
fn check_lr(lr: f64, key: &str) -> Result<()> {
    options::check(lr > 0.0, key, "lr", lr, "a number above 0")
}

#[cfg(test)]
mod tests;
