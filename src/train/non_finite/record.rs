//! What is written of a step that was not taken, so that it can be taken again elsewhere.
//!
//! ```text
//! RUN_DIR/non-finite/step-00000012/
//!   manifest.json, dense.safetensors, buckets-….safetensors    a checkpoint before the step, with its rows of the tables
//!   rows-00000.parquet …                                       the batch of each rank, as the model read it
//!   non_finite.json                                            what was found, and where the run stood; written last
//! ```

use super::{Finding, rows};
use crate::checkpoint::{CheckpointDir, Disk};
use crate::comm::{Comm, collectives};
use crate::data::batch::Batch;
use crate::data::plan::Plan;
use crate::error::{Error, Result};
use crate::train::persist::{self, Context};
use crate::train::step::Trainable;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Name of the file with the [`Record`].
pub const FILE: &str = "non_finite.json";

/// What the checkpoint and the rows do not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps taken before.
    pub step: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps planned in all.
    pub total_steps: u64,
    /// Ranks, each with a file of rows.
    pub ranks: usize,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

/// What is recorded.
pub struct Recorded<'a> {
    /// Everything that is trained, as before the step.
    pub trainable: &'a mut Trainable,
    /// What its checkpoint says.
    pub context: Context<'a>,
    /// This rank's rows.
    pub batch: &'a Batch,
    /// Where they come from.
    pub plan: &'a Plan,
    /// The rest.
    pub record: Record,
}

/// Writes it into the run folder, in place of an earlier one of the same step; returns the folder. Collective.
pub fn write(comm: &Comm, run_dir: &Path, recorded: Recorded) -> Result<PathBuf> {
    let Recorded { trainable, context, batch, plan, record } = recorded;
    let dir = CheckpointDir::at(run_dir.join("non-finite"));
    let folder = dir.step(record.step);
    let cleared = match comm.rank() == 0 && folder.exists() {
        true => std::fs::remove_dir_all(&folder).map_err(|e| Error::io("clearing", &folder, &e)),
        false => Ok(()),
    };
    collectives::agree(comm.as_ref(), cleared)?;
    let ids = ids_by_table(comm, trainable, batch)?;
    persist::save(comm.as_ref(), &dir, trainable, context, Some(ids))?.finish(comm.as_ref())?;
    let classes = trainable.row_classes.as_ref().map(|classes| classes.of(batch));
    let names = rows::Names { tasks: &trainable.tasks, dense: &trainable.dense_names };
    let written = rows::write(&rows::path(&folder, comm.rank()), batch, plan, classes.as_deref(), names);
    collectives::agree(comm.as_ref(), written)?;
    let finished = if comm.rank() == 0 { finish(&folder, &record) } else { Ok(()) };
    collectives::agree(comm.as_ref(), finished)?;
    Ok(folder)
}

/// The ids of the global batch, by table. Collective.
fn ids_by_table(comm: &Comm, trainable: &Trainable, batch: &Batch) -> Result<Vec<HashSet<u64>>> {
    let embeddings = &trainable.embeddings;
    let mut by_table = vec![HashSet::new(); embeddings.table_names().count()];
    for (bag, spec) in embeddings.bags().enumerate() {
        by_table[spec.table].extend(batch.ids[bag % batch.ids.len()].ids());
    }
    for ids in &mut by_table {
        let mine: Vec<u64> = ids.iter().copied().collect();
        ids.extend(collectives::all_gather(comm.as_ref(), &mine)?.0);
    }
    Ok(by_table)
}

fn finish(folder: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).map_err(|e| Error::internal(format!("a finding: {e}")))?;
    Disk::default().write(&folder.join(FILE), &[&text])
}
