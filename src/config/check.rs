//! What a job must satisfy beyond its types, as far as the job alone can tell.
//!
//! Options of components are checked by the components, columns by the reader of the data. Every error
//! names one key; the first problem found, from the top of the job down, is the one reported.

mod features;
mod federated;
mod pairs;
mod tables;
mod tasks;
#[cfg(test)]
mod tests;

use super::job::{Data, Eval, Task, Train};
use super::{Bytes, Job};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashSet};
use std::ops::{Deref, RangeInclusive};

/// Sizes that one key gives (a dimension, a length, a number of classes). Far above any use, and small
/// enough that products of a few of them cannot overflow.
const SIZES: RangeInclusive<usize> = 1..=65_536;
/// Positions in a global batch are 32-bit.
const MAX_GLOBAL_BATCH: usize = 1 << 31;
/// Names are parts of file names, whose length is limited to 255 bytes.
const MAX_NAME_BYTES: usize = 100;

/// A job that passed [`check`], with the defaults of its features filled in: what everything above this
/// floor takes, so that nothing runs with an invalid job.
#[derive(Debug, Clone)]
pub struct Checked {
    job: Job,
    table_dims: BTreeMap<String, usize>,
}

impl Checked {
    /// Checks `job` and fills in the defaults of its features, their dimensions included.
    pub fn new(mut job: Job) -> Result<Self> {
        check(&job)?;
        let table_dims = tables::dims(&job)?;
        for feature in &mut job.features {
            feature.fill();
            if feature.has_table() {
                feature.dim = table_dims.get(feature.table()).copied();
            }
        }
        job.tasks.iter_mut().for_each(Task::fill);
        job.federated.iter_mut().for_each(|federated| federated.fill());
        Ok(Self { job, table_dims })
    }

    /// The embedding dimension of every table that some feature reads, by name.
    pub fn table_dims(&self) -> &BTreeMap<String, usize> {
        &self.table_dims
    }

    /// The job, to be changed and checked again.
    pub fn into_job(self) -> Job {
        self.job
    }
}

