//! A new run that begins with the parameters, tables and statistics of another run's checkpoint.
//!
//! Dense parameters are found again by name and shape, tables by name and dimension, statistics of numeric features by
//! name and transform, so that the inputs mean the same. The job need not be the same: what is new begins as in any run,
//! what the job no longer has is left out, and a [`Report`] says which is which.

use super::step::Trainable;
use super::trained::saved_job;
use super::{dataset::Dataset, persist};
use crate::checkpoint::{self, Manifest, Matches, load_known_dense, load_known_tables};
use crate::comm::{Comm, collectives};
use crate::config::job::{FeatureKind, InitFrom, InitOptimizer, Job};
use crate::data::everywhere::Everywhere;
use crate::data::statistics::Statistics;
use crate::error::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// The checkpoint that a run begins with.
pub struct Init {
    path: PathBuf,
    manifest: Manifest,
    keep_optimizer: bool,
}

/// What a run took over from another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The checkpoint.
    pub checkpoint: String,
    /// Steps that it was trained for.
    pub step: u64,
    /// Dense parameters and buffers.
    pub parameters: Matches,
    /// Embedding tables.
    pub tables: Matches,
    /// Statistics of numeric features.
    pub statistics: Matches,
    /// What the optimizers remember: `fresh`, `keep`, or `fresh: …` with the reason why nothing could be kept.
    pub optimizer: String,
}

impl Init {
    /// Finds and checks the checkpoint that `init_from` names. Collective.
    pub fn read(comm: &Comm, from: &InitFrom) -> Result<Self> {
        let path = checkpoint::localised(comm.as_ref(), &Everywhere::default(), Path::new(&from.checkpoint));
        let found = path.and_then(|path| checkpoint::resolve(&path)).and_then(|path| {
            let manifest = Manifest::read(&path)?;
            Ok(Self { path, manifest, keep_optimizer: from.optimizer == InitOptimizer::Keep })
        });
        collectives::agree(comm.as_ref(), found.map_err(|error| error.at("key", "init_from")))
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Statistics for the features of `job`: the checkpoint's where a feature is the same in its job, else those of the
    /// rows of `train`, which are read only if needed. Collective.
    pub fn statistics(&self, comm: &Comm, job: &Job, train: &Dataset) -> Result<(Statistics, Matches)> {
        let saved = saved_job(&self.manifest).and_then(|old| Ok((old, persist::statistics(&self.manifest)?)));
        let (old, known) = collectives::agree(comm.as_ref(), saved)?;
        let matches = Matches::new(&numeric(job), &numeric(&old));
        // Parameters of scenarios go by number: the same column keeps the numbers it had.
        let scenarios = known.scenarios().filter(|_| job.data.scenario == old.data.scenario);
        let renumbers = job.data.scenario.is_some() && scenarios.is_none();
        let fresh = matches.loaded.len() < numeric(job).len() || renumbers;
        let mut statistics = if fresh { train.statistics(comm)? } else { Statistics::default() };
        for name in &matches.loaded {
            statistics.insert(name, collectives::agree(comm.as_ref(), known.get(name))?.clone());
        }
        if let Some(scenarios) = scenarios {
            statistics.set_scenarios(scenarios.clone());
        }
        Ok((statistics, matches))
    }

    /// Loads what `trainable` has too. Collective.
    ///
    /// # Errors
    /// A checkpoint that cannot be read, or of which nothing fits.
    pub fn load(&self, comm: &Comm, trainable: &mut Trainable, statistics: Matches) -> Result<Report> {
        let loaded = self.load_here(comm, trainable, statistics);
        let report = collectives::agree(comm.as_ref(), loaded)?;
        trainable.embeddings.trim(0);
        Ok(report)
    }

    fn load_here(&self, comm: &Comm, trainable: &mut Trainable, statistics: Matches) -> Result<Report> {
        let Self { path, manifest, keep_optimizer } = self;
        let moments = trainable.dense.moment_names().to_vec();
        let kept = *keep_optimizer && moments == manifest.optimizer.1;
        let (state, buffers) = load_known_dense(path, manifest, &trainable.store, kept)?;
        let updates = if kept { manifest.optimizer.0 } else { 0 };
        let store = &trainable.store;
        trainable.dense.restore(store, &state.moments, updates, comm.as_ref())?;
        let tables = load_known_tables(path, manifest, &mut trainable.embeddings, *keep_optimizer)?;

        let wants: Vec<_> = store.names().iter().cloned().zip(store.vars().iter().map(|v| v.dims().to_vec())).collect();
        let has: Vec<_> = manifest.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        let mut parameters = Matches::new(&wants, &has);
        parameters.loaded.extend(buffers);
        if parameters.loaded.is_empty() && tables.loaded.is_empty() {
            return Err(Error::checkpoint("nothing in the checkpoint has a name and shape of this job")
                .at("key", "init_from")
                .at("path", path.display())
                .fix("compare `tandem inspect --json` of it with the job: names of features and tasks, widths, dims"));
        }
        let optimizer = match (*keep_optimizer, kept) {
            (false, _) => "fresh".to_string(),
            (true, true) => "keep".to_string(),
            (true, false) => {
                let (saved, mine) = (manifest.optimizer.1.join(", "), moments.join(", "));
                format!("fresh: the checkpoint has the moments [{saved}], this job [{mine}]")
            }
        };
        let (checkpoint, step) = (path.display().to_string(), manifest.step);
        Ok(Report { checkpoint, step, parameters, tables, statistics, optimizer })
    }
}

/// The numeric features of a job, and what their statistics must fit.
fn numeric(job: &Job) -> Vec<(String, String)> {
    let features = job.features.iter().filter(|feature| feature.kind == FeatureKind::Numeric);
    features.map(|f| (f.name.clone(), format!("{:?} {:?} {}", f.transform(), f.buckets, f.column()))).collect()
}

/// For people: what was taken over, and every name that was not.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "begins with {}, trained for {} steps (optimizer: {})", self.checkpoint, self.step, self.optimizer)?;
        for (what, matches) in
            [("parameters", &self.parameters), ("tables", &self.tables), ("statistics", &self.statistics)]
        {
            let Matches { loaded, reshaped, new, left_out } = matches;
            if loaded.len() + reshaped.len() + new.len() + left_out.len() > 0 {
                write!(f, "\n    {} {what} loaded", loaded.len())?;
            }
            for (how, names) in [("of another shape", reshaped), ("new", new), ("left out", left_out)] {
                if !names.is_empty() {
                    write!(f, "; {how}: {}", names.join(", "))?;
                }
            }
        }
        Ok(())
    }
}
