//! A model read back from a checkpoint, to be evaluated or to predict.

use super::persist;
use super::setup;
use super::step::Trainable;
use crate::checkpoint::{self, Manifest};
use crate::comm::{Comm, collectives};
use crate::config::Checked;
use crate::config::job::Job;
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
    /// Statistics of the numeric features.
    pub statistics: Arc<Statistics>,
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
        let schema = Schema::new(&job, Purpose::Predict)?;
        let mut trainable = setup::build(comm, &mut job, &schema)?;
        let restored = persist::restore(comm.as_ref(), &path, &manifest, &mut trainable);
        collectives::agree(comm.as_ref(), restored)?;
        let statistics = Arc::new(persist::statistics(&manifest)?);
        Ok(Self { job, path, step: manifest.step, trainable, statistics })
    }
}

fn saved_job(manifest: &Manifest) -> Result<Job> {
    let job: Job = serde_yaml::from_str(&manifest.job)
        .map_err(|e| Error::checkpoint(format!("the checkpoint's job cannot be read: {e}")))?;
    Ok(Checked::new(job)?.into_job())
}
