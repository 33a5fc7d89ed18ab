//! Tables over one and several ranks, against slow references.

mod ahead;
mod limits;
mod pooling;
mod reference;
mod resharding;
mod wire;

use super::*;
use crate::comm::{Communicator, threads};
use crate::config::{Component, job};
use crate::data::batch::IdColumn;
use crate::random;
use std::collections::BTreeMap;

const BUCKETS: usize = 16;
const SEED: u64 = 11;
/// Rows of the global batch.
const ROWS: usize = 12;

/// A table from YAML options.
fn table(name: &str, dim: usize, options: &str, sparse: &str) -> TableSpec {
    let mut table: job::Table = serde_yaml::from_str(options).unwrap();
    table.dim = Some(dim);
    let mut sparse: Component = serde_yaml::from_str(sparse).unwrap();
    TableSpec::from_job(name, &mut table, &mut sparse, BUCKETS).unwrap()
}

fn bag(name: &str, table: usize, kind: BagKind) -> BagSpec {
    BagSpec { name: name.to_string(), table, kind }
}

const SUM: BagKind = BagKind::Pooled(Pool::Sum);
const MEAN: BagKind = BagKind::Pooled(Pool::Mean);
const SEQUENCE: BagKind = BagKind::Sequence { max_len: 3 };

/// Two tables, each read by two features.
fn bags() -> Vec<BagSpec> {
    vec![bag("a", 0, SUM), bag("s", 1, SEQUENCE), bag("b", 0, MEAN), bag("c", 1, SUM)]
}

fn build(options: &str, sparse: &str, comm: &dyn Communicator) -> Embeddings {
    let tables = vec![table("user", 3, options, sparse), table("item", 2, options, sparse)];
    Embeddings::new(tables, bags(), BUCKETS, SEED, comm.rank(), comm.size()).unwrap()
}

fn column(rows: &[Vec<u64>]) -> IdColumn {
    let mut column = IdColumn::default();
    rows.iter().for_each(|ids| column.push(ids));
    column
}

/// The ids of one feature for the global batch of a step: few distinct ones, so that rows, features and
/// ranks share them; some rows have none.
fn batch(step: u64, feature: u64, vocabulary: u64) -> Vec<Vec<u64>> {
    let draw = |row: u64, i: u64| random::hash(3, &[step, feature, row, i]);
    (0..ROWS as u64).map(|row| (0..draw(row, 99) % 5).map(|i| draw(row, i) % vocabulary).collect()).collect()
}

/// Any gradient will do, if it depends on the row and on what was read.
fn gradient(step: u64, feature: u64, row: usize, element: usize, value: f64) -> f64 {
    2.0 * random::unit(4, &[step, feature, row as u64, element as u64]) - 1.0 + 0.3 * value
}

/// This rank's rows of the global batch.
fn share(comm: &dyn Communicator) -> std::ops::Range<usize> {
    ROWS * comm.rank() / comm.size()..ROWS * (comm.rank() + 1) / comm.size()
}

/// The ids of this rank's share of the global batch.
fn ids_of_step(comm: &dyn Communicator, step: u64, vocabulary: u64) -> Vec<IdColumn> {
    (0..4).map(|f| column(&batch(step, f, vocabulary)[share(comm)])).collect()
}

/// One training step on this rank's share of the global batch.
fn train_step(embeddings: &mut Embeddings, comm: &dyn Communicator, step: u64, vocabulary: u64) {
    let ids = ids_of_step(comm, step, vocabulary);
    let lookup = embeddings.lookup(comm, &ids, share(comm).len(), Mode::Train { step }).unwrap();
    train_with(embeddings, comm, step, lookup);
}

/// What follows the lookup.
fn train_with(embeddings: &mut Embeddings, comm: &dyn Communicator, step: u64, lookup: Lookup) {
    let mine = share(comm);
    let width = embeddings.pooled_width();
    let mut d_pooled = vec![0.0; mine.len() * width];
    for feature in [0, 2, 3] {
        let columns = embeddings.columns(feature).unwrap();
        for (i, row) in mine.clone().enumerate() {
            for (element, at) in columns.clone().enumerate() {
                let value = f64::from(lookup.pooled[i * width + at]);
                d_pooled[i * width + at] = gradient(step, feature as u64, row, element, value) as f32;
            }
        }
    }
    let mut d_sequence = vec![0.0; mine.len() * 3 * 2];
    for (i, row) in mine.enumerate() {
        for element in 0..6 {
            let value = f64::from(lookup.sequences[0].values[i * 6 + element]);
            d_sequence[i * 6 + element] = gradient(step, 1, row, element, value) as f32;
        }
    }
    embeddings
        .update(comm, lookup, BatchGradient { pooled: &d_pooled, sequences: &[d_sequence] }, factor(step))
        .unwrap();
}

/// A schedule.
fn factor(step: u64) -> f64 {
    ((step + 1) as f64 / 5.0).min(1.0)
}

fn export(embeddings: &Embeddings, table: usize) -> TableRows {
    embeddings.export(table, embeddings.owned_buckets())
}

/// Row of one id after a run.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    values: Vec<f32>,
    count: u32,
    last_step: u32,
}

/// Rows of all ranks by (table, id).
fn collect(ranks: &[Vec<TableRows>]) -> BTreeMap<(usize, u64), Row> {
    let mut all = BTreeMap::new();
    for rank in ranks {
        for (table, rows) in rank.iter().enumerate() {
            let dim = rows.values.len() / rows.ids.len().max(1);
            for (i, &id) in rows.ids.iter().enumerate() {
                let values = rows.values[i * dim..(i + 1) * dim].to_vec();
                let row = Row { values, count: rows.counts[i], last_step: rows.last_steps[i] };
                assert!(all.insert((table, id), row).is_none(), "id {id} is on two ranks");
            }
        }
    }
    all
}

/// Trains `steps` on `size` ranks; the rows of each rank and table.
fn train(
    size: usize,
    options: &str,
    sparse: &str,
    steps: std::ops::Range<u64>,
    vocabulary: u64,
) -> Vec<Vec<TableRows>> {
    threads::ranks(size, |comm| {
        let mut embeddings = build(options, sparse, comm);
        steps.clone().for_each(|step| train_step(&mut embeddings, comm, step, vocabulary));
        vec![export(&embeddings, 0), export(&embeddings, 1)]
    })
}
