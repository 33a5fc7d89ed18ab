//! What the step tells a method.

use super::Needs;
use crate::error::{Error, Result};

/// What the step tells a method. K tasks.
#[derive(Debug, Clone, Copy)]
pub struct Signal<'a> {
    /// Mean loss of each task over its labelled rows of the global batch; 0 where there are none.
    pub losses: &'a [f64],
    /// Whether the global batch has a labelled row of the task.
    pub present: &'a [bool],
    /// Row-major Gram matrix of the globally reduced gradients in the method's scope: K × K, or (parts · K)² for a method
    /// of several [parts](super::Balancer::parts). Empty for methods that need only losses.
    pub gram: &'a [f64],
    /// Steps since the start of training.
    pub step: u64,
    /// Steps of an epoch, at least 1: what a method does by the epoch is told from it and `step`.
    pub steps_per_epoch: u64,
    /// Steps planned in all.
    pub total_steps: u64,
    /// Seed of the job: random methods draw from `(seed, step)`.
    pub seed: u64,
}

impl Signal<'_> {
    /// The share of the training that is done, 0 to 1.
    pub(super) fn progress(&self) -> f64 {
        (self.step as f64 / self.total_steps.max(1) as f64).min(1.0)
    }

    /// Indices of the tasks that take part.
    pub(super) fn present(&self) -> Vec<usize> {
        (0..self.present.len()).filter(|&k| self.present[k]).collect()
    }

    /// Refuses numbers that no method can use.
    ///
    /// # Errors
    /// A loss or an element of the Gram matrix is not finite; names the task by its index.
    pub(super) fn check(&self, needs: Needs) -> Result<()> {
        let tasks = self.present.len();
        debug_assert_eq!(self.losses.len(), tasks);
        let at = |error: Error, task: usize| Err(error.at("step", self.step).at("task index", task));
        for task in self.present() {
            if !self.losses[task].is_finite() {
                return at(Error::numeric(format!("the loss is {}", self.losses[task])), task);
            }
        }
        if needs != Needs::Losses {
            let side = self.gram.len().isqrt();
            debug_assert!(side * side == self.gram.len() && side.is_multiple_of(tasks));
            if let Some(bad) = self.gram.iter().position(|g| !g.is_finite()) {
                let what = format!("the product of two tasks' gradients is {}", self.gram[bad]);
                return at(Error::numeric(what), bad / side % tasks);
            }
        }
        Ok(())
    }
}
