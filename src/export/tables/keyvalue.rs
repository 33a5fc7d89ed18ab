//! Ids and vectors as two files of plain numbers, as HugeCTR's parameter server reads them.

use super::{Out, Sink};
use crate::error::{Error, Result};
use std::path::PathBuf;

pub struct Writer {
    keys: Out,
    vectors: Out,
}

impl Writer {
    pub fn create(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("creating", &folder, &e))?;
        Ok(Self { keys: Out::create(folder.join("key"))?, vectors: Out::create(folder.join("emb_vector"))? })
    }
}

impl Sink for Writer {
    fn push(&mut self, ids: &[u64], vectors: &[f32]) -> Result<()> {
        ids.iter().try_for_each(|id| self.keys.write(&id.to_le_bytes()))?;
        vectors.iter().try_for_each(|value| self.vectors.write(&value.to_le_bytes()))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.keys.finish()?;
        self.vectors.finish()
    }
}
