//! `tandem replay`: a step that was not finite, taken again by one rank from what the run wrote of it.

use super::record::FILE;
use super::rows::{self, Rows};
use super::{Finding, Record};
use crate::comm::Comm;
use crate::error::{Error, Result};
use crate::observe::Stages;
use crate::train::row_classes::RowClasses;
use crate::train::step::{Asks, Clock, StepInput, Stepped};
use crate::train::trained::Trained;
use std::path::Path;

/// What a replay gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Steps taken before it.
    pub step: u64,
    /// Rows of the global batch.
    pub rows: usize,
    /// What the run found.
    pub before: Finding,
    /// What is not finite now; `None` if everything is.
    pub now: Option<Finding>,
}

/// Takes the step that `folder` holds again, on one rank. What is trained is thrown away.
///
/// # Errors
/// A folder that is not whole.
pub fn replay(comm: &Comm, folder: &Path) -> Result<Replayed> {
    let record = read_record(folder)?;
    let mut trained = Trained::load(comm, folder)?;
    let trainable = &mut trained.trainable;
    let files: Vec<_> = (0..record.ranks).map(|rank| rows::path(folder, rank)).collect();
    let columns = trainable.embeddings.bags().count() / trainable.spec.sets.len().max(1);
    let names = rows::Names { tasks: &trainable.tasks, dense: &trainable.dense_names };
    let Rows { batch, plan, classes } = rows::read(&files, columns, names)?;
    if let Some(wanted) = trainable.model.row_classes() {
        trainable.row_classes = Some(RowClasses::of_batch(wanted, &plan, &batch, &classes)?);
    }
    let Record { step, steps_per_epoch, total_steps, finding, .. } = record;
    let clock = Clock { step, steps_per_epoch, total_steps };
    let input = StepInput {
        batch: &batch,
        next: None,
        plan: &plan,
        clock,
        lr_factor: 1.0,
        asks: Asks::default(),
        looks: false,
    };
    let now = match trainable.step(comm, &input, &Stages::start())? {
        Stepped::Taken(_) => None,
        Stepped::Refused(refused) => Some(refused.finding),
    };
    let rows = batch.present.iter().filter(|&&present| present).count();
    Ok(Replayed { step, rows, before: finding, now })
}

fn read_record(folder: &Path) -> Result<Record> {
    let path = folder.join(FILE);
    let unusable = |what: &dyn std::fmt::Display| {
        Error::data(format!("there is no step to replay here: {what}"))
            .at("file", path.display())
            .fix("name a folder RUN_DIR/non-finite/step-NNNNNNNN of a run that met numbers that are not finite")
    };
    let text = std::fs::read(&path).map_err(|e| unusable(&e))?;
    serde_json::from_slice(&text).map_err(|e| unusable(&e))
}
