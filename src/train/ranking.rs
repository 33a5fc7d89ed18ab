//! Full rankings over all ranks: every known right-hand id is scored for every left-hand id of a split.
//!
//! ```text
//! while the split is read     positives (left, right) ──all-to-all──► the owner of each left-hand id
//! candidates                  cut into one equal slice a rank, whose rows the rank fetches once
//! chunk of queries            ids ──all-gather──► all ranks fetch their rows, score their slice, leave out known
//!                             positives, keep the best k ──all-to-all──► the owner merges, and counts hits
//! ```
//!
//! The candidates are the right-hand ids of the training log. A left-hand id is ranked if training knows it and one of
//! its positives of the split is a candidate that training does not know it to go with. Equal scores are in the order of
//! their ids, so nothing depends on the slices.

use super::step::Trainable;
use crate::comm::{Communicator, collectives};
use crate::data::batch::Batch;
use crate::data::relations::{Pair, Relation, Relations, by_left};
use crate::data::schema::Schema;
use crate::error::{Error, Result};
use crate::metric::{Name, Ranking, Value};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// Queries that all ranks score at a time.
const CHUNK_QUERIES: usize = 1024;

/// The values of one task's rankings, by name.
type Values = Vec<(Name, Value)>;

/// The positives of the ranked tasks in the rows of one rank.
#[derive(Debug)]
pub struct Positives {
    tasks: Vec<Ranked>,
}

/// One ranked task.
#[derive(Debug)]
struct Ranked {
    /// Index of the task.
    task: usize,
    /// Columns of a batch's ids that hold its sides.
    columns: (usize, usize),
    /// Embedding tables of the sides.
    tables: (usize, usize),
    at: Vec<usize>,
    pairs: Vec<Pair>,
}

/// A left-hand id to be ranked for.
#[derive(Debug, Clone, PartialEq)]
struct Query {
    left: u64,
    /// Its relevant candidates, sorted.
    relevant: Vec<u32>,
}

/// A scored candidate, 8 bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Scored {
    score: f32,
    /// Index of the candidate; [`NOTHING`] where a slice has fewer than k.
    candidate: u32,
}

const NOTHING: u32 = u32::MAX;

impl Positives {
    /// None so far.
    pub fn new(schema: &Schema, trainable: &Trainable) -> Result<Self> {
        let table = |feature: usize| {
            let name = &schema.id_features[feature].table;
            let found = trainable.embeddings.table_names().position(|table| table == name);
            found.ok_or_else(|| Error::internal(format!("there is no table `{name}`")))
        };
        let mut tasks = Vec::new();
        let mut column = 0;
        for (task, columns) in schema.tasks.iter().enumerate() {
            let Some(pair) = columns.pair else { continue };
            if !columns.ranked_at.is_empty() {
                tasks.push(Ranked {
                    task,
                    columns: (column, column + 1),
                    tables: (table(pair.left)?, table(pair.right)?),
                    at: columns.ranked_at.clone(),
                    pairs: Vec::new(),
                });
            }
            column += 2 + usize::from(pair.negatives.is_some());
        }
        Ok(Self { tasks })
    }

    /// Takes in the rows of a batch that was read for evaluation.
    pub fn add(&mut self, batch: &Batch) {
        for Ranked { task, columns, pairs, .. } in &mut self.tasks {
            let (left, right) = (&batch.ids[columns.0], &batch.ids[columns.1]);
            let target = &batch.targets[*task];
            for row in (0..batch.rows).filter(|&row| target.weight[row] != 0.0 && target.label[row] == 1.0) {
                let Some(&left) = left.row(row).first() else { continue };
                pairs.extend(right.row(row).iter().map(|&right| Pair { left, right }));
            }
        }
    }

    /// The rankings' values, by task; the same on every rank. Collective.
    pub fn rank(
        self,
        comm: &dyn Communicator,
        trainable: &mut Trainable,
        relations: Option<&Relations>,
    ) -> Result<Vec<(usize, Values)>> {
        let one = |ranked: Ranked| {
            let task = ranked.task;
            let relation = relations.and_then(|relations| relations.of(task));
            let relation = relation.ok_or_else(|| Error::internal("a ranking without the training log's pairs"))?;
            Ok((task, ranked.values(comm, trainable, relation)?))
        };
        self.tasks.into_iter().map(one).collect()
    }
}

impl Ranked {
    fn values(self, comm: &dyn Communicator, trainable: &mut Trainable, relation: &Relation) -> Result<Values> {
        let mut ranking = Ranking::new(&self.at);
        let queries = queries(Pair::to_owners(comm, self.pairs)?, relation, &mut ranking);
        let k = ranking.longest().min(relation.candidates().len());
        let slice = Slice::fetch(comm, trainable, relation, self.tables.1)?;
        let per_rank = (CHUNK_QUERIES / comm.size()).max(1);
        let mut rounds = [queries.len().div_ceil(per_rank) as u64];
        collectives::all_reduce_max(comm, &mut rounds)?;
        for round in 0..rounds[0] as usize {
            let start = queries.len().min(round * per_rank);
            let mine = &queries[start..queries.len().min(start + per_rank)];
            let lefts: Vec<u64> = mine.iter().map(|query| query.left).collect();
            let (lefts, counts) = collectives::all_gather(comm, &lefts)?;
            let rows = trainable.embeddings.fetch(comm, self.tables.0, &lefts)?;
            let best = slice.best(&lefts, &rows, relation, k);
            collectives::agree(comm, check_finite(&best))?;
            let sent: Vec<usize> = counts.iter().map(|count| count * k).collect();
            let received = collectives::all_to_all(comm, &best, &sent)?.0;
            for (i, query) in mine.iter().enumerate() {
                // From each rank the lists of all of this rank's queries.
                let lists = received.chunks_exact(mine.len() * k).map(|rank| &rank[i * k..(i + 1) * k]);
                ranking.add(&hits(merge(lists, k), &query.relevant), query.relevant.len());
            }
        }
        ranking.finish(comm)
    }
}

