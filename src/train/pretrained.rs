//! What a new run reads from files before its first step: rows of tables with `init: {kind: file}`, and the vectors of
//! scenarios that an architecture asks for.
//!
//! Checkpoints hold all of it, and the hashes of the files beside: a run that goes on, evaluation and export do not need
//! the files any more. Files of rows are read once, each row group by one rank, and rows travel to their owners.

use super::step::Trainable;
use crate::comm::{Comm, collectives};
use crate::config::job::{Job, Table};
use crate::embedding::{FileInit, TableStats};
use crate::error::{Error, Result};
use crate::knowledge::{VectorFile, Vectors};
use crate::model::llm4msr::{self, SCENARIO_VECTORS, USER_MEANS};
use std::collections::BTreeMap;
use std::path::Path;

/// The files of a job.
pub struct Pretrained {
    tables: Vec<(String, VectorFile)>,
    scenarios: Option<Scenarios>,
}

/// Vectors of scenarios by name.
struct Scenarios {
    vectors: ByName,
    user_means: Option<ByName>,
}

/// The vectors of one column.
struct ByName {
    file: VectorFile,
    rows: BTreeMap<String, Vec<f32>>,
    hash: u64,
}

impl Pretrained {
    /// Opens the files that `job` names and writes into it how long their vectors are. Every rank reads the file of
    /// scenarios, which is small.
    pub fn open(job: &mut Job) -> Result<Self> {
        let mut tables = Vec::new();
        for (name, table) in &job.tables {
            let Some(options) = FileInit::of(table, name)? else { continue };
            let key = format!("tables.{name}.init");
            let file = VectorFile::open(Path::new(&options.path), &options.key, &options.vector)
                .map_err(|error| error.at("key", &key))?;
            match table.dim {
                Some(dim) if dim != file.dim => {
                    return Err(Error::job(format!("the table has dim {dim}, its file vectors of {}", file.dim))
                        .at("key", format!("tables.{name}.dim"))
                        .fix("leave `dim` out: the file says it"));
                }
                _ => tables.push((name.clone(), file)),
            }
        }
        for (name, file) in &tables {
            set_dim(job, name, file.dim);
        }
        Ok(Self { tables, scenarios: Scenarios::open(job)? })
    }

    /// Fills tables that are empty, and the buffers of scenarios; writes the hashes of the files into `job`. Collective.
    ///
    /// # Errors
    /// A file that is not the one whose hash the job gives, that lacks a scenario of the training rows, or holds a key
    /// twice.
    pub fn fill(&self, comm: &Comm, job: &mut Job, trainable: &mut Trainable) -> Result<()> {
        collectives::agree(comm.as_ref(), check_frozen(job, trainable))?;
        for (name, file) in &self.tables {
            let Some(table) = trainable.embeddings.table_names().position(|other| other == name) else { continue };
            let TableStats { rows, .. } = trainable.embeddings.stats()[table];
            let mut rows = [rows as u64];
            collectives::all_reduce_sum(comm.as_ref(), &mut rows)?;
            // Rows that `init_from` brought are later ones than those of the file.
            if rows[0] > 0 {
                continue;
            }
            let hash = fill_table(comm, file, table, trainable)?;
            let noted = note(&mut job.tables, name, hash);
            collectives::agree(comm.as_ref(), noted)?;
        }
        let filled = self.scenarios.as_ref().map(|scenarios| scenarios.fill(trainable));
        collectives::agree(comm.as_ref(), filled.transpose()).map(|_| ())
    }
}

/// Takes what the files said when the run began, so that a run that goes on does not read them.
pub fn as_saved(job: &mut Job, saved: &Job) -> Result<()> {
    for (name, known) in &saved.tables {
        let Some(table) = job.tables.get_mut(name) else { continue };
        let (Some(mut options), Some(read)) = (FileInit::of(table, name)?, FileInit::of(known, name)?) else {
            continue;
        };
        options.fingerprint = options.fingerprint.or(read.fingerprint);
        options.resolve(table)?;
        if let (None, Some(dim)) = (table.dim, known.dim) {
            set_dim(job, name, dim);
        }
    }
    let (mine, known) = (llm4msr::options(&job.model)?, llm4msr::options(&saved.model)?);
    if let (Some(mut mine), Some(known)) = (mine, known) {
        mine.scenario_dim = mine.scenario_dim.or(known.scenario_dim);
        mine.scenario_fingerprint = mine.scenario_fingerprint.or(known.scenario_fingerprint);
        job.model.resolve(&mine)?;
    }
    Ok(())
}

/// Says how long the rows of a table are, where all keys that can say it stand.
fn set_dim(job: &mut Job, name: &str, dim: usize) {
    if let Some(table) = job.tables.get_mut(name) {
        table.dim = Some(dim);
    }
    let readers = job.features.iter_mut().filter(|feature| feature.has_table() && feature.table() == name);
    readers.for_each(|feature| feature.dim = Some(dim));
}

/// Vectors that an architecture cuts off from its gradients would be counted, decayed and dropped as if they were trained.
fn check_frozen(job: &Job, trainable: &Trainable) -> Result<()> {
    let Some(name) = llm4msr::options(&job.model)?.and_then(|options| options.user_knowledge) else { return Ok(()) };
    let Some(feature) = job.features.iter().find(|feature| feature.name == name) else { return Ok(()) };
    let table = trainable.embeddings.table_names().position(|table| table == feature.table());
    match table {
        Some(table) if !trainable.embeddings.is_frozen(table) => {
            Err(Error::job(format!("the vectors of `{name}` are knowledge and stay as they are"))
                .at("key", "model.user_knowledge")
                .fix(format!("freeze their table: `freeze: {{tables: [{}]}}`", feature.table())))
        }
        _ => Ok(()),
    }
}

