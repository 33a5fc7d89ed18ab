//! One rank's part of one table.
//!
//! ```text
//! per bucket   index: probe hash → slot (u32)        candidates: id → count (with admission)
//! per slot     meta:  id u64 | count u32 | last_step u32                          16 bytes
//!              rows:  values, dim × f32 | optimizer state, Σ widths × f32
//! ```
//!
//! The index holds slots only and compares ids in `meta`: 5 bytes an entry at a load of 7/16 to 7/8. Slots
//! never move, so that what a lookup found is still right when its update comes.

use super::admission::{self, Candidates};
use super::arena::Arena;
use super::bucket::Buckets;
use super::eviction::Entry;
use super::init::table_seed;
use super::memory::{Fit, Memory, Shortage, grow_index};
use super::spec::TableSpec;
use crate::error::Result;
use crate::random::mix;
use crate::simd;
use hashbrown::HashTable;
use rayon::prelude::*;

/// The slot of an id without a row.
pub const NO_SLOT: u32 = u32::MAX;

/// Ids that one thread looks up, and rows that it copies, at a time.
const FIND_IDS: usize = 4096;

/// What a row knows beside its numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meta {
    pub id: u64,
    pub count: u32,
    pub last_step: u32,
}

/// One bucket of a table.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub index: HashTable<u32>,
    pub candidates: Candidates,
}

/// One rank's rows of one table.
#[derive(Debug)]
pub(super) struct Table {
    pub spec: TableSpec,
    pub buckets: Buckets,
    pub shards: Vec<Bucket>,
    pub meta: Arena<Meta>,
    pub rows: Arena<f32>,
    pub free: Vec<u32>,
    seed: u64,
}

impl Table {
    /// An empty table.
    pub fn new(spec: TableSpec, buckets: &Buckets, seed: u64) -> Self {
        let state: usize = spec.slots().iter().map(|slot| slot.width).sum();
        Self {
            seed: table_seed(seed, &spec.name),
            rows: Arena::new(spec.dim + state),
            meta: Arena::new(1),
            shards: buckets.owned().map(|_| Bucket::default()).collect(),
            buckets: buckets.clone(),
            free: Vec::new(),
            spec,
        }
    }

    /// Rows held now.
    pub fn len(&self) -> usize {
        self.meta.rows() - self.free.len()
    }

    /// Meta of a slot.
    #[inline]
    pub fn meta(&self, slot: u32) -> &Meta {
        &self.meta.row(slot)[0]
    }

    /// What eviction sees of a row.
    pub fn entry(&self, slot: u32) -> Entry {
        let &Meta { id, count, last_step } = self.meta(slot);
        Entry { id, count, last_step, slot }
    }

    /// Position of the owned bucket of an id among this rank's buckets.
    #[inline]
    fn shard(&self, hash: u64) -> usize {
        self.buckets.of_hash(hash) - self.buckets.owned().start
    }

    /// The slot of an id that this rank owns.
    #[inline]
    pub fn find(&self, id: u64) -> Option<u32> {
        let hash = mix(id);
        let index = &self.shards[self.shard(hash)].index;
        index.find(probe(hash), |&slot| self.meta(slot).id == id).copied()
    }

    /// Slots of distinct ids, without changing anything.
    ///
    /// A plain [`Table::find`] is a chain of cache misses: index, then id. Here a first pass takes from the
    /// index whatever has the right tag, a second compares ids; inside a pass nothing waits for anything, so
    /// that the processor fetches many rows at once. The few wrong guesses are looked up again.
    pub fn find_all(&self, ids: &[u64], slots: &mut Vec<u32>) {
        slots.resize(ids.len(), NO_SLOT);
        ids.par_chunks(FIND_IDS).zip(slots.par_chunks_mut(FIND_IDS)).for_each(|(ids, slots)| {
            for (&id, slot) in ids.iter().zip(&mut *slots) {
                let hash = mix(id);
                let guess = self.shards[self.shard(hash)].index.find(probe(hash), |_| true);
                *slot = guess.copied().unwrap_or(NO_SLOT);
            }
            for (&id, slot) in ids.iter().zip(slots) {
                if *slot != NO_SLOT && self.meta(*slot).id != id {
                    *slot = self.find(id).unwrap_or(NO_SLOT);
                }
            }
        });
    }

    /// Slots of distinct ids in a training step, each with its occurrences in the global batch: admits and
    /// makes rows, and keeps counts and last steps, unless the table is frozen.
    pub fn train_all(
        &mut self,
        ids: &[u64],
        counts: &[u32],
        step: u64,
        memory: &Memory,
        slots: &mut Vec<u32>,
    ) -> Result<()> {
        self.find_all(ids, slots);
        if self.spec.frozen {
            return Ok(());
        }
        for ((&id, &count), slot) in ids.iter().zip(counts).zip(slots) {
            if *slot == NO_SLOT {
                *slot = self.meet(id, count, step, memory).map_err(|shortage| self.too_large(shortage))?;
            } else {
                let meta = &mut self.meta.row_mut(*slot)[0];
                meta.count = meta.count.saturating_add(count);
                meta.last_step = clamp_step(step);
            }
        }
        Ok(())
    }

    /// Handles an id without a row: a new row, or [`NO_SLOT`] if it is not admitted yet.
    fn meet(&mut self, id: u64, count: u32, step: u64, memory: &Memory) -> Fit<u32> {
        let seen = match &self.spec.admission {
            None => Some(count),
            Some(admission) => {
                let shard = self.shard(mix(id));
                let candidates = &mut self.shards[shard].candidates;
                admission::observe(admission, candidates, memory, self.seed, (id, count), step)?
            }
        };
        let Some(count) = seen else {
            return Ok(NO_SLOT);
        };
        let slot = self.insert(Meta { id, count, last_step: clamp_step(step) }, memory)?;
        let (values, state) = self.rows.row_mut(slot).split_at_mut(self.spec.dim);
        self.spec.init.fill(self.seed, id, values);
        self.spec.optimizer.init(values, state);
        Ok(slot)
    }

