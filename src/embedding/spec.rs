//! What tables there are, and which feature reads which.

use super::admission::Admission;
use super::eviction::Eviction;
use super::init::Init;
use super::optimizer::{self, Optimizer, Slot};
use crate::config::{Component, job};
use crate::error::{Error, Result};

/// One table.
#[derive(Debug)]
pub struct TableSpec {
    /// Name; initial rows depend on it.
    pub name: String,
    /// Floats of a row.
    pub dim: usize,
    /// How new rows are filled.
    pub init: Init,
    /// How rows are trained.
    pub optimizer: Optimizer,
    /// When an id gets a row; `None`: at once.
    pub admission: Option<Admission>,
    /// When a row is dropped; `None`: never.
    pub eviction: Option<Eviction>,
    /// The rows stay as they are: no id gets a row or loses it, nothing is counted, and there is no optimizer state.
    pub frozen: bool,
}

impl TableSpec {
    /// A table that admits every id and drops none.
    pub fn new(name: &str, dim: usize, init: Init, optimizer: Optimizer) -> Self {
        Self { name: name.to_string(), dim, init, optimizer, admission: None, eviction: None, frozen: false }
    }

    /// The same table, frozen or not.
    #[must_use]
    pub fn freeze(self, frozen: bool) -> Self {
        Self { frozen, ..self }
    }

    /// The parts of a row's optimizer state.
    pub fn slots(&self) -> Vec<Slot> {
        if self.frozen { Vec::new() } else { self.optimizer.slots(self.dim) }
    }

    /// The table that `tables.<name>` of the job describes, with `buckets` buckets. Its `dim` must be set. A
    /// table without `optimizer` gets `sparse`, which stands at `optimizer.sparse`. Options are resolved in place.
    pub fn from_job(name: &str, table: &mut job::Table, sparse: &mut Component, buckets: usize) -> Result<Self> {
        let key = |part: &str| format!("tables.{name}.{part}");
        let Some(dim) = table.dim.filter(|&dim| dim > 0) else {
            return Err(Error::job(format!("table {name} has no dim"))
                .at("key", key("dim"))
                .fix("give `dim` to one of the features that read it, or to the table"));
        };
        let init = match &mut table.init {
            Some(init) => Init::build(init, &key("init"), dim)?,
            None => Init::default_for(dim),
        };
        let optimizer = match &mut table.optimizer {
            Some(own) => optimizer::build(own, &key("optimizer"))?,
            None => optimizer::build(sparse, "optimizer.sparse")?,
        };
        let admission = table.admission.map(|a| Admission::new(&a, &key("admission"))).transpose()?;
        let eviction = table.eviction.map(|e| Eviction::new(&e, &key("eviction"), buckets)).transpose()?;
        Ok(Self { name: name.to_string(), dim, init, optimizer, admission, eviction, frozen: false })
    }
}

/// How the rows of a bag become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
}

/// What a feature makes of its ids. Both read as zeros where a row has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BagKind {
    /// One vector.
    Pooled(Pool),
    /// The vectors of the last `max_len` ids, in order.
    Sequence {
        /// Longest length (L).
        max_len: usize,
    },
}

/// One id feature, in the order of [`crate::data::batch::Batch::ids`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BagSpec {
    /// Name of the feature.
    pub name: String,
    /// Index of its table.
    pub table: usize,
    /// What becomes of its ids.
    pub kind: BagKind,
}

/// Why rows are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// New ids may get rows; counts are kept.
    Train {
        /// The step, from 0.
        step: u64,
    },
    /// Nothing changes; unknown ids read as zeros.
    Evaluate,
}
