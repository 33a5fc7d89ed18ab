//! Pairs of ids on their way to the rank that owns their left-hand one.

use crate::comm::{Communicator, collectives};
use crate::error::Result;
use crate::random::mix;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// A left-hand id with a right-hand one. In order, pairs of one left-hand id stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct Pair {
    /// The left-hand id.
    pub left: u64,
    /// The right-hand id.
    pub right: u64,
}

impl Pair {
    /// Sends every pair to the owner of its left-hand id; returns this rank's, sorted and distinct. Collective.
    pub fn to_owners(comm: &dyn Communicator, mut pairs: Vec<Self>) -> Result<Vec<Self>> {
        pairs.par_sort_unstable();
        pairs.dedup();
        if comm.size() == 1 {
            return Ok(pairs);
        }
        let ranks = comm.size() as u64;
        let owner = |pair: &Self| (mix(pair.left) % ranks) as usize;
        pairs.par_sort_by_key(owner);
        let mut counts = vec![0; comm.size()];
        pairs.iter().for_each(|pair| counts[owner(pair)] += 1);
        let mut mine = collectives::all_to_all(comm, &pairs, &counts)?.0;
        mine.par_sort_unstable();
        mine.dedup();
        Ok(mine)
    }
}

/// The distinct left-hand ids of sorted pairs, each with its pairs.
pub fn by_left(pairs: &[Pair]) -> impl Iterator<Item = (u64, &[Pair])> {
    pairs.chunk_by(|a, b| a.left == b.left).map(|of| (of[0].left, of))
}