impl Deref for Checked {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

/// Checks everything that the job alone can tell.
///
/// # Errors
/// The first problem, as an error with the place `key`.
pub fn check(job: &Job) -> Result<()> {
    file_name(&job.name, "name", "the job's name")?;
    data(&job.data, job.train.global_batch)?;
    features::check(job)?;
    tables::check(job)?;
    tasks::check(job)?;
    pairs::check(job)?;
    federated::check(job)?;
    if job.optimizer.clip_norm.is_some_and(|norm| !(norm.is_finite() && norm > 0.0)) {
        return Err(wrong("optimizer.clip_norm", "a norm to clip to must be finite and above 0")
            .fix("leave it out for no clipping"));
    }
    train(&job.train)?;
    evaluation(&job.train.eval, job)?;
    at_least_one("checkpoint.keep", job.checkpoint.keep)?;
    if let Some(to) = job.checkpoint.copy_to.as_ref().filter(|to| to.is_empty() || to.starts_with("http")) {
        return Err(wrong("checkpoint.copy_to", format!("`{to}` cannot be written to"))
            .fix("name a folder in a bucket (s3://, gs://, az://), or of this machine"));
    }
    buckets(job.checkpoint.buckets)?;
    if job.run_dir.as_deref() == Some("") {
        return Err(wrong("run_dir", "the run folder is empty").fix("leave it out for `runs/<name>`"));
    }
    if job.memory_limit == Some(Bytes(0)) {
        return Err(wrong("memory_limit", "no table fits into no memory").fix("leave it out for what the machine has"));
    }
    job.threads.map_or(Ok(()), |threads| at_least_one("threads", threads))
}

fn data(data: &Data, global_batch: usize) -> Result<()> {
    for (key, paths) in [("train", Some(&data.train)), ("valid", data.valid.as_ref()), ("test", data.test.as_ref())] {
        let Some(paths) = paths else { continue };
        if paths.patterns().is_empty() || paths.patterns().iter().any(|path| path.trim().is_empty()) {
            return Err(wrong(format!("data.{key}"), "a path is empty")
                .fix("give a glob, a folder or a file, for example `logs/*.parquet`"));
        }
    }
    if data.scenario.as_deref() == Some("") {
        return Err(wrong("data.scenario", "the name of a column is empty").fix("leave it out for no scenarios"));
    }
    at_least_one("data.shuffle_window", data.shuffle_window)?;
    at_least_one("data.prefetch", data.prefetch)?;
    let Some(lanes) = data.lanes else { return Ok(()) };
    at_least_one("data.lanes", lanes)?;
    if !global_batch.is_multiple_of(lanes) {
        let power_of_two = 1 << lanes.ilog2().min(global_batch.trailing_zeros());
        return Err(wrong(
            "data.lanes",
            format!("{lanes} lanes cannot share a global batch of {global_batch} rows evenly"),
        )
        .fix(format!("use `lanes: {power_of_two}`, or a `train.global_batch` that {lanes} divides")));
    }
    Ok(())
}

fn train(train: &Train) -> Result<()> {
    at_least_one("train.global_batch", train.global_batch)?;
    if train.global_batch > MAX_GLOBAL_BATCH {
        return Err(wrong("train.global_batch", format!("a step has at most {MAX_GLOBAL_BATCH} rows")));
    }
    at_least_one("train.epochs", train.epochs)?;
    if train.max_steps == Some(0) {
        return Err(wrong("train.max_steps", "a run of 0 steps trains nothing").fix("leave it out for no limit"));
    }
    if train.log_every == 0 {
        return Err(wrong("train.log_every", "expected 1 or more, found 0"));
    }
    Ok(())
}

fn evaluation(eval: &Eval, job: &Job) -> Result<()> {
    at_least_one("train.eval.global_batch", eval.global_batch)?;
    if eval.global_batch > MAX_GLOBAL_BATCH {
        return Err(wrong("train.eval.global_batch", format!("a step has at most {MAX_GLOBAL_BATCH} rows")));
    }
    tasks::named(&eval.best.task, "train.eval.best.task", job)?;
    let Some(stop) = &eval.stop else { return Ok(()) };
    tasks::named(&stop.task, "train.eval.stop.task", job)?;
    at_least_one("train.eval.stop.patience", stop.patience)?;
    if job.data.valid.is_none() {
        return Err(wrong("train.eval.stop", "early stopping needs rows to evaluate on")
            .fix("add `data.valid`, or remove `stop`"));
    }
    Ok(())
}

fn buckets(buckets: usize) -> Result<()> {
    if buckets.is_power_of_two() && SIZES.contains(&buckets) {
        return Ok(());
    }
    let near = buckets.clamp(*SIZES.start(), *SIZES.end()).next_power_of_two();
    Err(wrong("checkpoint.buckets", format!("{buckets} is not a power of two from 1 to {}", SIZES.end()))
        .fix(format!("use {near}")))
}

/// An error about `key`.
fn wrong(key: impl Into<String>, what: impl Into<String>) -> Error {
    Error::job(what).at("key", key.into())
}

fn at_least_one(key: &str, number: usize) -> Result<()> {
    if number == 0 { Err(wrong(key, "expected 1 or more, found 0")) } else { Ok(()) }
}

fn size(key: String, number: usize, range: RangeInclusive<usize>) -> Result<()> {
    if range.contains(&number) {
        return Ok(());
    }
    Err(wrong(key, format!("expected a number from {} to {}, found {number}", range.start(), range.end())))
}

/// Checks that `name`, which stands at `key`, can be part of a file name; `what` says whose name it is.
fn file_name(name: &str, key: &str, what: &str) -> Result<()> {
    let fault = if name.is_empty() {
        "is empty"
    } else if name.trim() != name {
        "begins or ends with a space"
    } else if name.starts_with('.') {
        "begins with a dot"
    } else if name.contains(['/', '\\']) {
        "contains a slash"
    } else if name.chars().any(char::is_control) {
        "contains a control character"
    } else if name.len() > MAX_NAME_BYTES {
        "is longer than 100 bytes"
    } else {
        return Ok(());
    };
    Err(wrong(key, format!("{what}, {name:?}, {fault}"))
        .fix("files are named after it: use letters, digits, `_` and `-`"))
}

/// Checks that the names of the entries of the list at `key` are not empty, can name files, and differ.
fn unique_names<'a>(key: &str, what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = HashSet::new();
    for (i, name) in names.enumerate() {
        let key = format!("{key}[{i}].name");
        file_name(name, &key, &format!("the {what}'s name"))?;
        if !seen.insert(name) {
            return Err(wrong(key, format!("two {what}s are named `{name}`")).fix("rename one of them"));
        }
    }
    Ok(())
}
