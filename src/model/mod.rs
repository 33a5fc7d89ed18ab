//! Architectures: from pooled embeddings and dense features to one logit per task.
//!
//! An architecture is one file with its options and a line in `registry.rs`. It sees the rows of its own
//! rank only and knows nothing of ranks: global sums (batch norm) go through [`crate::nn::Context`].

pub mod aitm;
pub mod cgc;
mod chain;
pub mod dtrn;
pub mod esmm;
mod head;
mod input;
pub mod llm4msr;
pub mod m2m;
pub mod mf;
pub mod mmoe;
pub mod mpt;
pub mod omoe;
mod parts;
pub mod pepnet;
pub mod pf_msmtrec;
pub mod ple;
mod registry;
mod scenario;
pub mod shared_bottom;
pub mod single_task;
pub mod star;
pub mod stem;
mod term;
#[cfg(test)]
mod tests;

pub use head::{Head, OnFeatures};
pub use input::InputLayer;
pub use parts::{Gate, Tower, at_least_one, last_width};
pub use registry::{Build, build, in_set, kinds, register, table_sets};
pub use term::{Term, TermKind};

use crate::error::Result;
use crate::nn::{Context, Loss, Repeats};
use candle_core::Tensor;
use std::sync::Arc;

/// Where one feature's vector stands in [`Input::pooled`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name of the feature.
    pub name: String,
    /// First column.
    pub start: usize,
    /// Number of columns.
    pub width: usize,
}

/// What every architecture is told before it is built.
#[derive(Debug, Clone, Default)]
pub struct InputSpec {
    /// Fields of [`Input::pooled`], in order.
    pub fields: Vec<Field>,
    /// Sequences of [`Input::sequences`], in order.
    pub sequences: Vec<SequenceSpec>,
    /// Number of dense columns.
    pub dense_width: usize,
    /// Outputs of each task: 1, or the number of classes.
    pub outputs: Vec<usize>,
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// Names of the scenarios, where the job names a column of them; else empty.
    pub scenarios: Vec<String>,
    /// The loss of each task; `None` for one that is evaluated and not trained. Empty: not known.
    pub losses: Vec<Option<Loss>>,
    /// Names of the sets of embedding tables ([`table_sets`]); empty: one. Each set has the same fields and sequences,
    /// which stand set after set.
    pub sets: Vec<String>,
    /// One per task where the tasks are relations between two features, else empty.
    pub pairs: Vec<PairSpec>,
}

/// A task that is a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairSpec {
    /// Index into `fields` of the left side.
    pub left: usize,
    /// Index into `fields` of the right side, of the same width.
    pub right: usize,
    /// Index into `sequences` of what is drawn against the right side in training.
    pub drawn: Option<usize>,
}

/// One sequence feature that reaches the model unpooled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SequenceSpec {
    /// Name of the feature.
    pub name: String,
    /// Longest length (L).
    pub max_len: usize,
    /// Embedding dimension (d).
    pub dim: usize,
    /// With attention pooling: index into `fields` of the query, whose width equals `dim`. The input layer
    /// then appends the pooled vector to the model's input; without it the model may use the sequence.
    pub target: Option<usize>,
    /// Indices into `fields` of the ids that read the same table, such as the item that is scored beside the items of
    /// a history.
    pub candidates: Vec<usize>,
}

/// One step's input. B rows.
#[derive(Debug, Clone)]
pub struct Input {
    /// Pooled embeddings `[B, Σ widths]`: a leaf whose gradient goes back to the tables. Of equal rows ([`Input::repeats`]) only
    /// the sum of the gradients counts.
    pub pooled: Tensor,
    /// Which rows of `pooled` are the same in some of its columns, in the order of these; of use in training only.
    pub repeats: Arc<[Repeats]>,
    /// Unpooled sequences.
    pub sequences: Vec<Sequence>,
    /// Dense features `[B, dense_width]`.
    pub dense: Tensor,
    /// Number of each row's scenario: an index into [`InputSpec::scenarios`], or their number for "other" (a value that
    /// training has not seen, or none). Empty where the job has no scenarios.
    pub scenarios: Arc<[u32]>,
    /// The class of each row, where a step of training asks for [`Model::row_classes`]; else empty.
    pub classes: Arc<[u32]>,
}

/// One unpooled sequence.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Embedding rows `[B, L, d]`, oldest first, zeros after the last: a leaf.
    pub values: Tensor,
    /// `[B, L]`: 1 where there is an element, else 0.
    pub mask: Tensor,
}

/// A class of every training row, kept from step to step by the row's place in the log. It is drawn by the seed at
/// first; then it is that of the task whose loss on the row is the smallest, among those with a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowClasses {
    /// The number of each class's task.
    pub tasks: Vec<usize>,
    /// Epochs between two assignments.
    pub every_epochs: u64,
}

/// What an architecture returns.
#[derive(Debug, Clone)]
pub struct Output {
    /// One `[B, outputs_k]` tensor of logits per task; `[B, 1]` for a `bpr` task that is not being trained.
    pub logits: Vec<Tensor>,
    /// The last representation that all tasks share: the tensors `[B, d_i]` that make it up, side by side. They
    /// are the very ones that the logits were computed from, so that nothing is copied for it. Shared bottom:
    /// the bottom's output; mixtures: the experts' outputs; CGC and PLE: those of the last level, each task's
    /// experts in order, then the shared ones. Matrix factorisation: the embeddings. DTRN: its module says.
    ///
    /// Empty where the tasks meet nowhere but in the embeddings, or where one task's output feeds the next: then there
    /// is no place to compare the tasks at, and `scope: representation` is refused.
    pub representation: Vec<Tensor>,
    /// What the architecture adds to the tasks' losses, the same terms in the same order on every rank; needed where
    /// [`Context::learns`].
    pub terms: Vec<Term>,
}

impl Output {
    /// What tasks that meet in `representation` predict, with no losses but their own.
    pub fn new(logits: Vec<Tensor>, representation: Vec<Tensor>) -> Self {
        Self { logits, representation, terms: Vec::new() }
    }

    /// The tensors that a task's loss is taken of: its logits, then those of its terms.
    pub fn of_task(&self, task: usize) -> Vec<&Tensor> {
        let terms = self.terms.iter().filter(|term| term.task == task).map(|term| &term.tensor);
        std::iter::once(&self.logits[task]).chain(terms).collect()
    }
}

/// A model: parameters live in the [`crate::nn::ParamStore`] it was built with.
pub trait Model {
    /// Runs the model forward on one batch.
    fn forward(&self, input: &Input, context: &Context) -> Result<Output>;

    /// The classes that the trainer is to keep of the training rows, and to give back in [`Input::classes`].
    fn row_classes(&self) -> Option<RowClasses> {
        None
    }
}
