//! Between a run and its checkpoints: what is saved, restored, and must be the same.

use super::row_classes::RowClasses;
use super::step::Trainable;
use crate::checkpoint::{
    self, CheckpointDir, DenseState, Manifest, ParameterEntry, Progress, Saving, Snapshot, TableEntry, load_dense,
    load_row_classes, load_tables,
};
use crate::comm::Communicator;
use crate::config::job::Job;
use crate::config::to_yaml;
use crate::data::lanes::Cursor;
use crate::data::statistics::Statistics;
use crate::error::{Error, Result};
use serde_yaml::Value;
use std::collections::HashSet;
use std::path::Path;

/// Where a run stands.
#[derive(Debug, Clone)]
pub struct Position {
    /// Steps taken.
    pub step: u64,
    /// Position in the data.
    pub cursor: Cursor,
    /// Best evaluation and early stopping.
    pub progress: Progress,
}

/// What a checkpoint says beside the tensors.
pub struct Context<'a> {
    /// The resolved job.
    pub job: &'a Job,
    /// Statistics of the numeric features.
    pub statistics: &'a Statistics,
    /// Fingerprint of the training rows.
    pub data: String,
    /// Where the run stands.
    pub position: Position,
}

/// Begins to save a checkpoint; with `only`, one to look at a step with: of each table the rows of these ids, and of no
/// training row the class. Collective.
pub fn save(
    comm: &dyn Communicator,
    dir: &CheckpointDir,
    trainable: &mut Trainable,
    context: Context,
    only: Option<Vec<HashSet<u64>>>,
) -> Result<Saving> {
    let Context { job, statistics, data, position } = context;
    let names = trainable.dense.moment_names();
    let dense = DenseState { names: names.to_vec(), moments: trainable.dense.gather_moments(comm, &trainable.store)? };
    let internal = |e: &dyn std::fmt::Display| Error::internal(format!("the manifest cannot be written: {e}"));
    let store = &trainable.store;
    let manifest = Manifest {
        format: checkpoint::FORMAT,
        tandem: env!("CARGO_PKG_VERSION").to_string(),
        step: position.step,
        cursor: position.cursor,
        progress: position.progress,
        buckets: job.checkpoint.buckets,
        job: to_yaml(job)?,
        data,
        statistics: serde_json::to_value(statistics).map_err(|e| internal(&e))?,
        balance: trainable.balance.method.state(),
        parameters: store
            .names()
            .iter()
            .zip(store.vars())
            .enumerate()
            .map(|(index, (name, var))| ParameterEntry {
                name: name.clone(),
                shape: var.dims().to_vec(),
                frozen: store.is_frozen(index),
            })
            .collect(),
        optimizer: (trainable.dense.updates(), dense.names.clone()),
        tables: table_entries(trainable),
        files: Vec::new(),
    };
    let row_classes = trainable.row_classes.as_ref().filter(|_| only.is_none()).map(RowClasses::saved);
    let embeddings = &mut trainable.embeddings;
    checkpoint::begin(comm, dir, Snapshot { manifest, store, dense, embeddings, only, row_classes })
}

fn table_entries(trainable: &Trainable) -> Vec<TableEntry> {
    let embeddings = &trainable.embeddings;
    let entry = |(table, name): (usize, &str)| TableEntry {
        name: name.to_string(),
        dim: embeddings.dim(table),
        state: embeddings.slots(table).iter().map(|slot| (slot.name.to_string(), slot.width)).collect(),
        rows: 0,
        frozen: embeddings.is_frozen(table),
    };
    embeddings.table_names().enumerate().map(entry).collect()
}

/// Restores parameters, moments, buffers, tables and the balancer's state from the checkpoint at `path`.
pub fn restore(comm: &dyn Communicator, path: &Path, manifest: &Manifest, trainable: &mut Trainable) -> Result<()> {
    let dense = load_dense(path, manifest, &trainable.store)?;
    let expected = trainable.dense.moment_names();
    if dense.names != expected {
        return Err(Error::checkpoint(format!(
            "the checkpoint has the moments [{}], the job's optimizer and balancing method have [{}]",
            dense.names.join(", "),
            expected.join(", ")
        ))
        .at("path", path.display())
        .fix("keep optimizer.dense and balance as they were, or train anew in another --run-dir"));
    }
    check_tables(path, manifest, trainable)?;
    trainable.dense.restore(&trainable.store, &dense.moments, manifest.optimizer.0, comm)?;
    trainable.balance.method.restore(&manifest.balance)?;
    if let Some(classes) = &mut trainable.row_classes {
        classes.restore(load_row_classes(path, manifest)?)?;
    }
    load_tables(path, manifest, &mut trainable.embeddings)
}

