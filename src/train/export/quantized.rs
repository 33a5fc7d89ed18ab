//! What storing vectors in fewer bits does to the metrics.

use super::Exporter;
use crate::checkpoint::{load_dense, read_tables};
use crate::config::job::{Paths, Ranking};
use crate::data::schema::Purpose;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::export::schema::Dtype;
use crate::export::tables::as_stored;
use crate::observe::Stages;
use crate::train::dataset::Dataset;
use crate::train::freeze::Frozen;
use crate::train::setup;
use std::sync::Arc;

/// Rows that are scored at a time.
const BATCH_ROWS: usize = 8192;

/// A task's metric with vectors as they were trained, and as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// Name of the task.
    pub task: String,
    /// Name of the metric: `auc`, else the loss.
    pub metric: &'static str,
    /// With the numbers that were trained.
    pub trained: f64,
    /// With those that are stored.
    pub stored: f64,
}

/// The effect of `dtype` on the rows of `patterns`; without any on those of the job's test or validation rows. Holds all
/// tables in memory. Full rankings are left out.
///
/// # Errors
/// No labelled rows.
pub fn effects(exporter: &Exporter, store: &Arc<dyn Store>, patterns: &[String], dtype: Dtype) -> Result<Vec<Effect>> {
    let trained = metrics(exporter, store, patterns, Dtype::F32)?;
    let stored = metrics(exporter, store, patterns, dtype)?;
    let effect = |((task, metric, trained), (_, _, stored))| Effect { task, metric, trained, stored };
    Ok(trained.into_iter().zip(stored).map(effect).collect())
}

/// Task, metric and value, of tasks that have one.
fn metrics(
    exporter: &Exporter,
    store: &Arc<dyn Store>,
    patterns: &[String],
    dtype: Dtype,
) -> Result<Vec<(String, &'static str, f64)>> {
    let Exporter { comm, path, manifest, schema, statistics, .. } = exporter;
    let mut job = exporter.job.clone();
    let mut trainable = setup::build(comm, &mut job, schema, exporter.scenarios(), Frozen::of_checkpoint(manifest))?;
    load_dense(path, manifest, &trainable.store)?;
    read_tables(path, manifest, 0..manifest.buckets, |table, rows| {
        let mut rows = rows.clone();
        rows.values = as_stored(dtype, manifest.tables[table].dim, &rows.values);
        trainable.embeddings.import(table, &rows).map(|_| ())
    })?;
    job.tasks.iter_mut().for_each(|task| task.ranking = Some(Ranking { at: Vec::new() }));
    let paths = match patterns {
        [] => job.data.test.clone().or_else(|| job.data.valid.clone()),
        _ => {
            job.data.root = None;
            Some(Paths::Many(patterns.to_vec()))
        }
    };
    const NONE: &str = "the effect of --quantize is measured on labelled rows, and there are none";
    let data = Dataset::open(comm, store, &job, paths.as_ref(), Purpose::Evaluate)?
        .ok_or_else(|| Error::job(NONE).fix("name them with --data"))?;
    let report = data.evaluate(comm, &mut trainable, statistics, BATCH_ROWS, &Stages::start())?;
    let value = |report: crate::metric::TaskReport| {
        let (metric, value) = ["auc", "loss"].into_iter().find_map(|name| Some((name, report.get(name)?)))?;
        Some((report.task.clone(), metric, value))
    };
    Ok(report.tasks.into_iter().filter_map(value).collect())
}
