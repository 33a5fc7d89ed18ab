//! Embedding tables as files that other systems read, streamed from a checkpoint's files.
//!
//! | format | files | content |
//! |---|---|---|
//! | `parquet` | `<table>.parquet` | columns `id` uint64 and `vector` list of float32 |
//! | `safetensors` | `<table>.safetensors` | tensors `ids` `[N]` uint64 and `vectors` `[N, dim]` float32 |
//! | `keyvalue` | `<table>/key`, `<table>/emb_vector` | N 64-bit ids; N · dim float32; little-endian, nothing else |
//! | `redis` | `<table>.resp` | one `SET <job>:<table>:<id> <dim float32, little-endian>` a row, for `redis-cli --pipe` |
//!
//! Quantized, numbers are float16, or int8 with a scale for each row: column `scale`, tensor `scales` `[N]`, or 4 bytes before
//! the numbers in Redis. Rows come in the order of (bucket, id).

mod keyvalue;
mod parquet;
mod quantized;
mod redis;
mod safetensors;

pub use parquet::{read_rows, read_tombstones, write_tombstones};
pub use quantized::as_stored;

use super::schema::Dtype;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Folder of the tables in a bundle.
pub const FOLDER: &str = "tables";

/// What a table is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Format {
    /// Columns `id` and `vector`.
    Parquet,
    /// Tensors `ids` and `vectors`.
    Safetensors,
    /// Two files of plain binary numbers.
    Keyvalue,
    /// Commands for `redis-cli --pipe`.
    Redis,
}

impl Format {
    /// Its name in the schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Safetensors => "safetensors",
            Self::Keyvalue => "keyvalue",
            Self::Redis => "redis",
        }
    }
}

/// A table that is going to be written.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Name of the job, for keys.
    pub job: String,
    /// Name of the table.
    pub table: String,
    /// Floats of a row.
    pub dim: usize,
    /// Rows there will be, where that is known.
    pub rows: Option<u64>,
    /// How its numbers are stored.
    pub dtype: Dtype,
}

/// A format's files of one table while they are written.
trait Sink {
    /// Adds rows: N ids, N · dim floats.
    fn push(&mut self, ids: &[u64], vectors: &[f32]) -> Result<()>;

    /// Closes the files.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// One table in all formats that are asked for.
pub struct TableWriter {
    shape: Shape,
    sinks: Vec<Box<dyn Sink>>,
    files: BTreeMap<String, String>,
    rows: u64,
}

impl TableWriter {
    /// Creates the files below the bundle folder `dir`.
    ///
    /// # Errors
    /// Numbers that a format cannot hold.
    pub fn create(dir: &Path, shape: Shape, formats: &[Format]) -> Result<Self> {
        let mut writer = Self { sinks: Vec::new(), files: BTreeMap::new(), rows: 0, shape };
        let folder = dir.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("creating", &folder, &e))?;
        for &format in formats {
            writer.add(dir, format)?;
        }
        Ok(writer)
    }

    fn add(&mut self, dir: &Path, format: Format) -> Result<()> {
        let shape = &self.shape;
        if format == Format::Keyvalue && shape.dtype != Dtype::F32 {
            // Its readers know the numbers' places by their size alone.
            return Err(Error::job(format!("`{}` holds float32 only", format.name()))
                .at("option", "--quantize")
                .fix("write quantized tables as `--tables parquet`, `safetensors` or `redis`"));
        }
        let base = format!("{FOLDER}/{}", file_name(&shape.table));
        let (sink, file): (Box<dyn Sink>, String) = match format {
            Format::Parquet => {
                let file = format!("{base}.parquet");
                (Box::new(parquet::Writer::create(dir.join(&file), shape)?), file)
            }
            Format::Safetensors => {
                let file = format!("{base}.safetensors");
                (Box::new(safetensors::Writer::create(dir.join(&file), shape)?), file)
            }
            Format::Keyvalue => (Box::new(keyvalue::Writer::create(dir.join(&base))?), base),
            Format::Redis => {
                let file = format!("{base}.resp");
                (Box::new(redis::Writer::create(dir.join(&file), shape)?), file)
            }
        };
        self.sinks.push(sink);
        self.files.insert(format.name().to_string(), file);
        Ok(())
    }

    /// Adds rows.
    pub fn push(&mut self, ids: &[u64], vectors: &[f32]) -> Result<()> {
        self.rows += ids.len() as u64;
        self.sinks.iter_mut().try_for_each(|sink| sink.push(ids, vectors))
    }

    /// Closes the files; returns them by format, relative to the bundle.
    ///
    /// # Errors
    /// Other than the promised number of rows.
    pub fn finish(self) -> Result<BTreeMap<String, String>> {
        if let Some(rows) = self.shape.rows.filter(|&rows| rows != self.rows) {
            let what = format!("table `{}` has {} rows instead of {rows}", self.shape.table, self.rows);
            return Err(Error::checkpoint(what));
        }
        self.sinks.into_iter().try_for_each(|sink| sink.finish())?;
        Ok(self.files)
    }
}

/// The name of a table as the name of a file: what a file system or a glob could take for its own is percent-encoded.
pub fn file_name(table: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let encode = |byte: u8| match plain(char::from(byte)) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    table.bytes().map(encode).collect()
}

/// A file of plain bytes, written through a buffer.
struct Out {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Out {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(|e| Error::io("creating", &path, &e))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), path })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("writing", &self.path, &e))
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io("writing", &self.path, &e))
    }
}

#[cfg(test)]
mod tests;
