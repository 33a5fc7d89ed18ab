//! Methods that look at the shared gradients themselves: they keep vectors as long as a gradient, or weigh its parts
//! differently.
//!
//! Each rank holds one slice of every task's globally summed gradient, and the method's vectors are cut in the same
//! way: they live beside the optimizer's moments and are saved and re-cut with them.
//!
//! ```text
//!   gradients   g_1 slice | g_2 slice | … | g_K slice        slots   vectors of one slice each, kept from step to step
//!   tensors     W_1 | b_1 | W_2 …  (whole or in part)        direction   what this rank's slice moves along
//! ```

use super::Signal;
use super::gram::{dot, partial_of};
use crate::error::Result;
use std::ops::Range;

/// Sums numbers over ranks, in place, with the same bits everywhere.
pub type Sum<'a> = &'a dyn Fn(&mut [f64]) -> Result<()>;

/// One rank's slice of the tasks' shared gradients.
#[derive(Debug, Clone, Copy)]
pub struct Slices<'a> {
    /// One slice after the other, `tasks` in all.
    pub gradients: &'a [f32],
    /// Number of tasks, K.
    pub tasks: usize,
    /// The parts of the slice by parameter tensor: which one, and where. What no part covers is padding.
    pub tensors: &'a [(usize, Range<usize>)],
    /// The layer of each shared parameter tensor, by number from 0 up; a rank may hold nothing of a tensor.
    pub layers: &'a [usize],
}

impl<'a> Slices<'a> {
    /// Floats of a slice.
    pub(super) fn len(&self) -> usize {
        self.gradients.len().checked_div(self.tasks).unwrap_or(0)
    }

    /// The slice of one task's gradient.
    pub(super) fn of(&self, task: usize) -> &'a [f32] {
        &self.gradients[task * self.len()..(task + 1) * self.len()]
    }
}

impl Slices<'_> {
    /// A K × K Gram matrix for each group of tensors, one after the other, over all ranks. `groups` has the group of
    /// each tensor, numbered from 0 up.
    pub(super) fn grams(&self, groups: &[usize], sum: Sum) -> Result<Vec<f64>> {
        let block = self.tasks * self.tasks;
        let mut grams = vec![0.0; groups.iter().map(|group| group + 1).max().unwrap_or(0) * block];
        for (tensor, range) in self.tensors {
            let rows: Vec<&[f32]> = (0..self.tasks).map(|task| &self.of(task)[range.clone()]).collect();
            let of_group = &mut grams[groups[*tensor] * block..][..block];
            of_group.iter_mut().zip(partial_of(&rows)).for_each(|(sum, part)| *sum += part);
        }
        sum(&mut grams)?;
        Ok(grams)
    }
}

/// A method that works on slices.
pub trait OnSlices {
    /// Names of the vectors that it keeps, each as long as a slice and 0 at first.
    fn slots(&self) -> Vec<String> {
        Vec::new()
    }

    /// Fills `direction` (zeros, as long as a slice) with the update direction of this slice. Returns the weight of
    /// each task that stands for it where no slice is: at the rows of the embedding tables. `signal.gram` is that
    /// of the whole gradients. Advances the state.
    ///
    /// # Errors
    /// A loss or a gradient that is not finite, or a failed sum.
    fn direction(
        &mut self,
        signal: &Signal,
        slices: &Slices,
        slots: &mut [&mut [f32]],
        direction: &mut [f32],
        sum: Sum,
    ) -> Result<Vec<f64>>;
}

/// ‖v‖² over all ranks, for each vector.
pub(super) fn squares(vectors: &[&[f32]], sum: Sum) -> Result<Vec<f64>> {
    let mut squares: Vec<f64> = vectors.iter().map(|v| dot(v, v)).collect();
    sum(&mut squares)?;
    Ok(squares)
}

/// `direction += weight · vector`.
pub(super) fn add_scaled(direction: &mut [f32], weight: f64, vector: &[f32]) {
    let weight = weight as f32;
    direction.iter_mut().zip(vector).for_each(|(d, &v)| *d += weight * v);
}

/// The plain gradient where only one task is there, for there is nothing to balance: the weights, or none with more
/// tasks.
pub(super) fn alone(signal: &Signal, slices: &Slices, direction: &mut [f32]) -> Option<Vec<f64>> {
    let [only] = signal.present()[..] else { return None };
    add_scaled(direction, 1.0, slices.of(only));
    let mut weights = vec![0.0; slices.tasks];
    weights[only] = 1.0;
    Some(weights)
}