fn check_tables(path: &Path, manifest: &Manifest, trainable: &Trainable) -> Result<()> {
    let describe = |t: &TableEntry| format!("`{}` of {} floats with optimizer state {:?}", t.name, t.dim, t.state);
    let wanted = table_entries(trainable);
    let same = |(a, b): &(&TableEntry, &TableEntry)| a.name == b.name && a.dim == b.dim && a.state == b.state;
    if let Some((found, wanted)) = manifest.tables.iter().zip(&wanted).find(|pair| !same(pair)) {
        let what = format!("the checkpoint has table {}, the job {}", describe(found), describe(wanted));
        return Err(other_job(what, path));
    }
    if manifest.tables.len() != wanted.len() {
        let what = format!("the checkpoint has {} tables, the job {}", manifest.tables.len(), wanted.len());
        return Err(other_job(what, path));
    }
    Ok(())
}

fn other_job(what: String, path: &Path) -> Error {
    Error::checkpoint(what)
        .at("path", path.display())
        .fix("this checkpoint was written by another job: use its own job file, or train anew in another --run-dir")
}

/// The statistics that the checkpoint was trained with.
pub fn statistics(manifest: &Manifest) -> Result<Statistics> {
    serde_json::from_value(manifest.statistics.clone())
        .map_err(|e| Error::checkpoint(format!("the checkpoint's statistics cannot be read: {e}")))
}

/// Keys that a resumed run must not change, since the saved state only makes sense with them.
const FIXED: [&str; 15] = [
    "seed",
    "reproducible",
    "features",
    "tasks",
    "model",
    "freeze",
    "balance.kind",
    "optimizer.dense.kind",
    "optimizer.sparse.kind",
    "train.global_batch",
    "data.lanes",
    "data.shuffle_window",
    "data.weight",
    "data.scenario",
    "checkpoint.buckets",
];

/// The same of a table. Its limits may change: they are what a run that outgrew its memory needs.
const FIXED_OF_TABLE: [&str; 2] = ["init", "optimizer.kind"];

/// A resumed run must have the job and the training rows of its checkpoint. The rest (epochs, learning rates,
/// evaluation, checkpoints, paths) may change.
pub fn check_same_job(manifest: &Manifest, job: &Job, data: &str) -> Result<()> {
    let parse = |e: serde_yaml::Error| Error::checkpoint(format!("the checkpoint's job cannot be read: {e}"));
    let saved: Value = serde_yaml::from_str(&manifest.job).map_err(parse)?;
    let mine = serde_yaml::to_value(job).map_err(parse)?;
    let mut keys: Vec<String> = FIXED.iter().map(ToString::to_string).collect();
    let tables = [&saved, &mine].into_iter().filter_map(|job| job.get("tables")?.as_mapping());
    for table in tables.flat_map(|tables| tables.keys()).filter_map(Value::as_str) {
        keys.extend(FIXED_OF_TABLE.map(|key| format!("tables.{table}.{key}")));
    }
    for key in &keys {
        let at = |job: &Value| key.split('.').try_fold(job.clone(), |value, part| value.get(part).cloned());
        if let Some(Difference { key, saved, mine }) = difference(key, at(&saved).as_ref(), at(&mine).as_ref()) {
            return Err(Error::job(format!("`{key}` is {mine}, and {saved} in the job of the checkpoint"))
                .at("key", key)
                .fix("set it back to go on with this run, or train anew in another --run-dir"));
        }
    }
    if manifest.data != data {
        return Err(Error::data("the training rows are not those of the checkpoint")
            .at("key", "data.train")
            .fix("restore the files (row groups and their order) to go on, or train anew in another --run-dir"));
    }
    Ok(())
}

/// Where two jobs part.
struct Difference {
    key: String,
    saved: String,
    mine: String,
}

/// The first difference at or below `key`.
fn difference(key: &str, saved: Option<&Value>, mine: Option<&Value>) -> Option<Difference> {
    match (saved, mine) {
        (Some(Value::Mapping(a)), Some(Value::Mapping(b))) => {
            let names = a.keys().chain(b.keys()).filter_map(Value::as_str);
            names.into_iter().find_map(|name| difference(&format!("{key}.{name}"), a.get(name), b.get(name)))
        }
        (Some(Value::Sequence(a)), Some(Value::Sequence(b))) => {
            let longest = a.len().max(b.len());
            (0..longest).find_map(|i| difference(&format!("{key}[{i}]"), a.get(i), b.get(i)))
        }
        (a, b) if a == b => None,
        (a, b) => Some(Difference { key: key.to_string(), saved: shown(a), mine: shown(b) }),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "not set".to_string(),
        Some(Value::Mapping(mapping)) => match mapping.get("name").and_then(Value::as_str) {
            Some(name) => format!("`{name}`"),
            None => "set".to_string(),
        },
        Some(Value::Sequence(_)) => "a list".to_string(),
        Some(value) => serde_yaml::to_string(value).unwrap_or_default().trim().to_string(),
    }
}
