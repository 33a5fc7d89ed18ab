//! Tables as they stood at one moment, for a thread that reads them while training goes on.
//!
//! Pages of rows are shared until training writes to them; copied at once is what is small: 4 bytes for each row and
//! 16 for each candidate.

use super::admission::Candidate;
use super::arena::Arena;
use super::embeddings::Embeddings;
use super::rows::{TableRows, within};
use super::table::{Meta, Table};
use rayon::prelude::*;
use std::ops::Range;

/// One rank's rows of one table.
#[derive(Debug)]
pub struct TableSnapshot {
    dim: usize,
    owned: Range<usize>,
    /// Slots and candidates of each of `owned`.
    buckets: Vec<(Vec<u32>, Vec<Candidate>)>,
    meta: Arena<Meta>,
    rows: Arena<f32>,
}

impl TableSnapshot {
    /// Copies the rows of `buckets`, as far as the rank owned them.
    pub fn export(&self, buckets: Range<usize>) -> TableRows {
        let buckets = within(&self.owned, buckets);
        let parts = &self.buckets[buckets.start - self.owned.start..buckets.end - self.owned.start];
        let (rows, dim) = (parts.iter().map(|(slots, _)| slots.len()).sum(), self.dim);
        let mut out = TableRows::with_room(buckets, rows, (dim, self.rows.stride() - dim));
        for (slots, candidates) in parts {
            let arenas = (&self.meta, &self.rows, dim);
            out.push_bucket(slots.iter().copied(), candidates.iter().copied(), arenas);
        }
        out
    }
}

impl Table {
    fn snapshot(&mut self) -> TableSnapshot {
        let copied = |shard: &super::table::Bucket| {
            (shard.index.iter().copied().collect(), shard.candidates.iter().copied().collect())
        };
        TableSnapshot {
            dim: self.spec.dim,
            owned: self.buckets.owned(),
            buckets: self.shards.par_iter().map(copied).collect(),
            meta: self.meta.snapshot(),
            rows: self.rows.snapshot(),
        }
    }
}

impl Embeddings {
    /// This rank's tables as they are now, in order. Training goes on beside them, with the memory of the pages that it
    /// changes meanwhile on top.
    pub fn snapshot(&mut self) -> Vec<TableSnapshot> {
        self.tables.iter_mut().map(Table::snapshot).collect()
    }

    /// Whether there is room for what [`Embeddings::snapshot`] can come to cost: all pages of tables that are trained.
    pub fn has_room_for_snapshot(&self) -> bool {
        let trained = self.tables.iter().filter(|table| !table.spec.frozen);
        self.memory.has_room(trained.map(|table| (table.meta.bytes() + table.rows.bytes()) as u64).sum())
    }
}
