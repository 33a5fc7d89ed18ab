//! Tables whose rows begin as vectors from a file: options and how rows come to their owners. What reads the file stands
//! above, in [`crate::train::pretrained`].

use super::Embeddings;
use super::rows::TableRows;
use crate::comm::{Communicator, collectives};
use crate::config::job::Table;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `init: {kind: file}`. An id that the file does not have begins with zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileInit {
    /// A Parquet file.
    pub path: String,
    /// Its column of ids: integers, or texts, as in the log. Default `key`.
    pub key: String,
    /// Its column of vectors: lists of as many floats each. Default `vector`.
    pub vector: String,
    /// Hash of ids and vectors; read from the file, and compared with it where it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl Default for FileInit {
    fn default() -> Self {
        Self { path: String::new(), key: "key".to_string(), vector: "vector".to_string(), fingerprint: None }
    }
}

impl FileInit {
    /// The options of `tables.<name>`, if its rows come from a file.
    pub fn of(table: &Table, name: &str) -> Result<Option<Self>> {
        let Some(init) = table.init.as_ref().filter(|init| init.kind == "file") else { return Ok(None) };
        let options: Self = init.options(&format!("tables.{name}.init"))?;
        if options.path.is_empty() {
            return Err(Error::job("a table from a file needs its path")
                .at("key", format!("tables.{name}.init"))
                .fix("name it, as in `init: {kind: file, path: vectors.parquet}`"));
        }
        Ok(Some(options))
    }

    /// Writes the options back into the table.
    pub fn resolve(&self, table: &mut Table) -> Result<()> {
        table.init.as_mut().map_or(Ok(()), |init| init.resolve(self))
    }
}

impl Embeddings {
    /// Brings rows, which any rank has read, to the owners of their ids, with the optimizer state of new rows. Collective.
    ///
    /// # Errors
    /// An id that has a row already, or not enough memory.
    pub fn place(&mut self, comm: &dyn Communicator, table: usize, ids: &[u64], values: &[f32]) -> Result<()> {
        let dim = self.dim(table);
        if values.len() != ids.len() * dim {
            return Err(Error::internal(format!("{} numbers for {} rows of {dim}", values.len(), ids.len())));
        }
        let mut by_owner: Vec<Vec<usize>> = vec![Vec::new(); comm.size()];
        ids.iter().enumerate().for_each(|(row, &id)| by_owner[self.buckets.owner(id)].push(row));
        let counts: Vec<usize> = by_owner.iter().map(Vec::len).collect();
        let floats: Vec<usize> = counts.iter().map(|rows| rows * dim).collect();
        let order = || by_owner.iter().flatten();
        let sent: Vec<u64> = order().map(|&row| ids[row]).collect();
        let sent_values: Vec<f32> = order().flat_map(|&row| &values[row * dim..(row + 1) * dim]).copied().collect();
        let (ids, _) = collectives::all_to_all(comm, &sent, &counts)?;
        let (values, _) = collectives::all_to_all(comm, &sent_values, &floats)?;
        let rows = ids.len();
        let rows = TableRows {
            buckets: 0..self.buckets(),
            bucket_rows: vec![rows as u64],
            counts: vec![0; rows],
            last_steps: vec![0; rows],
            ids,
            values,
            ..TableRows::default()
        };
        let placed = self.import_renewed(table, rows, false);
        collectives::agree(comm, placed).map(|_| ())
    }
}
