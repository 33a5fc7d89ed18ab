//! Buckets: the logical shards of every table, and which rank owns which.
//!
//! ```text
//! mix(id), 64 bits:   63 ………………………… 32 31 ………… k  k-1 … 0
//!                     probe position    probe tag   bucket        (in a bucket's index; 2^k buckets)
//! ```
//!
//! Rank r of R owns buckets B·r/R .. B·(r+1)/R, so another number of ranks only moves the boundaries.

use crate::error::{Error, Result};
use crate::random::mix;
use std::ops::Range;

/// Buckets of a table where the job does not say otherwise.
pub const DEFAULT_BUCKETS: usize = 1024;

/// More buckets than this would reach into the bits that a bucket's own index probes with.
const MAX_BUCKETS: usize = 1 << 20;

/// The buckets of all tables and their owners.
#[derive(Debug, Clone)]
pub struct Buckets {
    owners: Vec<u32>,
    owned: Range<usize>,
}

impl Buckets {
    /// `count` buckets, a power of two, over `size` ranks, seen from `rank`.
    pub fn new(count: usize, rank: usize, size: usize) -> Result<Self> {
        if !count.is_power_of_two() || count > MAX_BUCKETS {
            return Err(
                Error::job(format!("{count} embedding buckets")).fix(format!("use a power of two up to {MAX_BUCKETS}"))
            );
        }
        if rank >= size {
            return Err(Error::internal(format!("rank {rank} of {size}")));
        }
        let mut owners = vec![0; count];
        for r in 0..size {
            owners[range(count, r, size)].fill(r as u32);
        }
        Ok(Self { owners, owned: range(count, rank, size) })
    }

    /// Number of buckets over all ranks.
    pub fn count(&self) -> usize {
        self.owners.len()
    }

    /// The buckets of this rank.
    pub fn owned(&self) -> Range<usize> {
        self.owned.clone()
    }

    /// The bucket of an id whose `mix` is `hash`.
    #[inline]
    pub fn of_hash(&self, hash: u64) -> usize {
        hash as usize & (self.owners.len() - 1)
    }

    /// The bucket of an id.
    #[inline]
    pub fn of(&self, id: u64) -> usize {
        self.of_hash(mix(id))
    }

    /// The rank that owns an id.
    #[inline]
    pub fn owner(&self, id: u64) -> usize {
        self.owners[self.of(id)] as usize
    }
}

/// The buckets that rank `rank` of `size` owns.
pub fn range(count: usize, rank: usize, size: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_has_the_owner_whose_range_holds_it() {
        for size in [1, 2, 3, 5, 7, 20] {
            let mut next = 0;
            for rank in 0..size {
                let buckets = Buckets::new(16, rank, size).unwrap();
                assert_eq!(buckets.owned().start, next);
                next = buckets.owned().end;
                for id in 0..1000 {
                    assert_eq!(buckets.owner(id) == rank, buckets.owned().contains(&buckets.of(id)));
                }
            }
            assert_eq!(next, 16);
        }
    }

    #[test]
    fn consecutive_ids_spread_evenly() {
        let buckets = Buckets::new(1024, 0, 1).unwrap();
        let mut rows = vec![0; 1024];
        (0..102_400).for_each(|id| rows[buckets.of(id)] += 1);
        assert!(rows.iter().all(|&n| (50..160).contains(&n)), "{rows:?}");
    }

    #[test]
    fn counts_that_are_no_power_of_two_are_refused() {
        for count in [0, 3, 1000, MAX_BUCKETS * 2] {
            assert!(Buckets::new(count, 0, 1).is_err(), "{count}");
        }
    }
}
