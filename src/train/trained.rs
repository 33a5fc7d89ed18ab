//! A model read back from a checkpoint, to be evaluated or to predict.

use super::freeze::Frozen;
use super::persist;
use super::setup;
use super::step::Trainable;
use crate::checkpoint::{self, Manifest};
use crate::comm::{Comm, collectives};
use crate::config::Checked;
use crate::config::job::Job;
use crate::data::scenarios::Scenarios;
use crate::data::schema::{Purpose, Schema};
use crate::data::statistics::Statistics;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A trained model on one rank.
pub struct Trained {
    /// The job it was trained with.
    pub job: Job,
    /// The checkpoint it was read from.
    pub path: PathBuf,
    /// Steps it was trained for.
    pub step: u64,
    /// Its parameters and this rank's buckets of its tables.
    pub trainable: Trainable,
    /// Statistics of the numeric features, and the scenarios.
    pub statistics: Arc<Statistics>,
    /// Names the rows it was trained on.
    pub trained_on: String,
}

impl Trained {
    /// Reads the checkpoint that `path` means: a checkpoint folder, or a run folder (its best checkpoint, else
    /// its newest). Collective, at any number of ranks.
    pub fn load(comm: &Comm, path: &Path) -> Result<Self> {
        let found = checkpoint::resolve(path).and_then(|path| {
            let manifest = Manifest::read(&path)?;
            let job = saved_job(&manifest)?;
            Ok((path, manifest, job))
        });
        let (path, manifest, mut job) = collectives::agree(comm.as_ref(), found)?;
        // It was set for the machines and the number of ranks that trained.
        job.memory_limit = None;
        let statistics = Arc::new(collectives::agree(comm.as_ref(), persist::statistics(&manifest))?);
        let scenarios = statistics.scenarios().map_or(&[][..], Scenarios::names);
        let frozen = Frozen::of_checkpoint(&manifest);
        let built = Schema::new(&job, Purpose::Predict)
            .and_then(|schema| setup::build(comm, &mut job, &schema, scenarios, frozen));
        let mut trainable = collectives::agree(comm.as_ref(), built)?;
        let restored = persist::restore(comm.as_ref(), &path, &manifest, &mut trainable);
        collectives::agree(comm.as_ref(), restored)?;
        Ok(Self { job, path, step: manifest.step, trainable, statistics, trained_on: manifest.data })
    }
}

/// A job that cannot be read or is not sound was not written by this version of tandem.
pub(super) fn saved_job(manifest: &Manifest) -> Result<Job> {
    let unusable = |what: String| {
        Error::checkpoint(format!("the checkpoint's job cannot be used: {what}"))
            .fix(format!("use the version of tandem that wrote it: {}", manifest.tandem))
    };
    let job: Job = serde_yaml::from_str(&manifest.job).map_err(|e| unusable(e.to_string()))?;
    Ok(Checked::new(job).map_err(|e| unusable(e.to_string()))?.into_job())
}
