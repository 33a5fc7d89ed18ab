//! Rows as Redis commands in its own protocol, which `redis-cli --pipe` takes as they are. A value is the row's numbers,
//! little-endian; of int8 the row's scale, a float32, comes first.

use super::quantized::{push_numbers, scale};
use super::{Out, Shape, Sink};
use crate::error::Result;
use crate::export::schema::Dtype;
use std::io::Write;
use std::path::PathBuf;

pub struct Writer {
    out: Out,
    prefix: String,
    dim: usize,
    dtype: Dtype,
    value: Vec<u8>,
}

impl Writer {
    pub fn create(path: PathBuf, shape: &Shape) -> Result<Self> {
        let prefix = format!("{}:{}:", shape.job, shape.table);
        Ok(Self { out: Out::create(path)?, prefix, dim: shape.dim, dtype: shape.dtype, value: Vec::new() })
    }
}

impl Sink for Writer {
    fn push(&mut self, ids: &[u64], vectors: &[f32]) -> Result<()> {
        let mut command = Vec::new();
        for (id, vector) in ids.iter().zip(vectors.chunks_exact(self.dim)) {
            self.value.clear();
            if self.dtype == Dtype::Int8 {
                self.value.extend(scale(vector).to_le_bytes());
            }
            push_numbers(self.dtype, vector, &mut self.value);
            let key = format!("{}{id}", self.prefix);
            command.clear();
            // Writing to a vector cannot fail.
            let _ = write!(command, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), self.value.len());
            command.extend(&self.value);
            command.extend(b"\r\n");
            self.out.write(&command)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.out.finish()
    }
}
