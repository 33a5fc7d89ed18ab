//! Rows as plain columns, for checkpoints: sorted by (bucket, id), without a trace of the ranks.

use super::admission::{self, Candidate};
use super::arena::Arena;
use super::memory::Memory;
use super::table::{Meta, Table};
use crate::error::{Error, Result};
use std::ops::Range;

/// Rows of some buckets of one table, in order of (bucket, id); N rows, C candidates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableRows {
    /// The buckets held here.
    pub buckets: Range<usize>,
    /// Rows of each of `buckets`; adds up to N.
    pub bucket_rows: Vec<u64>,
    /// `[N]`.
    pub ids: Vec<u64>,
    /// `[N, dim]`.
    pub values: Vec<f32>,
    /// `[N, Σ slot widths]`.
    pub state: Vec<f32>,
    /// `[N]`: occurrences in training rows.
    pub counts: Vec<u32>,
    /// `[N]`: the last training step that saw the id.
    pub last_steps: Vec<u32>,
    /// Candidates of each of `buckets`; adds up to C.
    pub bucket_candidates: Vec<u64>,
    /// `[C]`: ids that wait for admission.
    pub candidate_ids: Vec<u64>,
    /// `[C]`: their occurrences so far.
    pub candidate_counts: Vec<u32>,
}

/// The part of `buckets` that is in `owned`.
pub(super) fn within(owned: &Range<usize>, buckets: Range<usize>) -> Range<usize> {
    let start = buckets.start.clamp(owned.start, owned.end);
    start..buckets.end.clamp(start, owned.end)
}

impl TableRows {
    /// Those rows whose ids are `wanted`, without candidates.
    #[must_use]
    pub fn of_ids(&self, wanted: impl Fn(u64) -> bool) -> Self {
        let (n, mut kept) = (self.ids.len().max(1), Self { buckets: self.buckets.clone(), ..Self::default() });
        let (dim, width) = (self.values.len() / n, self.state.len() / n);
        for (row, &id) in self.ids.iter().enumerate().filter(|(_, id)| wanted(**id)) {
            kept.ids.push(id);
            kept.values.extend_from_slice(&self.values[row * dim..][..dim]);
            kept.state.extend_from_slice(&self.state[row * width..][..width]);
            kept.counts.push(self.counts[row]);
            kept.last_steps.push(self.last_steps[row]);
        }
        kept.bucket_rows.push(kept.ids.len() as u64);
        kept
    }

    /// Those rows whose ids are `wanted`, in all its buckets, without candidates.
    #[must_use]
    pub fn keeping(&self, wanted: impl Fn(u64) -> bool) -> Self {
        let mut kept = self.of_ids(&wanted);
        let mut ids = self.ids.iter();
        let rows = |&rows: &u64| ids.by_ref().take(rows as usize).filter(|id| wanted(**id)).count() as u64;
        kept.bucket_rows = self.bucket_rows.iter().map(rows).collect();
        kept.bucket_candidates = vec![0; self.bucket_candidates.len()];
        kept
    }

    /// Without rows, with room for some.
    pub(super) fn with_room(buckets: Range<usize>, rows: usize, (dim, width): (usize, usize)) -> Self {
        Self {
            buckets,
            ids: Vec::with_capacity(rows),
            values: Vec::with_capacity(rows * dim),
            state: Vec::with_capacity(rows * width),
            counts: Vec::with_capacity(rows),
            last_steps: Vec::with_capacity(rows),
            ..Self::default()
        }
    }

    /// Adds the rows of the next bucket: those of `slots` and the `candidates`, in any order.
    pub(super) fn push_bucket(
        &mut self,
        slots: impl Iterator<Item = u32>,
        candidates: impl Iterator<Item = Candidate>,
        (meta, rows, dim): (&Arena<Meta>, &Arena<f32>, usize),
    ) {
        let mut entries: Vec<(u64, u32)> = slots.map(|slot| (meta.row(slot)[0].id, slot)).collect();
        entries.sort_unstable();
        self.bucket_rows.push(entries.len() as u64);
        for (id, slot) in entries {
            let Meta { count, last_step, .. } = meta.row(slot)[0];
            let (values, state) = rows.row(slot).split_at(dim);
            self.ids.push(id);
            self.values.extend_from_slice(values);
            self.state.extend_from_slice(state);
            self.counts.push(count);
            self.last_steps.push(last_step);
        }
        let mut candidates: Vec<Candidate> = candidates.collect();
        candidates.sort_unstable_by_key(|c| c.id);
        self.bucket_candidates.push(candidates.len() as u64);
        self.candidate_ids.extend(candidates.iter().map(|c| c.id));
        self.candidate_counts.extend(candidates.iter().map(|c| c.count));
    }
}

