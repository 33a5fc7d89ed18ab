//! What the training log pairs: for each task the right-hand ids there are, and those that each left-hand id goes with.
//!
//! ```text
//! rights   [3, 5, 8, 9]            every right-hand id of the log, sorted: the candidates; 8 bytes each
//! lefts    [2, 7]                  every left-hand id with a positive row, sorted; 16 bytes each
//! known    0 2 | 1 2 3             their positives, as indices into `rights`; 4 bytes a distinct pair
//! ```
//!
//! It is the same on every rank, whole: negatives may not be known positives, and a ranking leaves them out.

mod collect;
mod pair;

pub use pair::{Pair, by_left};

use super::negatives::Draw;
use super::schema::{Schema, TaskColumns};

/// The relations of a training log, by task.
#[derive(Debug, Default)]
pub struct Relations(Vec<Option<Relation>>);

/// What one task pairs.
#[derive(Debug, PartialEq)]
pub struct Relation {
    rights: Vec<u64>,
    lefts: Vec<u64>,
    /// The positives of `lefts[i]` are `known[starts[i]..starts[i + 1]]`, sorted.
    starts: Vec<usize>,
    known: Vec<u32>,
    draw: Draw,
}

impl Relations {
    /// Whether a job with this schema needs them: to draw negatives, or to rank.
    pub fn needed(schema: &Schema) -> bool {
        schema.tasks.iter().any(is_needed)
    }

    /// The relation of a task that needs one.
    pub fn of(&self, task: usize) -> Option<&Relation> {
        self.0.get(task)?.as_ref()
    }
}

fn is_needed(task: &TaskColumns) -> bool {
    task.pair.is_some_and(|pair| pair.negatives.is_some()) || !task.ranked_at.is_empty()
}

impl Relation {
    /// Every right-hand id of the log, sorted.
    pub fn candidates(&self) -> &[u64] {
        &self.rights
    }

    /// The index of a right-hand id among the candidates.
    pub fn index_of(&self, right: u64) -> Option<u32> {
        self.rights.binary_search(&right).ok().map(|index| index as u32)
    }

    /// The positives of a left-hand id as sorted indices of candidates, and the id itself where both sides are of one
    /// table; `None` for an id without positives.
    pub fn known(&self, left: u64) -> Option<&[u32]> {
        let at = self.lefts.binary_search(&left).ok()?;
        Some(&self.known[self.starts[at]..self.starts[at + 1]])
    }

    /// A candidate that is not in `known`, as a pure function of `key`; `None` if there is none.
    pub fn negative(&self, known: &[u32], key: u64) -> Option<u64> {
        self.draw.unknown(self.rights.len(), known, key).map(|index| self.rights[index])
    }

    /// Distinct pairs held.
    pub fn pairs(&self) -> usize {
        self.known.len()
    }
}
