//! Predictions for every row, in the order of the input, on any number of ranks.
//!
//! The rows are cut into consecutive, equal shares, one per rank. A rank writes one file per input file it
//! reads from, named by where its rows begin (`part-<file>-<row group>-<row>.parquet`), so that the files in the
//! order of their names hold the rows in the order of the input. What the input's folders say (`dt=2024-01-01/…`)
//! becomes columns.
//!
//! A part is closed after about a million rows, and has its name only then: a run that was killed goes on behind the
//! parts that are there (`resume`).

mod resume;

use super::dataset::{Dataset, check_predictions};
use super::trained::Trained;
use crate::comm::{Comm, collectives};
use crate::config::job::{Paths, TaskKind};
use crate::data::batch::Batch;
use crate::data::decode::empty_batch;
use crate::data::plan;
use crate::data::scan::{self, Scan, Scanned};
use crate::data::schema::{Purpose, Schema};
use crate::data::store::Store;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use resume::Record;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows after which a part is closed, at the end of a row group.
const PART_ROWS: u64 = 1 << 20;

/// What is predicted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Globs, folders or files of the rows.
    pub data: Vec<String>,
    /// Folder of the parts.
    pub out: PathBuf,
    /// Rows of one batch over all ranks.
    pub global_batch: usize,
    /// Whether to go on with what a killed run left in `out`; else it must be empty.
    pub resume: bool,
    /// Whether a column that a file lacks is a column of nulls; else it is an error.
    pub nulls_for_missing: bool,
}

/// What was predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predicted {
    /// Rows over all ranks.
    pub rows: u64,
    /// Those of them that this run scored; the others were there.
    pub scored: u64,
}

/// Scores the rows of `options.data` and writes them with all their columns and `pred_<task>` into `options.out`. Binary
/// tasks give a probability, regressions the value, multiclass tasks a list of probabilities, `bpr` tasks the score of
/// the row's pair. Collective.
pub fn predict(comm: &Comm, trained: &mut Trained, store: Arc<dyn Store>, options: &Options) -> Result<Predicted> {
    let paths = Paths::Many(options.data.clone());
    let schema = Schema::new(&trained.job, Purpose::Predict);
    let schema = schema.map(|mut schema| {
        schema.nulls_for_missing = options.nulls_for_missing;
        schema
    });
    let schema = collectives::agree(comm.as_ref(), schema)?;
    let data = Dataset::open_as(comm, &store, &trained.job, &paths, schema)?;
    let record = collectives::agree(comm.as_ref(), Record::of(trained, &data))?;
    let done = resume::begin(comm.as_ref(), &record, &data.plan, options)?;

    let left = scan::remaining(&data.plan, &done);
    let scored = left.iter().map(|piece| u64::from(piece.rows)).sum();
    let pieces = scan::share_of(&left, comm.rank(), comm.size());
    let batch_rows = options.global_batch.div_ceil(comm.size()).max(1);
    // Every batch asks other ranks for embedding rows, so all run as many as the one with the most.
    let mut rounds = [scan::steps(&pieces, batch_rows) as u64];
    collectives::all_reduce_max(comm.as_ref(), &mut rounds)?;
    let scan = Scan::new(data.source(&trained.statistics), pieces, batch_rows);
    let mut scan = collectives::agree(comm.as_ref(), scan)?;
    let mut output = Output { dir: options.out.clone(), starts: starts(&data.plan), record, writer: None };
    let mut written = Ok(());
    for _ in 0..rounds[0] {
        // What fails on one rank ends all of them before the next exchange.
        let rows = collectives::agree(comm.as_ref(), written.and_then(|()| scan.next()))?;
        let padding = rows.is_none().then(|| padding(&data));
        let batch = rows.as_ref().map(|rows| &rows.batch).or(padding.as_ref());
        let logits = trained.trainable.infer(comm, batch.ok_or_else(|| Error::internal("no batch to score"))?)?;
        written = rows.map_or(Ok(()), |rows| {
            check_predictions(&data.schema, &data.plan, &rows.batch, &logits)?;
            output.write(&data, &scan, &rows, predictions(trained, &logits)?)
        });
    }
    collectives::agree(comm.as_ref(), written.and_then(|()| output.finish()))?;
    Ok(Predicted { rows: data.plan.rows, scored })
}

/// A batch of one padding row.
fn padding(data: &Dataset) -> Batch {
    let mut batch = empty_batch(&data.schema);
    batch.append_padding(&data.schema, 0);
    batch
}

/// One column of predictions per task.
fn predictions(trained: &Trained, logits: &[Vec<f32>]) -> Result<Vec<(Field, ArrayRef)>> {
    let column = |(task, logits): (&crate::config::job::Task, &Vec<f32>)| {
        let name = format!("pred_{}", task.name);
        let array: ArrayRef = match task.kind {
            TaskKind::Binary => Arc::new(Float32Array::from_iter_values(logits.iter().map(|&x| sigmoid(x)))),
            TaskKind::Regression | TaskKind::Bpr => Arc::new(Float32Array::from(logits.clone())),
            TaskKind::Multiclass => Arc::new(probabilities(logits, task.classes.unwrap_or(2))?),
        };
        Ok((Field::new(name, array.data_type().clone(), false), array))
    };
    trained.job.tasks.iter().zip(logits).map(column).collect()
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn probabilities(logits: &[f32], classes: usize) -> Result<FixedSizeListArray> {
    let values = softmax_rows(logits, classes);
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let size = i32::try_from(classes).map_err(|_| Error::internal("too many classes for a list"))?;
    FixedSizeListArray::try_new(item, size, Arc::new(Float32Array::from(values)), None)
        .map_err(|e| Error::internal(format!("predictions: {e}")))
}

/// Softmax of each row of `classes` logits.
pub(super) fn softmax_rows(logits: &[f32], classes: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|&x| (x - max).exp()).sum();
        values.extend(row.iter().map(|&x| (x - max).exp() / sum));
    }
    values
}

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
fn starts(plan: &plan::Plan) -> Vec<u64> {
    let mut next = 0;
    let start = |group: &plan::RowGroup| {
        let start = next;
        next += u64::from(group.rows);
        start
    };
    plan.row_groups.iter().map(start).collect()
}

struct Output {
    dir: PathBuf,
    starts: Vec<u64>,
    record: Record,
    writer: Option<Part>,
}

impl Output {
    fn write(
        &mut self,
        data: &Dataset,
        scan: &Scan,
        rows: &Scanned,
        predictions: Vec<(Field, ArrayRef)>,
    ) -> Result<()> {
        let group = data.plan.row_groups[rows.row_group as usize];
        let source = data.plan.path(rows.row_group);
        let mut added = data.plan.files[group.file as usize].folder_columns(&rows.input);
        added.extend(predictions);
        let position = self.starts[rows.row_group as usize] + u64::from(rows.first_row);
        let goes_on = |part: &Part| {
            let is_full = rows.first_row == 0 && part.end - part.start >= PART_ROWS;
            part.file == group.file && part.end == position && !is_full
        };
        if !self.writer.as_ref().is_some_and(goes_on) {
            self.finish()?;
            let name = format!("part-{:05}-{:05}-{:010}.parquet", group.file, group.index, rows.first_row);
            let written = scan.arrow_schema(rows.row_group)?;
            let schema = extended(&written, added.iter().map(|(field, _)| field), source)?;
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
    fn finish(&mut self) -> Result<()> {
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
