//! Rows as Redis commands in its own protocol, which `redis-cli --pipe` takes as they are.

use super::{Out, Shape, Sink};
use crate::error::Result;
use std::io::Write;
use std::path::PathBuf;

pub struct Writer {
    out: Out,
    prefix: String,
    dim: usize,
    command: Vec<u8>,
}

impl Writer {
    pub fn create(path: PathBuf, shape: &Shape) -> Result<Self> {
        let prefix = format!("{}:{}:", shape.job, shape.table);
        Ok(Self { out: Out::create(path)?, prefix, dim: shape.dim, command: Vec::new() })
    }
}

impl Sink for Writer {
    fn push(&mut self, ids: &[u64], vectors: &[f32]) -> Result<()> {
        for (id, vector) in ids.iter().zip(vectors.chunks_exact(self.dim)) {
            let key = format!("{}{id}", self.prefix);
            self.command.clear();
            // Writing to a vector cannot fail.
            let _ = write!(self.command, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), 4 * self.dim);
            vector.iter().for_each(|value| self.command.extend(value.to_le_bytes()));
            self.command.extend(b"\r\n");
            self.out.write(&self.command)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.out.finish()
    }
}