/// Reads the rows and brings them to their owners; the hash of all of them. Collective.
fn fill_table(comm: &Comm, file: &VectorFile, table: usize, trainable: &mut Trainable) -> Result<u64> {
    let reader = file.reader((comm.rank()..file.groups()).step_by(comm.size()));
    let mut reader = collectives::agree(comm.as_ref(), reader)?;
    let mut hash = [0u64];
    loop {
        let rows = collectives::agree(comm.as_ref(), reader.next())?;
        let mut more = [u64::from(rows.is_some())];
        collectives::all_reduce_max(comm.as_ref(), &mut more)?;
        if more[0] == 0 {
            break;
        }
        let Vectors { keys, values } = rows.unwrap_or_default();
        let ids: Vec<u64> = keys.iter().map(|key| key.id()).collect();
        hash[0] = hash[0].wrapping_add(Vectors { keys, values: values.clone() }.hash());
        trainable.embeddings.place(comm.as_ref(), table, &ids, &values)?;
    }
    let (hashes, _) = collectives::all_gather(comm.as_ref(), &hash)?;
    Ok(hashes.into_iter().fold(0, u64::wrapping_add))
}

/// Writes the hash into the job, or compares it with the one that stands there.
fn note(tables: &mut BTreeMap<String, Table>, name: &str, hash: u64) -> Result<()> {
    let Some(table) = tables.get_mut(name) else { return Ok(()) };
    let Some(mut options) = FileInit::of(table, name)? else { return Ok(()) };
    same(options.fingerprint.as_deref(), hash, &format!("tables.{name}.init.fingerprint"))?;
    options.fingerprint = Some(written(hash));
    options.resolve(table)
}

fn written(hash: u64) -> String {
    format!("{hash:016x}")
}

fn same(given: Option<&str>, hash: u64, key: &str) -> Result<()> {
    match given {
        Some(given) if given != written(hash) => {
            Err(Error::job(format!("the file's hash is {}, and {given} is expected", written(hash)))
                .at("key", key)
                .fix("restore the file that the job was resolved with, or remove `fingerprint` to use this one"))
        }
        _ => Ok(()),
    }
}

impl Scenarios {
    fn open(job: &mut Job) -> Result<Option<Self>> {
        let Some(mut options) = llm4msr::options(&job.model)? else { return Ok(None) };
        let Some(path) = &options.scenario_knowledge else { return Ok(None) };
        let column = |column: &str| {
            ByName::read(Path::new(path), column).map_err(|error| error.at("key", "model.scenario_knowledge"))
        };
        let vectors = column("vector")?;
        let user_means = options.user_knowledge.as_ref().map(|_| column("user_mean")).transpose()?;
        let hash = vectors.hash.wrapping_add(user_means.as_ref().map_or(0, |means| means.hash));
        same(options.scenario_fingerprint.as_deref(), hash, "model.scenario_fingerprint")?;
        options.scenario_dim = Some(vectors.file.dim);
        options.scenario_fingerprint = Some(written(hash));
        job.model.resolve(&options)?;
        Ok(Some(Self { vectors, user_means }))
    }

    fn fill(&self, trainable: &Trainable) -> Result<()> {
        let scenarios = &trainable.spec.scenarios;
        let store = &trainable.store;
        for (name, column) in [(SCENARIO_VECTORS, Some(&self.vectors)), (USER_MEANS, self.user_means.as_ref())] {
            let buffer = store.buffer_names().iter().position(|buffer| buffer == name);
            let (Some(column), Some(buffer)) = (column, buffer) else { continue };
            let values = column.of(scenarios)?;
            let buffer = &store.buffers()[buffer];
            if buffer.get().len() != values.len() {
                return Err(column
                    .file
                    .wrong(format!("vectors of {} numbers do not fit the users' table", column.file.dim)));
            }
            buffer.set(&values)?;
        }
        Ok(())
    }
}

impl ByName {
    fn read(path: &Path, column: &str) -> Result<Self> {
        let file = VectorFile::open(path, "key", column)?;
        let (mut rows, mut hash) = (BTreeMap::new(), 0u64);
        let mut reader = file.reader(0..file.groups())?;
        while let Some(read) = reader.next()? {
            hash = hash.wrapping_add(read.hash());
            for (key, vector) in read.keys.iter().zip(read.values.chunks_exact(file.dim)) {
                rows.insert(key.to_string(), vector.to_vec());
            }
        }
        Ok(Self { file, rows, hash })
    }

    /// A row for each of `scenarios`, and last their mean for "other".
    fn of(&self, scenarios: &[String]) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity((scenarios.len() + 1) * self.file.dim);
        let mut sum = vec![0f64; self.file.dim];
        for name in scenarios {
            let vector = self.rows.get(name).ok_or_else(|| {
                self.file
                    .wrong(format!("the file has no row for the scenario `{name}` of the training rows"))
                    .at("key", "model.scenario_knowledge")
                    .fix("write knowledge of the same training rows and `data.scenario`")
            })?;
            sum.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
            values.extend(vector);
        }
        values.extend(sum.iter().map(|sum| (sum / scenarios.len().max(1) as f64) as f32));
        Ok(values)
    }
}
