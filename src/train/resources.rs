//! What a run has taken so far: time by stage and rank, memory, and the tables with their most frequent ids.

use super::step::Trainable;
use crate::comm::{Communicator, collectives};
use crate::embedding::Embeddings;
use crate::error::Result;
use crate::observe::environment::resident_bytes;
use crate::observe::{Stages, stages};
use serde::Serialize;
use serde_json::{Map, Value};
use std::cmp::Reverse;

/// Ids that are named of each table.
const HOTTEST: usize = 10;

/// Time and memory since this process began.
#[derive(Debug, Clone, Serialize)]
pub struct Resources {
    /// Steps taken.
    pub step: u64,
    /// Where the time went.
    #[serde(flatten)]
    pub times: stages::Summary,
    /// Memory that the ranks hold together.
    pub memory_bytes: u64,
    /// Every table.
    pub tables: Vec<TableSize>,
}

/// One table over all ranks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableSize {
    /// Its name.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Floats of a row.
    pub dim: usize,
    /// Everything allocated for it.
    pub bytes: u64,
    /// The ids with the most training rows, the most first.
    pub hottest: Vec<HotId>,
}

/// An id that many rows hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HotId {
    /// The id as text, since few readers of JSON keep all 64 bits of a number.
    pub id: String,
    /// Training rows that held it.
    pub rows: u64,
}

impl Resources {
    /// After `step` steps. Collective.
    pub fn gather(comm: &dyn Communicator, step: u64, stages: &Stages, trainable: &Trainable) -> Result<Self> {
        let mut memory = [resident_bytes() / comm.in_process() as u64];
        collectives::all_reduce_sum(comm, &mut memory)?;
        let times = stages.summary(comm)?;
        Ok(Self { step, times, memory_bytes: memory[0], tables: tables(comm, &trainable.embeddings)? })
    }
}

/// Rows of every table over all ranks, by name. Collective.
pub fn table_rows(comm: &dyn Communicator, embeddings: &Embeddings) -> Result<Map<String, Value>> {
    let mut rows: Vec<u64> = embeddings.rows().map(|rows| rows as u64).collect();
    collectives::all_reduce_sum(comm, &mut rows)?;
    Ok(embeddings.table_names().map(String::from).zip(rows.into_iter().map(Value::from)).collect())
}

fn tables(comm: &dyn Communicator, embeddings: &Embeddings) -> Result<Vec<TableSize>> {
    let mut sizes: Vec<u64> = Vec::new();
    let mut hottest = Vec::new();
    for (table, stats) in embeddings.stats().iter().enumerate() {
        sizes.extend([stats.rows as u64, stats.total_bytes() as u64]);
        let mine = embeddings.hottest(table, HOTTEST).into_iter();
        hottest.extend(mine.map(|(id, rows)| [table as u64, id, u64::from(rows)]));
    }
    collectives::all_reduce_sum(comm, &mut sizes)?;
    // Every id has one owner, so those of the ranks are different ones.
    let (mut hottest, _) = collectives::all_gather(comm, &hottest)?;
    hottest.sort_unstable_by_key(|&[table, id, rows]| (table, Reverse(rows), id));
    let size = |(table, name): (usize, &str)| TableSize {
        name: name.to_string(),
        rows: sizes[2 * table],
        dim: embeddings.dim(table),
        bytes: sizes[2 * table + 1],
        hottest: hottest
            .iter()
            .filter(|[of, ..]| *of == table as u64)
            .take(HOTTEST)
            .map(|&[_, id, rows]| HotId { id: id.to_string(), rows })
            .collect(),
    };
    Ok(embeddings.table_names().enumerate().map(size).collect())
}
