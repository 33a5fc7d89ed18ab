//! Methods that change the gradient of the shared representation element by element.

use super::Signal;

/// One tensor of the shared representation, on one rank. B rows.
#[derive(Debug, Clone, Copy)]
pub struct Representation<'a> {
    /// `[B, width]`: the representation itself, row-major.
    pub values: &'a [f32],
    /// `[B, width]` of each task: the gradient of its loss.
    pub gradients: &'a [&'a [f32]],
    /// Columns.
    pub width: usize,
    /// Position of each row in the global batch, which does not depend on the ranks.
    pub slots: &'a [u32],
    /// Which of the tensors that make up the representation.
    pub tensor: usize,
}

/// A method that combines the tasks' gradients of the representation itself.
pub trait OnRepresentation {
    /// Fills `out`, `[B, width]`, with what goes on through the trunk.
    fn combine(&self, signal: &Signal, representation: &Representation, out: &mut [f32]);
}