    /// Makes a row for an id that has none; its numbers are left as they are.
    pub fn insert(&mut self, meta: Meta, memory: &Memory) -> Fit<u32> {
        let hash = mix(meta.id);
        let shard = self.shard(hash);
        let probe_of = |metas: &Arena<Meta>, slot: u32| probe(mix(metas.row(slot)[0].id));
        let Self { shards, meta: metas, .. } = self;
        grow_index(&mut shards[shard].index, memory, |&slot| probe_of(metas, slot))?;
        let slot = self.take_slot(memory)?;
        self.meta.row_mut(slot)[0] = meta;
        let Self { shards, meta: metas, .. } = self;
        shards[shard].index.insert_unique(probe(hash), slot, |&slot| probe_of(metas, slot));
        Ok(slot)
    }

    /// A slot that holds no row: one of an evicted row, else a new one.
    fn take_slot(&mut self, memory: &Memory) -> Fit<u32> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let slot = self.meta.rows();
        if slot == NO_SLOT as usize {
            return Err(Shortage::of_system(self.rows.row_bytes()));
        }
        grow_arena(&mut self.meta, memory)?;
        grow_arena(&mut self.rows, memory)?;
        self.meta.push(Meta::default());
        self.rows.push(0.0);
        Ok(slot as u32)
    }

    /// Copies the values of `slots` to `out`, `slots.len() × dim` floats; zeros for [`NO_SLOT`].
    pub fn gather(&self, slots: &[u32], out: &mut [f32]) {
        let dim = self.spec.dim;
        slots.par_chunks(FIND_IDS).zip(out.par_chunks_mut(FIND_IDS * dim)).for_each(|(slots, out)| {
            for (i, (&slot, out)) in slots.iter().zip(out.chunks_exact_mut(dim)).enumerate() {
                self.prefetch(slots, i);
                match slot {
                    NO_SLOT => out.fill(0.0),
                    slot => out.copy_from_slice(&self.rows.row(slot)[..dim]),
                }
            }
        });
    }

    /// Runs the optimizer once on each of the distinct `slots`, with `grads` of `slots.len() × dim` floats.
    pub fn apply(&mut self, slots: &[u32], grads: &[f32], lr_factor: f64) {
        for (i, (&slot, grad)) in slots.iter().zip(grads.chunks_exact(self.spec.dim)).enumerate() {
            self.prefetch(slots, i);
            if slot != NO_SLOT {
                let (values, state) = self.rows.row_mut(slot).split_at_mut(self.spec.dim);
                self.spec.optimizer.update(values, state, grad, lr_factor);
            }
        }
    }

    /// Asks for the row that will be needed some rows after the `i`-th of `slots`: rows lie all over the memory.
    #[inline]
    fn prefetch(&self, slots: &[u32], i: usize) {
        const AHEAD: usize = 8;
        if let Some(&slot) = slots.get(i + AHEAD)
            && slot != NO_SLOT
        {
            let row = self.rows.row(slot);
            simd::prefetch(row);
            simd::prefetch(&row[row.len() - 1..]);
        }
    }

    /// Replaces the values of those of `ids` that have a row, and leaves their optimizer state.
    pub fn overwrite(&mut self, ids: &[u64], values: &[f32]) {
        let dim = self.spec.dim;
        for (&id, values) in ids.iter().zip(values.chunks_exact(dim)) {
            if let Some(slot) = self.find(id) {
                self.rows.row_mut(slot)[..dim].copy_from_slice(values);
            }
        }
    }

    /// Drops the rows that eviction says must go after `step`; whether there were any.
    pub fn evict(&mut self, step: u64) -> bool {
        let Some(eviction) = self.spec.eviction.filter(|_| !self.spec.frozen) else {
            return false;
        };
        let before = self.free.len();
        for (shard, bucket) in self.buckets.owned().enumerate() {
            let over = eviction.cap(bucket).is_some_and(|cap| self.shards[shard].index.len() > cap);
            if !over && !eviction.sweeps(bucket, step) {
                continue;
            }
            let mut entries: Vec<Entry> = self.shards[shard].index.iter().map(|&slot| self.entry(slot)).collect();
            if eviction.sweeps(bucket, step) {
                let (old, kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| eviction.is_old(e, step));
                self.remove(shard, &old);
                entries = kept;
            }
            if let Some(cap) = eviction.cap(bucket) {
                let dropped = eviction.choose(&mut entries, cap);
                self.remove(shard, &entries[..dropped]);
            }
        }
        self.free.len() > before
    }

    fn remove(&mut self, shard: usize, entries: &[Entry]) {
        for entry in entries {
            if let Ok(found) = self.shards[shard].index.find_entry(probe(mix(entry.id)), |&slot| slot == entry.slot) {
                found.remove();
                self.free.push(entry.slot);
            }
        }
    }
}

/// Makes room for one more row, or says what is missing.
fn grow_arena<T: Copy>(arena: &mut Arena<T>, memory: &Memory) -> Fit<()> {
    if !arena.is_full() {
        return Ok(());
    }
    memory.reserve(arena.page_bytes())?;
    arena.grow().map_err(|_| Shortage::of_system(arena.page_bytes()))
}

/// The hash that a bucket's index probes with: the low bits, which are the bucket, come last.
#[inline]
fn probe(hash: u64) -> u64 {
    hash.rotate_right(32)
}

fn clamp_step(step: u64) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX)
}
