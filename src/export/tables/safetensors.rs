//! A safetensors file, written row by row: its tensors are filled side by side, because their places are known from the
//! number of rows.

use super::quantized::{number_bytes, push_numbers, scale};
use super::{Shape, Sink};
use crate::error::{Error, Result};
use crate::export::schema::Dtype;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub struct Writer {
    path: PathBuf,
    file: File,
    dtype: Dtype,
    dim: usize,
    /// Where the next id, scale and vector go.
    id_at: u64,
    scale_at: u64,
    vector_at: u64,
}

impl Writer {
    pub fn create(path: PathBuf, shape: &Shape) -> Result<Self> {
        let &Shape { dtype, dim, .. } = shape;
        let rows = shape.rows.ok_or_else(|| Error::internal("a safetensors file of an unknown number of rows"))?;
        let scales = if dtype == Dtype::Int8 { 4 * rows } else { 0 };
        let (ids, vectors) = (8 * rows, (number_bytes(dtype) * dim) as u64 * rows);
        let name = match dtype {
            Dtype::F32 => "F32",
            Dtype::Fp16 => "F16",
            Dtype::Int8 => "I8",
        };
        // Widest first: all lie at multiples of their size.
        let mut header = serde_json::json!({"ids": {"dtype": "U64", "shape": [rows], "data_offsets": [0, ids]}});
        if dtype == Dtype::Int8 {
            header["scales"] =
                serde_json::json!({"dtype": "F32", "shape": [rows], "data_offsets": [ids, ids + scales]});
        }
        let offsets = [ids + scales, ids + scales + vectors];
        header["vectors"] = serde_json::json!({"dtype": name, "shape": [rows, dim], "data_offsets": offsets});
        let mut header = header.to_string().into_bytes();
        // Readers map the file to memory: the numbers begin at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        let file = File::create(&path).map_err(|e| Error::io("creating", &path, &e))?;
        let start = 8 + header.len() as u64;
        let (scale_at, vector_at) = (start + ids, start + ids + scales);
        let writer = Self { path, file, dtype, dim, id_at: start, scale_at, vector_at };
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
        let rows = || vectors.chunks_exact(self.dim);
        let mut numbers = Vec::with_capacity(number_bytes(self.dtype) * vectors.len());
        rows().for_each(|row| push_numbers(self.dtype, row, &mut numbers));
        self.write(self.id_at, bytemuck::cast_slice(ids))?;
        if self.dtype == Dtype::Int8 {
            let scales: Vec<f32> = rows().map(scale).collect();
            self.write(self.scale_at, bytemuck::cast_slice(&scales))?;
        }
        self.write(self.vector_at, &numbers)?;
        self.id_at += 8 * ids.len() as u64;
        self.scale_at += 4 * ids.len() as u64;
        self.vector_at += numbers.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
