//! What a job's model takes, known before a row is read: for `tandem doctor`.

use super::freeze::Frozen;
use super::init::Init;
use super::pretrained::Pretrained;
use super::setup;
use crate::balance::Scope;
use crate::comm::Comm;
use crate::comm::solo::Solo;
use crate::config::job::Job;
use crate::data::schema::Schema;
use crate::embedding::RowCost;
use crate::error::Result;
use std::rc::Rc;

/// The dense part and the tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Dense parameters (floats).
    pub dense: usize,
    /// Those of them that are trained.
    pub trained: usize,
    /// Floats that the optimizer and the balancing method keep for each trained one.
    pub moments: usize,
    /// Gradients of the shared parameters that a step holds: one, or one a task.
    pub gradients: usize,
    /// The tables of all sets.
    pub tables: Vec<TableSize>,
}

/// One table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSize {
    /// Its name.
    pub name: String,
    /// The table of the job that it is, or is a set's copy of.
    pub of: String,
    /// Floats of a row.
    pub dim: usize,
    /// Bytes of a row.
    pub row: RowCost,
}

impl Sizes {
    /// Builds the model of `job` on one rank and measures it. Fills the resolved options of the components into `job`.
    ///
    /// # Errors
    /// Whatever keeps the job from being trained, before its data are read.
    pub fn of(job: &mut Job, schema: &Schema, scenarios: &[String]) -> Result<Self> {
        let comm: Comm = Rc::new(Solo);
        let init = job.init_from.as_ref().map(|from| Init::read(&comm, from)).transpose()?;
        Pretrained::open(job)?;
        let frozen = Frozen::of_job(job, init.as_ref().map(Init::manifest))?;
        let trainable = setup::build(&comm, job, schema, scenarios, frozen)?;
        let columns = schema.id_columns();
        let mut tables: Vec<TableSize> = Vec::new();
        for (bag, spec) in trainable.embeddings.bags().enumerate() {
            let name = trainable.embeddings.table_names().nth(spec.table).unwrap_or_default();
            if tables.iter().all(|table| table.name != name) {
                let of = &schema.id_features[columns[bag % columns.len()].feature].table;
                let (dim, row) = (trainable.embeddings.dim(spec.table), trainable.embeddings.row_cost(spec.table));
                tables.push(TableSize { name: name.to_string(), of: of.clone(), dim, row });
            }
        }
        let balance = &trainable.balance;
        let gradients = match balance.scope {
            Some(Scope::Shared | Scope::SharedAndRows) => trainable.tasks.len() * balance.method.parts(),
            _ => 1,
        };
        Ok(Self {
            dense: trainable.store.len(),
            trained: trainable.store.trained_len(),
            moments: trainable.dense.moment_names().len(),
            gradients,
            tables,
        })
    }

    /// Bytes of the dense part on each of `ranks` ranks: parameters and gradients whole, the optimizer's in slices.
    pub fn dense_bytes(&self, ranks: usize) -> u64 {
        let whole = self.dense + self.trained * (1 + self.gradients);
        let slice = self.trained * (1 + self.gradients + self.moments) / ranks;
        4 * (whole + slice) as u64
    }

    /// Bytes of the dense part in a checkpoint.
    pub fn dense_disk_bytes(&self) -> u64 {
        4 * (self.dense + self.trained * self.moments) as u64
    }
}