/// The candidates that one rank scores.
struct Slice {
    /// Index of the first.
    first: usize,
    /// `[candidates, dim]`.
    rows: Vec<f32>,
    dim: usize,
}

impl Slice {
    fn fetch(comm: &dyn Communicator, trainable: &mut Trainable, relation: &Relation, table: usize) -> Result<Self> {
        let all = relation.candidates();
        let cut = |rank: usize| all.len() * rank / comm.size();
        let first = cut(comm.rank());
        let ids = &all[first..cut(comm.rank() + 1)];
        let rows = trainable.embeddings.fetch(comm, table, ids)?;
        Ok(Self { first, rows, dim: trainable.embeddings.dim(table) })
    }

    /// The `k` best candidates of this slice for each query, best first: `queries × k`.
    fn best(&self, lefts: &[u64], rows: &[f32], relation: &Relation, k: usize) -> Vec<Scored> {
        let mut best = vec![Scored { score: f32::NEG_INFINITY, candidate: NOTHING }; lefts.len() * k];
        best.par_chunks_mut(k.max(1)).zip(lefts).zip(rows.par_chunks_exact(self.dim)).for_each_init(
            Vec::new,
            |scores, ((best, &left), row)| {
                let known = relation.known(left).unwrap_or(&[]);
                self.score(row, known, scores);
                top(scores, k);
                best.iter_mut().zip(scores.iter()).for_each(|(best, &scored)| *best = scored);
            },
        );
        best
    }

    /// The scores of all candidates of this slice that are not known.
    fn score(&self, query: &[f32], known: &[u32], scores: &mut Vec<Scored>) {
        scores.clear();
        let mut known = known[known.partition_point(|&index| (index as usize) < self.first)..].iter().peekable();
        for (row, index) in self.rows.chunks_exact(self.dim).zip(self.first as u32..) {
            if known.next_if_eq(&&index).is_none() {
                let score = dot(query, row);
                // What is not finite goes first, where it is seen.
                let score = if score.is_finite() { score } else { f32::NAN };
                scores.push(Scored { score, candidate: index });
            }
        }
    }
}

/// An inner product whose terms are added in an order of its own, whatever else is computed with it.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (wide_a, wide_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = wide_a.remainder().iter().zip(wide_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in wide_a.zip(wide_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Higher scores first, then lower ids. Zeros of both signs are equal.
fn before(a: &Scored, b: &Scored) -> std::cmp::Ordering {
    (b.score + 0.0).total_cmp(&(a.score + 0.0)).then(a.candidate.cmp(&b.candidate))
}

/// Keeps the `k` first, in order.
fn top(scores: &mut Vec<Scored>, k: usize) {
    if k > 0 && scores.len() > k {
        scores.select_nth_unstable_by(k - 1, before);
    }
    scores.truncate(k);
    scores.sort_unstable_by(before);
}

/// The `k` first of some lists.
fn merge<'a>(lists: impl Iterator<Item = &'a [Scored]>, k: usize) -> Vec<Scored> {
    let mut all: Vec<Scored> = lists.flatten().filter(|scored| scored.candidate != NOTHING).copied().collect();
    top(&mut all, k);
    all
}

/// The places of a ranking that hold a relevant candidate.
fn hits(ranking: Vec<Scored>, relevant: &[u32]) -> Vec<usize> {
    let is_relevant = |scored: &Scored| relevant.binary_search(&scored.candidate).is_ok();
    ranking.iter().enumerate().filter(|(_, scored)| is_relevant(scored)).map(|(place, _)| place).collect()
}

/// A score that is not a number would stand somewhere in the order, and pass for one.
fn check_finite(best: &[Scored]) -> Result<()> {
    match best.iter().find(|scored| scored.candidate != NOTHING && !scored.score.is_finite()) {
        None => Ok(()),
        Some(scored) => Err(Error::numeric(format!("the score of a pair is {}", scored.score))
            .fix("the model has diverged: lower the learning rates, or raise `l2` of the sparse optimizer")),
    }
}

/// The left-hand ids that can be ranked for; the others are counted in `ranking`.
fn queries(pairs: Vec<Pair>, relation: &Relation, ranking: &mut Ranking) -> Vec<Query> {
    let query = |(left, of): (u64, &[Pair])| {
        let known = relation.known(left)?;
        let candidates = of.iter().filter_map(|pair| relation.index_of(pair.right));
        let relevant: Vec<u32> = candidates.filter(|index| known.binary_search(index).is_err()).collect();
        (!relevant.is_empty()).then_some(Query { left, relevant })
    };
    let mut found = Vec::new();
    for query in by_left(&pairs).map(query) {
        match query {
            Some(query) => found.push(query),
            None => ranking.skip(),
        }
    }
    found
}
