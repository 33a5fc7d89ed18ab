//! Tasks that are relations: from the ids of features to the sides of each task's pair.
//!
//! ```text
//! ids of features     user [7]   item [3]   genres [1, 5, 8]      of a row of block
//! pairs, training     like: [7] [3] [drawn: 9]     genre: [3] [drawn of the list: 5] [drawn: 2]
//! pairs, otherwise    like: [7] [3] []             genre: [3] [1, 5, 8] []
//! ```
//!
//! A row that does not carry a pair (`where` is false, an id is null) has no ids for it, so that its embedding rows
//! are neither fetched nor trained. What is drawn is a function of the seed, the task, the epoch and the address of the
//! row in the log: no rank, lane or batch takes part.

use super::batch::{Batch, IdColumn};
use super::negatives::below;
use super::relations::{Relation, Relations};
use super::schema::{PairColumns, Purpose, Schema};
use crate::error::{Error, Result};
use crate::random;
use std::sync::Arc;

/// Purposes of draws of one row.
const ELEMENT: u64 = 0;
const NEGATIVE: u64 = 1;

/// What draws depend on beside the row.
#[derive(Debug, Clone, Default)]
pub struct Pairing {
    /// What the training log pairs.
    pub relations: Option<Arc<Relations>>,
    /// Seed of the job.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
}

/// The sides of one task's pairs, row after row.
struct Columns<'a> {
    left: &'a IdColumn,
    right: &'a IdColumn,
    out: [IdColumn; 3],
}

impl Pairing {
    /// Replaces the ids of features by those of pairs ([`Schema::id_columns`]), and takes the weight of rows that do
    /// not carry one. Without effect where tasks are no pairs.
    ///
    /// # Errors
    /// Training without [`Pairing::relations`].
    pub fn apply(&self, schema: &Schema, mut batch: Batch) -> Result<Batch> {
        if !schema.has_pairs() {
            return Ok(batch);
        }
        let features = std::mem::take(&mut batch.ids);
        for (index, task) in schema.tasks.iter().enumerate() {
            let Some(pair) = &task.pair else { continue };
            let columns = Columns { left: &features[pair.left], right: &features[pair.right], out: Default::default() };
            let [left, right, negatives] = match schema.purpose {
                Purpose::Train => {
                    let relation = self.relation(index, pair)?;
                    self.training(columns, &mut batch, index, (pair, relation), random::text(&task.name))
                }
                Purpose::Evaluate => as_they_are(columns, &mut batch, index, false),
                Purpose::Predict => as_they_are(columns, &mut batch, index, true),
            };
            batch.ids.extend([left, right]);
            batch.ids.extend(pair.negatives.is_some().then_some(negatives));
        }
        Ok(batch)
    }

    fn relation(&self, task: usize, pair: &PairColumns) -> Result<Option<&Relation>> {
        if pair.negatives.is_none() {
            return Ok(None);
        }
        let relation = self.relations.as_ref().and_then(|relations| relations.of(task));
        relation.map(Some).ok_or_else(|| Error::internal("negatives are to be drawn from nothing"))
    }

    fn training(
        &self,
        columns: Columns,
        batch: &mut Batch,
        task: usize,
        (pair, relation): (&PairColumns, Option<&Relation>),
        name: u64,
    ) -> [IdColumn; 3] {
        let Columns { left, right, mut out } = columns;
        let draws = relation.zip(pair.negatives).map(|(relation, negatives)| (relation, negatives.count));
        let mut drawn = Vec::new();
        for ((row, origin), weight) in batch.origin.iter().enumerate().zip(&mut batch.targets[task].weight) {
            let key = random::hash(self.seed, &[name, self.epoch, origin.row_group.into(), origin.row.into()]);
            let ids = (left.row(row), right.row(row));
            drawn.clear();
            match (*weight != 0.0).then(|| sample(ids, draws, key, &mut drawn)).flatten() {
                Some((left, right)) => {
                    out[0].push(&[left]);
                    out[1].push(&[right]);
                    out[2].push(&drawn);
                }
                None => {
                    *weight = 0.0;
                    out.iter_mut().for_each(|column| column.push(&[]));
                }
            }
        }
        out
    }
}

/// The pair of a row with these ids; what is drawn against it is appended to `drawn`. `None`, with nothing drawn, where an
/// id is missing or everything is a known positive of the left one: there is nothing to learn from that.
fn sample(
    (left, right): (&[u64], &[u64]),
    draws: Option<(&Relation, usize)>,
    key: u64,
    drawn: &mut Vec<u64>,
) -> Option<(u64, u64)> {
    let &left = left.first()?;
    if right.is_empty() {
        return None;
    }
    if let Some((relation, count)) = draws {
        let known = relation.known(left).unwrap_or(&[]);
        for number in 0..count as u64 {
            drawn.push(relation.negative(known, random::hash(key, &[NEGATIVE, number]))?);
        }
    }
    Some((left, right[below(random::hash(key, &[ELEMENT]), right.len())]))
}

/// Pairs to be scored: all right-hand ids of a row, and no negatives. `unlabelled` rows carry a pair by having its
/// ids.
fn as_they_are(columns: Columns, batch: &mut Batch, task: usize, unlabelled: bool) -> [IdColumn; 3] {
    let Columns { left, right, mut out } = columns;
    let weights = &mut batch.targets[task].weight;
    for (row, weight) in weights.iter_mut().enumerate() {
        let (left, rights) = (left.row(row), right.row(row));
        let whole = !left.is_empty() && !rights.is_empty();
        if !whole {
            *weight = 0.0;
        }
        let carries = whole && (unlabelled || *weight != 0.0);
        let sides = if carries { [left, rights, &[]] } else { [&[][..]; 3] };
        out.iter_mut().zip(sides).for_each(|(column, ids)| column.push(ids));
    }
    out
}
