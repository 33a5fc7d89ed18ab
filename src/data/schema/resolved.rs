//! Columns, features and tasks as the reader needs them: names are indices.

use crate::config::job::{Negatives, TaskKind, Transform};
use crate::data::accepts::Accepts;

/// One column and what its uses accept.
#[derive(Debug, Clone)]
pub struct Column {
    /// Name in the files.
    pub name: String,
    /// Every use of it, with the job key that asks for it.
    pub uses: Vec<(Accepts, String)>,
}

/// A feature that becomes ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdFeature {
    /// Name of the feature.
    pub name: String,
    /// Embedding table.
    pub table: String,
    /// Position in the job's `features`.
    pub feature: usize,
    /// Most ids a row can have; `None` is no limit.
    pub max_len: Option<usize>,
    /// Where the ids come from.
    pub source: IdSource,
}

/// Where the ids of a feature come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdSource {
    /// A column of ids or lists of ids. `last` keeps the last `max_len` ids of a list, else the first.
    Ids {
        /// Index into [`Schema::columns`](super::Schema::columns).
        column: usize,
        /// Which end of a long list is kept.
        last: bool,
    },
    /// The columns that are hashed together.
    Cross {
        /// Indices into [`Schema::columns`](super::Schema::columns).
        columns: Vec<usize>,
    },
    /// The quantile bucket of a number; a null has the bucket after the last.
    Quantile {
        /// Index into [`Schema::columns`](super::Schema::columns).
        column: usize,
        /// Buckets asked for.
        buckets: usize,
    },
}

/// A feature that becomes numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseFeature {
    /// Name of the feature.
    pub name: String,
    /// Position in the job's `features`.
    pub feature: usize,
    /// Index into [`Schema::columns`](super::Schema::columns).
    pub column: usize,
    /// First of its numbers in a row of [`crate::data::batch::Batch::dense`].
    pub start: usize,
    /// How many numbers it has.
    pub width: usize,
    /// The transform of a number; `None` for a vector, which is taken as it is.
    pub transform: Option<Transform>,
}

/// The columns of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskColumns {
    /// Name of the task.
    pub name: String,
    /// What is predicted.
    pub kind: TaskKind,
    /// `multiclass`: number of classes; else 1.
    pub classes: usize,
    /// Column of the label; `None` when predicting.
    pub label: Option<usize>,
    /// The ids of the label column that are 1, where the job lists them; then the others are 0.
    pub positive: Vec<u64>,
    /// Column that says whether a row carries the label.
    pub mask: Option<usize>,
    /// Index into [`Schema::group_columns`](super::Schema::group_columns).
    pub group: Option<usize>,
    /// The two sides of a relation.
    pub pair: Option<PairColumns>,
    /// Lengths of the rankings that the task is evaluated by.
    pub ranked_at: Vec<usize>,
}

/// The sides of a task that is a relation between two features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairColumns {
    /// Index into [`Schema::id_features`](super::Schema::id_features) of the side that has one id a row.
    pub left: usize,
    /// Index into [`Schema::id_features`](super::Schema::id_features) of the other, of which a row may have several ids.
    pub right: usize,
    /// What is drawn against the pair, of a `bpr` task.
    pub negatives: Option<Negatives>,
}

/// What one column of [`crate::data::batch::Batch::ids`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdColumnUse {
    /// Index into [`Schema::id_features`](super::Schema::id_features).
    pub feature: usize,
    /// Its part in a pair; `None` where it is a feature as it is.
    pub side: Option<Side>,
}

/// A part of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The left-hand id.
    Left,
    /// The right-hand id; when not training all of the row.
    Right,
    /// So many ids that are drawn against the right-hand one; none when not training.
    Negatives(usize),
}

/// A numeric feature as the statistics see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumericFeature<'a> {
    /// Name of the feature.
    pub name: &'a str,
    /// Index into [`Schema::columns`](super::Schema::columns).
    pub column: usize,
    /// Buckets, for `transform: quantile`.
    pub buckets: Option<usize>,
}
