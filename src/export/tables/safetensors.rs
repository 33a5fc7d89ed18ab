//! A safetensors file, written row by row: its two tensors are filled side by side, because their places are known
//! from the number of rows.

use super::{Shape, Sink};
use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub struct Writer {
    path: PathBuf,
    file: File,
    /// Where the next id and the next vector go.
    id_at: u64,
    vector_at: u64,
}

impl Writer {
    pub fn create(path: PathBuf, shape: &Shape) -> Result<Self> {
        let rows = shape
            .rows
            .ok_or_else(|| Error::job("`safetensors` needs the number of rows first").fix("write deltas as Parquet"))?;
        let (ids, vectors) = (8 * rows, 4 * rows * shape.dim as u64);
        let header = serde_json::json!({
            "ids": {"dtype": "U64", "shape": [rows], "data_offsets": [0, ids]},
            "vectors": {"dtype": "F32", "shape": [rows, shape.dim], "data_offsets": [ids, ids + vectors]},
        });
        let mut header = header.to_string().into_bytes();
        // Readers map the file to memory: the numbers begin at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        let file = File::create(&path).map_err(|e| Error::io("creating", &path, &e))?;
        let start = 8 + header.len() as u64;
        let writer = Self { path, file, id_at: start, vector_at: start + ids };
        writer.write(0, &(header.len() as u64).to_le_bytes())?;
        writer.write(8, &header)?;
        Ok(writer)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| Error::io("writing", &self.path, &e))
    }
}

impl Sink for Writer {
    fn push(&mut self, ids: &[u64], vectors: &[f32]) -> Result<()> {
        let (ids, vectors): (&[u8], &[u8]) = (bytemuck::cast_slice(ids), bytemuck::cast_slice(vectors));
        self.write(self.id_at, ids)?;
        self.write(self.vector_at, vectors)?;
        self.id_at += ids.len() as u64;
        self.vector_at += vectors.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