impl Table {
    /// Copies the rows of `buckets`, as far as this rank owns them.
    pub fn export(&self, buckets: Range<usize>) -> TableRows {
        let owned = self.buckets.owned();
        let buckets = within(&owned, buckets);
        let shards = &self.shards[buckets.start - owned.start..buckets.end - owned.start];
        let (rows, dim) = (shards.iter().map(|shard| shard.index.len()).sum(), self.spec.dim);
        let mut out = TableRows::with_room(buckets, rows, (dim, self.rows.stride() - dim));
        for shard in shards {
            let (slots, candidates) = (shard.index.iter().copied(), shard.candidates.iter().copied());
            out.push_bucket(slots, candidates, (&self.meta, &self.rows, dim));
        }
        out
    }

    /// Adds those rows and candidates whose buckets this rank owns; returns how many of each.
    pub fn import(&mut self, rows: &TableRows, memory: &Memory) -> Result<(usize, usize)> {
        self.check_lengths(rows)?;
        Ok((self.import_rows(rows, memory)?, self.import_candidates(rows, memory)?))
    }

    /// Makes rows of another run fit this table: their steps are not this run's, and their optimizer state is taken over
    /// only if `keep_state`.
    pub fn renew(&self, rows: &mut TableRows, keep_state: bool) -> Result<()> {
        let dim = self.spec.dim;
        if rows.values.len() != rows.ids.len() * dim {
            return Err(self.misfit("values", rows.values.len(), rows.ids.len() * dim));
        }
        rows.last_steps.fill(0);
        if self.spec.frozen || self.spec.admission.is_none() {
            rows.bucket_candidates.fill(0);
            rows.candidate_ids.clear();
            rows.candidate_counts.clear();
        }
        if keep_state {
            return Ok(());
        }
        let width = self.rows.stride() - dim;
        rows.state.clear();
        rows.state.resize(rows.ids.len() * width, 0.0);
        if !self.spec.frozen {
            let states = rows.state.chunks_exact_mut(width.max(1));
            rows.values.chunks_exact(dim).zip(states).for_each(|(row, state)| self.spec.optimizer.init(row, state));
        }
        Ok(())
    }

    fn import_rows(&mut self, rows: &TableRows, memory: &Memory) -> Result<usize> {
        let dim = self.spec.dim;
        let state_width = self.rows.stride() - dim;
        let owned = self.buckets.owned();
        let mut taken = 0;
        for (i, &id) in rows.ids.iter().enumerate() {
            if !owned.contains(&self.buckets.of(id)) {
                continue;
            }
            if self.find(id).is_some() {
                return Err(self.twice(id));
            }
            let meta = Meta { id, count: rows.counts[i], last_step: rows.last_steps[i] };
            let slot = self.insert(meta, memory).map_err(|shortage| self.too_large(shortage))?;
            let (values, state) = self.rows.row_mut(slot).split_at_mut(dim);
            values.copy_from_slice(&rows.values[i * dim..(i + 1) * dim]);
            state.copy_from_slice(&rows.state[i * state_width..(i + 1) * state_width]);
            taken += 1;
        }
        Ok(taken)
    }

    fn import_candidates(&mut self, rows: &TableRows, memory: &Memory) -> Result<usize> {
        let owned = self.buckets.owned();
        let mut taken = 0;
        for (&id, &count) in rows.candidate_ids.iter().zip(&rows.candidate_counts) {
            let bucket = self.buckets.of(id);
            if !owned.contains(&bucket) {
                continue;
            }
            let candidates = &mut self.shards[bucket - owned.start].candidates;
            if admission::contains(candidates, id) {
                return Err(self.twice(id));
            }
            admission::insert(candidates, memory, Candidate { id, count })
                .map_err(|shortage| self.too_large(shortage))?;
            taken += 1;
        }
        Ok(taken)
    }

    /// Columns come from a file: their lengths must fit each other and this table.
    fn check_lengths(&self, rows: &TableRows) -> Result<()> {
        let n = rows.ids.len();
        let total = |parts: &[u64]| parts.iter().fold(0u64, |sum, &n| sum.saturating_add(n)) as usize;
        let dim = self.spec.dim;
        for (what, found, wanted) in [
            ("row counts of the buckets", total(&rows.bucket_rows), n),
            ("values", rows.values.len(), n * dim),
            ("optimizer state", rows.state.len(), n * (self.rows.stride() - dim)),
            ("counts", rows.counts.len(), n),
            ("last steps", rows.last_steps.len(), n),
            ("candidate counts", rows.candidate_counts.len(), rows.candidate_ids.len()),
            ("candidate counts of the buckets", total(&rows.bucket_candidates), rows.candidate_ids.len()),
        ] {
            if found != wanted {
                return Err(self.misfit(what, found, wanted));
            }
        }
        Ok(())
    }

    fn misfit(&self, what: &str, found: usize, wanted: usize) -> Error {
        Error::checkpoint(format!("{found} numbers for {what}, where {wanted} are needed"))
            .at("table", &self.spec.name)
            .fix("load a checkpoint of a job with the same dim and sparse optimizer for this table")
    }

    fn twice(&self, id: u64) -> Error {
        Error::checkpoint(format!("id {id} appears twice")).at("table", &self.spec.name)
    }
}
