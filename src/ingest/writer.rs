//! Parquet files that train well: large row groups, zstd, dictionaries. A file is there whole or not at all.

use super::Column;
use super::builder::data_type;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Makes the folder, which must be new or empty.
pub(super) fn claim(out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(|e| Error::io("creating", out, &e))?;
    let mut entries = fs::read_dir(out).map_err(|e| Error::io("listing the folder", out, &e))?;
    if entries.next().is_some() {
        return Err(Error::job("the folder for the Parquet files is not empty")
            .at("folder", out.display())
            .fix("choose a new one with --out"));
    }
    Ok(())
}

/// `part-0003-clicks.parquet`: sorted as the inputs were given.
pub(super) fn file_name(number: usize, inputs: usize, input: &Path) -> String {
    let name = input.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.split('.').find(|part| !part.is_empty()).unwrap_or("rows");
    if inputs == 1 { format!("{stem}.parquet") } else { format!("part-{number:04}-{stem}.parquet") }
}

/// The schema of every file.
pub(super) fn schema<'a>(columns: impl Iterator<Item = &'a Column>) -> Arc<Schema> {
    let field = |column: &Column| Field::new(&column.name, data_type(column.kind), true);
    Arc::new(Schema::new(columns.map(field).collect::<Vec<_>>()))
}

/// One file; made with its first rows.
pub(super) struct Writer {
    path: PathBuf,
    schema: Arc<Schema>,
    row_group_rows: usize,
    open: Option<ArrowWriter<File>>,
    rows: u64,
}

impl Writer {
    pub fn new(path: PathBuf, schema: Arc<Schema>, row_group_rows: usize) -> Self {
        Self { path, schema, row_group_rows, open: None, rows: 0 }
    }

    /// Appends rows.
    pub fn write(&mut self, arrays: Vec<ArrayRef>) -> Result<()> {
        let rows = RecordBatch::try_new(self.schema.clone(), arrays);
        let rows = rows.map_err(|e| Error::internal(format!("columns do not fit their schema: {e}")))?;
        self.rows += rows.num_rows() as u64;
        let aside = self.aside();
        let writer = match &mut self.open {
            Some(writer) => writer,
            None => self.open.insert(open(&aside, &self.schema, self.row_group_rows)?),
        };
        writer.write(&rows).map_err(|e| refused(&aside, &e))
    }

    /// Writes the footer and gives the file its name; returns its rows and bytes, none without a row.
    pub fn finish(mut self) -> Result<(u64, u64)> {
        let aside = self.aside();
        let Some(writer) = self.open.take() else { return Ok((0, 0)) };
        let file = writer.into_inner().map_err(|e| refused(&aside, &e))?;
        file.sync_all().map_err(|e| Error::io("writing", &aside, &e))?;
        fs::rename(&aside, &self.path).map_err(|e| Error::io("renaming", &aside, &e))?;
        let bytes = file.metadata().map_err(|e| Error::io("reading the size", &self.path, &e))?.len();
        Ok((self.rows, bytes))
    }

    fn aside(&self) -> PathBuf {
        self.path.with_extension("parquet.partial")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.open.take().is_some() {
            let _ = fs::remove_file(self.aside());
        }
    }
}

fn open(aside: &Path, schema: &Arc<Schema>, row_group_rows: usize) -> Result<ArrowWriter<File>> {
    let folder = aside.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io("creating", folder, &e))?;
    let file = File::create(aside).map_err(|e| Error::io("creating", aside, &e))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(row_group_rows))
        .build();
    ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(|e| refused(aside, &e))
}

fn refused(path: &Path, error: &ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast_ref::<std::io::Error>() {
            Some(e) => Error::io("writing", path, e),
            None => Error::data(format!("writing failed: {error}")).at("file", path.display()),
        },
        _ => Error::data(format!("writing failed: {error}")).at("file", path.display()),
    }
}
