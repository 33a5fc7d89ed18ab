//! One pass over the training log for what it pairs, split over the ranks by row groups.
//!
//! Pairs go to the rank that owns their left-hand id, which drops duplicates; what is left is gathered by all. A rank
//! holds 16 bytes for each pair of a row group of its own, then 8 for each distinct pair of the log while they are
//! gathered, and 4 in the end.

use super::super::decode::Decoder;
use super::super::lanes::Piece;
use super::super::negatives::Draw;
use super::super::reader::Files;
use super::super::schema::{PairColumns, Schema};
use super::super::statistics::Statistics;
use super::{Pair, Relation, Relations, by_left, is_needed};
use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::collections::HashMap;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 8192;

/// Training rows that hold an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
struct Count {
    id: u64,
    rows: u64,
}

/// What some rows hold of one task.
#[derive(Debug, Default)]
struct Found {
    pairs: Vec<Pair>,
    rights: HashMap<u64, u64>,
}

impl Found {
    fn merge(&mut self, other: Self) {
        self.pairs.extend(other.pairs);
        for (id, rows) in other.rights {
            *self.rights.entry(id).or_default() += rows;
        }
    }
}

impl Relations {
    /// Reads all row groups, each on one rank. Collective; an error on one rank is returned by all.
    pub fn collect(comm: &dyn Communicator, files: &Files, statistics: &Statistics) -> Result<Self> {
        let schema = files.schema();
        if !Self::needed(schema) {
            return Ok(Self::default());
        }
        let groups = files.plan().row_groups.len() as u32;
        let mine: Vec<u32> = (comm.rank() as u32..groups).step_by(comm.size()).collect();
        let read: Vec<_> = mine.par_iter().map(|&group| read_group(files, statistics, group)).collect();
        let read = collectives::agree(comm, read.into_iter().collect::<Result<Vec<_>>>())?;
        let mut found: Vec<Found> = schema.tasks.iter().map(|_| Found::default()).collect();
        for group in read {
            found.iter_mut().zip(group).for_each(|(sum, part)| sum.merge(part));
        }
        let relation = |(task, found): (usize, Found)| match schema.tasks[task].pair {
            Some(pair) if is_needed(&schema.tasks[task]) => gather(comm, schema, task, &pair, found).map(Some),
            _ => Ok(None),
        };
        Ok(Self(found.into_iter().enumerate().map(relation).collect::<Result<_>>()?))
    }
}

/// The pairs of one row group, by task.
fn read_group(files: &Files, statistics: &Statistics, row_group: u32) -> Result<Vec<Found>> {
    let schema = files.schema();
    let columns: Vec<usize> = (0..schema.columns.len()).collect();
    let piece = Piece { row_group, start: 0, rows: files.plan().row_groups[row_group as usize].rows };
    let mut reader = files.read(piece, &columns, BATCH_ROWS)?;
    let mut decoder = Decoder::new(schema.clone(), statistics)?;
    let mut found: Vec<Found> = schema.tasks.iter().map(|_| Found::default()).collect();
    while let Some(slice) = reader.take(BATCH_ROWS)? {
        let mut batch = decoder.empty();
        decoder.append(&slice.columns, slice.batch.num_rows(), &reader.place(slice.first_row), &mut batch)?;
        for ((task, target), found) in schema.tasks.iter().zip(&batch.targets).zip(&mut found) {
            let Some(pair) = task.pair.filter(|_| is_needed(task)) else { continue };
            let (left, right) = (&batch.ids[pair.left], &batch.ids[pair.right]);
            right.ids().iter().for_each(|&id| *found.rights.entry(id).or_default() += 1);
            let positive = |row: &usize| target.weight[*row] != 0.0 && target.label[*row] == 1.0;
            for row in (0..batch.rows).filter(positive) {
                let Some(&left) = left.row(row).first() else { continue };
                found.pairs.extend(right.row(row).iter().map(|&right| Pair { left, right }));
            }
        }
    }
    for Found { pairs, .. } in &mut found {
        pairs.sort_unstable();
        pairs.dedup();
    }
    Ok(found)
}

/// The relation that all ranks found together.
fn gather(comm: &dyn Communicator, schema: &Schema, task: usize, pair: &PairColumns, found: Found) -> Result<Relation> {
    let counts = gather_counts(comm, found.rights)?;
    let rights: Vec<u64> = counts.iter().map(|count| count.id).collect();
    let mut pairs = Pair::to_owners(comm, found.pairs)?;
    if schema.id_features[pair.left].table == schema.id_features[pair.right].table {
        // An id is no negative of itself, and is not recommended for itself.
        let own: Vec<Pair> = by_left(&pairs).map(|(left, _)| Pair { left, right: left }).collect();
        pairs.extend(own.into_iter().filter(|own| rights.binary_search(&own.left).is_ok()));
        pairs.sort_unstable();
        pairs.dedup();
    }
    let name = &schema.tasks[task].name;
    check_size(comm, pairs.len(), pair.negatives.unwrap_or_default().max_pairs, name)?;

    let own: Vec<u64> = by_left(&pairs).map(|(left, _)| left).collect();
    let mut lefts = collectives::all_gather(comm, &own)?.0;
    lefts.par_sort_unstable();
    if lefts.len().max(rights.len()) > u32::MAX as usize {
        return Err(Error::data("a task pairs more than 2³² distinct ids").at("task", name).agreed());
    }
    let place = |of: &[u64], id: u64| of.binary_search(&id).unwrap_or(0) as u64;
    let coded: Vec<u64> = pairs.iter().map(|p| place(&lefts, p.left) << 32 | place(&rights, p.right)).collect();
    drop(pairs);
    let mut coded = collectives::all_gather(comm, &coded)?.0;
    coded.par_sort_unstable();
    let mut starts = vec![0; lefts.len() + 1];
    coded.iter().for_each(|pair| starts[(pair >> 32) as usize + 1] += 1);
    for left in 0..lefts.len() {
        starts[left + 1] += starts[left];
    }
    let known = coded.iter().map(|&pair| pair as u32).collect();
    let rows: Vec<u64> = counts.iter().map(|count| count.rows).collect();
    let draw = Draw::by_popularity(&rows, pair.negatives.unwrap_or_default().popularity);
    Ok(Relation { rights, lefts, starts, known, draw })
}

/// The ids of all ranks, sorted, with the rows that hold them.
fn gather_counts(comm: &dyn Communicator, rights: HashMap<u64, u64>) -> Result<Vec<Count>> {
    let mut mine: Vec<Count> = rights.into_iter().map(|(id, rows)| Count { id, rows }).collect();
    mine.par_sort_unstable();
    let mut all = collectives::all_gather(comm, &mine)?.0;
    all.par_sort_unstable();
    let sum = |same: &[Count]| Count { id: same[0].id, rows: same.iter().map(|count| count.rows).sum() };
    Ok(all.chunk_by(|a, b| a.id == b.id).map(sum).collect())
}

/// An error on all ranks where all pairs together are more than a rank may hold.
fn check_size(comm: &dyn Communicator, mine: usize, limit: u64, task: &str) -> Result<()> {
    let mut pairs = [mine as u64];
    collectives::all_reduce_sum(comm, &mut pairs)?;
    if pairs[0] <= limit {
        return Ok(());
    }
    Err(Error::data(format!(
        "the training log has {} distinct pairs, and {limit} are the most that a rank may hold, of 4 bytes each",
        pairs[0]
    ))
    .at("task", task)
    .fix("raise `negatives.max_pairs` of this task if the ranks have the memory, or narrow `where` or `data.train`")
    .agreed())
}

#[cfg(test)]
mod tests;
