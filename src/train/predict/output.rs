//! The files of a prediction: named by where their rows begin, and aside until they are whole.

use super::resume::Record;
use crate::data::plan::{Plan, RowGroup};
use crate::data::scan::Scanned;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema as ArrowSchema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows after which a part is closed, at the end of a row group.
const PART_ROWS: u64 = 1 << 20;

/// The file being written: aside until it is whole.
struct Part {
    file: u32,
    path: PathBuf,
    schema: Arc<ArrowSchema>,
    writer: ArrowWriter<File>,
    /// Position in the input of its first row, and of the row behind its last.
    start: u64,
    end: u64,
}

/// Position in the input of the first row of each row group.
fn starts(plan: &Plan) -> Vec<u64> {
    let mut next = 0;
    let start = |group: &RowGroup| {
        let start = next;
        next += u64::from(group.rows);
        start
    };
    plan.row_groups.iter().map(start).collect()
}

/// What a rank writes.
pub struct Output {
    dir: PathBuf,
    starts: Vec<u64>,
    record: Record,
    writer: Option<Part>,
}

impl Output {
    /// Nothing yet, in the folder `dir`.
    pub fn new(dir: &Path, plan: &Plan, record: Record) -> Self {
        Self { dir: dir.to_path_buf(), starts: starts(plan), record, writer: None }
    }

    /// Adds rows with what is predicted for them.
    pub fn write(&mut self, plan: &Plan, rows: &Scanned, predictions: Vec<(Field, ArrayRef)>) -> Result<()> {
        let group = plan.row_groups[rows.row_group as usize];
        let source = plan.path(rows.row_group);
        let mut added = plan.files[group.file as usize].folder_columns(&rows.input);
        added.extend(predictions);
        let position = self.starts[rows.row_group as usize] + u64::from(rows.first_row);
        let goes_on = |part: &Part| {
            let is_full = rows.first_row == 0 && part.end - part.start >= PART_ROWS;
            part.file == group.file && part.end == position && !is_full
        };
        if !self.writer.as_ref().is_some_and(goes_on) {
            self.finish()?;
            let name = format!("part-{:05}-{:05}-{:010}.parquet", group.file, group.index, rows.first_row);
            let schema = extended(&rows.input.schema(), added.iter().map(|(field, _)| field), source)?;
            self.writer = Some(Part::create(self.dir.join(name), group.file, position, schema, &self.record)?);
        }
        let Some(part) = &mut self.writer else { return Ok(()) };
        part.end += rows.input.num_rows() as u64;
        let mut columns = rows.input.columns().to_vec();
        columns.extend(added.into_iter().map(|(_, array)| array));
        let batch = RecordBatch::try_new(part.schema.clone(), columns)
            .map_err(|e| Error::internal(format!("predictions do not fit their file: {e}")).at("file", source))?;
        part.writer.write(&batch).map_err(|e| refused(&part.path, &e))
    }

    /// Closes the file and gives it its name.
    pub fn finish(&mut self) -> Result<()> {
        let Some(part) = self.writer.take() else { return Ok(()) };
        part.writer.close().map_err(|e| refused(&part.path, &e))?;
        std::fs::rename(aside(&part.path), &part.path).map_err(|e| Error::io("finishing", &part.path, &e))
    }
}

impl Part {
    fn create(path: PathBuf, file: u32, start: u64, schema: Arc<ArrowSchema>, record: &Record) -> Result<Self> {
        let target = File::create(aside(&path)).map_err(|e| Error::io("creating", &path, &e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(Default::default()))
            .set_key_value_metadata(Some(record.metadata()))
            .build();
        let writer = ArrowWriter::try_new(target, schema.clone(), Some(properties)).map_err(|e| refused(&path, &e))?;
        Ok(Self { file, path, schema, writer, start, end: start })
    }
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("parquet.partial")
}

fn refused(path: &Path, error: &parquet::errors::ParquetError) -> Error {
    // The rows before are written anyway, and their space is needed.
    let _ = std::fs::remove_file(aside(path));
    if let parquet::errors::ParquetError::External(source) = error
        && let Some(io) = source.downcast_ref::<std::io::Error>()
    {
        let error = Error::io("writing predictions", path, io);
        return match io.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                error.fix("free space or choose an --out on another disk, then go on with --resume, or predict again into an empty folder")
            }
            _ => error,
        };
    }
    Error::data(format!("predictions cannot be written: {error}")).at("file", path.display())
}

/// The columns of a part: the input's, and those `added`.
fn extended<'a>(input: &ArrowSchema, added: impl Iterator<Item = &'a Field>, source: &str) -> Result<Arc<ArrowSchema>> {
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    for field in added {
        if input.field_with_name(field.name()).is_ok() {
            return Err(Error::data(format!("the input already has a column `{}`", field.name()))
                .at("file", source)
                .at("column", field.name())
                .fix("drop or rename this column, or predict from the original rows"));
        }
        fields.push(Arc::new(field.clone()));
    }
    Ok(Arc::new(ArrowSchema::new(fields)))
}
