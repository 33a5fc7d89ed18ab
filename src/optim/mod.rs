//! Dense optimizers on flat slices, learning-rate schedules, clipping.
//!
//! Each rank owns one slice of the flat parameter vector and keeps the optimizer's moments for that
//! slice only; see `train::step`.

use crate::error::Result;

/// An optimizer of dense parameters: element-wise, so that a slice can be updated alone.
pub trait DenseOptimizer {
    /// Names of the moment vectors, each as long as the slice, for example `["m", "v"]`.
    fn slot_names(&self) -> &'static [&'static str];

    /// Base learning rate, before the schedule.
    fn lr(&self) -> f64;

    /// Updates `params` in place from `grads`. `slots[i]` is the moment named `slot_names()[i]`; all are
    /// slices of one length. `lr` includes the schedule; `t` counts updates from 1.
    fn update(&self, params: &mut [f32], grads: &[f32], slots: &mut [Vec<f32>], lr: f64, t: u64);
}

/// A learning-rate schedule: a factor of the base rate.
pub trait Schedule {
    /// Factor for `step` (from 0) of a run planned to have `total_steps`.
    fn factor(&self, step: u64, total_steps: u64) -> f64;
}

/// Builds the optimizer named by `optimizer.dense`.
pub type Built<T> = Result<Box<T>>;
