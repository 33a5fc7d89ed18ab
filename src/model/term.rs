//! Losses that an architecture adds to those of its tasks.

use candle_core::Tensor;

/// A part of one task's loss beside the loss of its logits: `weight` times what `kind` makes of `tensor`. The task's
/// loss, as every balancing method sees it, is the sum; evaluation and prediction know nothing of terms.
///
/// A task without a labelled row in the global batch takes no part in the step, and neither do its terms.
#[derive(Debug, Clone)]
pub struct Term {
    /// Number of the task.
    pub task: usize,
    /// What the loss is taken of, on the graph.
    pub tensor: Tensor,
    /// Factor of the loss, before the task's own static weight.
    pub weight: f64,
    /// How the tensor becomes a loss.
    pub kind: TermKind,
}

/// How a [`Term`]'s tensor becomes a loss. Every mean is over rows of the global batch; padding counts nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TermKind {
    /// The mean of the numbers `[B, 1]` themselves over all rows.
    Penalty,
    /// The task's own loss with these as logits `[B, outputs]`: the mean over the task's labelled rows.
    Label,
    /// Softmax cross-entropy of these logits `[B, classes]`: the mean over the rows that have a class.
    Class {
        /// The class of each row, if it has one.
        targets: Vec<Option<u32>>,
    },
}
