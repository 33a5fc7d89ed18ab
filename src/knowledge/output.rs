//! The Parquet files: written aside, and named when they are whole.

use super::Encode;
use super::value::Value;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Users of a row group.
const GROUP_USERS: usize = 8192;

/// One user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserRow {
    /// The user's id.
    pub key: Value,
    /// The scenarios that the user has rows in.
    pub scenarios: Vec<Value>,
    /// What was said of the user.
    pub text: String,
    /// What the encoder made of it.
    pub vector: Vec<f32>,
}

/// One scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Its value in the log.
    pub key: Value,
    /// Users with a row in it.
    pub users: u64,
    /// Its rows.
    pub rows: u64,
    /// What was said of it.
    pub text: String,
    /// What the encoder made of it.
    pub vector: Vec<f32>,
    /// Mean of its users' vectors.
    pub user_mean: Vec<f32>,
}

/// Makes the folder, and sees that no knowledge is in it.
pub fn prepare(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|e| Error::io("creating the output folder", out, &e))?;
    for name in ["user.parquet", "scenario.parquet"] {
        let path = out.join(name);
        if path.exists() {
            return Err(Error::job("the folder already holds knowledge")
                .at("file", path.display())
                .fix("name another folder with --out, or remove this file"));
        }
    }
    Ok(())
}

/// Takes users in their order, and writes a row group when enough are there.
pub struct UserFile {
    path: PathBuf,
    made_by: String,
    writer: Option<ArrowWriter<File>>,
    rows: Vec<UserRow>,
}

impl UserFile {
    /// The file of users in `out`.
    pub fn create(out: &Path, encoder: &dyn Encode) -> Self {
        Self { path: out.join("user.parquet"), made_by: encoder.describe(), writer: None, rows: Vec::new() }
    }

    /// Adds one user.
    pub fn add(&mut self, row: UserRow) -> Result<()> {
        self.rows.push(row);
        if self.rows.len() == GROUP_USERS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let columns: [(&str, ArrayRef); 3] = [
            ("key", keys(self.rows.iter().map(|row| &row.key))?),
            ("text", Arc::new(StringArray::from_iter_values(self.rows.iter().map(|row| &row.text)))),
            ("vector", vectors(self.rows.iter().map(|row| row.vector.as_slice()))),
        ];
        self.rows.clear();
        let batch = RecordBatch::try_from_iter(columns);
        let batch = batch.map_err(|e| Error::internal(format!("users do not fit their file: {e}")))?;
        let writer = match self.writer.take() {
            Some(writer) => writer,
            // The first users say what type an id is.
            None => open(&self.path, &batch, &self.made_by)?,
        };
        let writer = self.writer.insert(writer);
        writer.write(&batch).map_err(|e| refused(&self.path, &e))
    }

    /// Closes the file and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        if !self.rows.is_empty() || self.writer.is_none() {
            self.flush()?;
        }
        match self.writer.take() {
            Some(writer) => close(writer, &self.path),
            None => Err(Error::internal("a file of users that was not begun")),
        }
    }
}

/// Writes the file of scenarios in `out`, with the means of users where `with_users`.
pub fn write_scenarios(out: &Path, rows: &[Described], with_users: bool, encoder: &dyn Encode) -> Result<()> {
    let path = out.join("scenario.parquet");
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("key", keys(rows.iter().map(|row| &row.key))?),
        ("users", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.users)))),
        ("rows", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.rows)))),
        ("text", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.text)))),
        ("vector", vectors(rows.iter().map(|row| row.vector.as_slice()))),
    ];
    if with_users {
        columns.push(("user_mean", vectors(rows.iter().map(|row| row.user_mean.as_slice()))));
    }
    let batch = RecordBatch::try_from_iter(columns)
        .map_err(|e| Error::internal(format!("scenarios do not fit their file: {e}")))?;
    let mut writer = open(&path, &batch, &encoder.describe())?;
    writer.write(&batch).map_err(|e| refused(&path, &e))?;
    close(writer, &path)
}

/// A file for batches like this one, aside until it is whole.
fn open(path: &Path, like: &RecordBatch, made_by: &str) -> Result<ArrowWriter<File>> {
    let file = File::create(aside(path)).map_err(|e| Error::io("creating", path, &e))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .set_max_row_group_row_count(Some(GROUP_USERS))
        .set_key_value_metadata(Some(vec![KeyValue::new("tandem.encoder".to_string(), made_by.to_string())]))
        .build();
    ArrowWriter::try_new(file, like.schema(), Some(properties)).map_err(|e| refused(path, &e))
}

fn close(writer: ArrowWriter<File>, path: &Path) -> Result<()> {
    writer.close().map_err(|e| refused(path, &e))?;
    std::fs::rename(aside(path), path).map_err(|e| Error::io("finishing", path, &e))
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("parquet.partial")
}

fn refused(path: &Path, error: &ParquetError) -> Error {
    let _ = std::fs::remove_file(aside(path));
    match error {
        ParquetError::External(source) if source.is::<std::io::Error>() => {
            let other = std::io::Error::from(std::io::ErrorKind::Other);
            Error::io("writing knowledge", path, source.downcast_ref().unwrap_or(&other))
        }
        error => Error::data(format!("knowledge cannot be written: {error}")).at("file", path.display()),
    }
}

/// Integers, or texts if there is one: the type of the log's column.
fn keys<'a>(keys: impl Iterator<Item = &'a Value> + Clone) -> Result<ArrayRef> {
    let texts = keys.clone().filter(|key| matches!(key, Value::Text(_))).count();
    let number = |key: &Value| match key {
        Value::Int(number) => Some(*number),
        Value::Text(_) => None,
    };
    if texts == 0 {
        return Ok(Arc::new(keys.map(number).collect::<Int64Array>()));
    }
    if keys.clone().any(|key| matches!(key, Value::Int(_))) {
        return Err(Error::data("a column has integers in some files and texts in others")
            .fix("write the users' and scenarios' columns with one type"));
    }
    Ok(Arc::new(StringArray::from_iter_values(keys.map(Value::to_string))))
}

fn vectors<'a>(vectors: impl Iterator<Item = &'a [f32]> + Clone) -> ArrayRef {
    let offsets = OffsetBuffer::from_lengths(vectors.clone().map(<[f32]>::len));
    let values: Vec<f32> = vectors.flatten().copied().collect();
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    Arc::new(ListArray::new(item, offsets, Arc::new(Float32Array::from(values)), None))
}
