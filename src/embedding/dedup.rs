//! Distinct ids in order of first appearance, by one linear pass over an open-addressing hash table that is
//! kept from step to step.

use crate::random::mix;

/// Finds the distinct ids of a stream and counts them.
#[derive(Debug, Default)]
pub struct Dedup {
    entries: Vec<Entry>,
    generation: u32,
    /// The distinct ids, in order of first appearance.
    pub ids: Vec<u64>,
    /// How often each was seen.
    pub counts: Vec<u32>,
}

/// An entry is empty unless it was written in this generation, so that starting anew clears nothing.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    id: u64,
    index: u32,
    generation: u32,
}

const MIN_ENTRIES: usize = 64;

impl Dedup {
    /// Starts a new stream.
    pub fn begin(&mut self) {
        self.ids.clear();
        self.counts.clear();
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 || self.entries.is_empty() {
            self.generation = 1;
            self.entries.clear();
            self.entries.resize(MIN_ENTRIES, Entry::default());
        }
    }

    /// Sees `count` occurrences of `id`; returns its position in `ids`.
    #[inline]
    pub fn insert(&mut self, id: u64, count: u32) -> u32 {
        let mask = self.entries.len() - 1;
        let mut at = first_probe(id, mask);
        loop {
            let entry = self.entries[at];
            if entry.generation != self.generation {
                return self.append(at, id, count);
            }
            if entry.id == id {
                let total = &mut self.counts[entry.index as usize];
                *total = total.saturating_add(count);
                return entry.index;
            }
            at = (at + 1) & mask;
        }
    }

    fn append(&mut self, at: usize, id: u64, count: u32) -> u32 {
        let index = self.ids.len() as u32;
        self.entries[at] = Entry { id, index, generation: self.generation };
        self.ids.push(id);
        self.counts.push(count);
        if self.ids.len() * 2 > self.entries.len() {
            self.grow();
        }
        index
    }

    /// Doubles the table: it is at most half full, which keeps probes short.
    fn grow(&mut self) {
        let size = self.entries.len() * 2;
        self.entries.clear();
        self.entries.resize(size, Entry::default());
        for (index, &id) in self.ids.iter().enumerate() {
            let mut at = first_probe(id, size - 1);
            while self.entries[at].generation == self.generation {
                at = (at + 1) & (size - 1);
            }
            self.entries[at] = Entry { id, index: index as u32, generation: self.generation };
        }
    }
}

/// From the high bits: the low ones are the bucket, of which an owner sees only its own.
#[inline]
fn first_probe(id: u64, mask: usize) -> usize {
    (mix(id) >> 32) as usize & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_agrees_with_a_map(streams in prop::collection::vec(prop::collection::vec((0u64..300, 1u32..4), 0..400), 1..4)) {
            let mut dedup = Dedup::default();
            for stream in streams {
                dedup.begin();
                let mut counts: HashMap<u64, u32> = HashMap::new();
                let mut order = Vec::new();
                for (id, count) in stream {
                    if !counts.contains_key(&id) {
                        order.push(id);
                    }
                    *counts.entry(id).or_default() += count;
                    let index = dedup.insert(id, count);
                    prop_assert_eq!(dedup.ids[index as usize], id);
                }
                prop_assert_eq!(&dedup.ids, &order);
                prop_assert!(order.iter().zip(&dedup.counts).all(|(id, n)| counts[id] == *n));
            }
        }
    }

    #[test]
    fn a_worn_out_generation_forgets_everything() {
        let mut dedup = Dedup::default();
        dedup.begin();
        dedup.insert(5, 1);
        dedup.generation = u32::MAX;
        dedup.insert(6, 1);
        dedup.begin();
        assert!(dedup.ids.is_empty());
        assert_eq!(dedup.insert(6, 2), 0);
        assert_eq!(dedup.counts, [2]);
    }
}
