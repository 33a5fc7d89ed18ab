//! Predictions for every row, in the order of the input, on any number of ranks.
//!
//! The rows are cut into consecutive, equal shares, one per rank. A rank writes one file per input file it
//! reads from, named by where its rows begin (`part-<file>-<row group>-<row>.parquet`), so that the files in the
//! order of their names hold the rows in the order of the input. What the input's folders say (`dt=2024-01-01/…`)
//! becomes columns.

use super::dataset::{Dataset, check_predictions};
use super::trained::Trained;
use crate::comm::{Comm, collectives};
use crate::config::job::{Paths, TaskKind};
use crate::data::batch::Batch;
use crate::data::decode::empty_batch;
use crate::data::plan;
use crate::data::scan::{self, Scan, Scanned};
use crate::data::schema::Purpose;
use crate::data::store::Store;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Scores the rows of `patterns` and writes them with all their columns and `pred_<task>` into `out`. Binary
/// tasks give a probability, regressions the value, multiclass tasks a list of probabilities, `bpr` tasks the score of
/// the row's pair. Returns the number of rows over all ranks. Collective.
pub fn predict(
    comm: &Comm,
    trained: &mut Trained,
    store: Arc<dyn Store>,
    patterns: &[String],
    out: &Path,
    global_batch: usize,
) -> Result<u64> {
    let paths = Paths::Many(patterns.to_vec());
    let data = Dataset::open(comm, &store, &trained.job, Some(&paths), Purpose::Predict)?
        .ok_or_else(|| Error::internal("no data to predict"))?;
    let prepared = if comm.rank() == 0 { prepare(out) } else { Ok(()) };
    collectives::agree(comm.as_ref(), prepared)?;

    let pieces = scan::share(&data.plan, comm.rank(), comm.size());
    let batch_rows = global_batch.div_ceil(comm.size()).max(1);
    // Every batch asks other ranks for embedding rows, so all run as many as the one with the most.
    let mut rounds = [scan::steps(&pieces, batch_rows) as u64];
    collectives::all_reduce_max(comm.as_ref(), &mut rounds)?;
    let scan = Scan::new(data.source(&trained.statistics), pieces, batch_rows);
    let mut scan = collectives::agree(comm.as_ref(), scan)?;
    let mut output = Output { dir: out.to_path_buf(), writer: None };
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
    Ok(data.plan.rows)
}

/// A batch of one padding row.
fn padding(data: &Dataset) -> Batch {
    let mut batch = empty_batch(&data.schema);
    batch.append_padding(&data.schema, 0);
    batch
}

fn prepare(out: &Path) -> Result<()> {
    let refused = |e| Error::io("creating the output folder", out, &e).fix("choose a folder to write to with --out");
    std::fs::create_dir_all(out).map_err(refused)?;
    let mut entries = std::fs::read_dir(out).map_err(refused)?;
    match entries.next() {
        Some(_) => Err(Error::job("the folder for the predictions is not empty")
            .at("path", out.display())
            .fix("name another folder with --out, or empty this one: old and new parts would mix")),
        None => Ok(()),
    }
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

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn probabilities(logits: &[f32], classes: usize) -> Result<FixedSizeListArray> {
    let mut values = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(classes) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|&x| (x - max).exp()).sum();
        values.extend(row.iter().map(|&x| (x - max).exp() / sum));
    }
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let size = i32::try_from(classes).map_err(|_| Error::internal("too many classes for a list"))?;
    FixedSizeListArray::try_new(item, size, Arc::new(Float32Array::from(values)), None)
        .map_err(|e| Error::internal(format!("predictions: {e}")))
}

/// The file being written: aside until it is whole.
struct Part {
    file: u32,
    path: PathBuf,
    schema: Arc<ArrowSchema>,
    writer: ArrowWriter<File>,
}

struct Output {
    dir: PathBuf,
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
        let mut added = folder_columns(&data.plan.files[group.file as usize], &rows.input);
        added.extend(predictions);
        if self.writer.as_ref().is_none_or(|part| part.file != group.file) {
            self.finish()?;
            let name = format!("part-{:05}-{:05}-{:010}.parquet", group.file, group.index, rows.first_row);
            let written = scan.arrow_schema(rows.row_group)?;
            let schema = extended(&written, added.iter().map(|(field, _)| field), source)?;
            self.writer = Some(Part::create(self.dir.join(name), group.file, schema)?);
        }
        let Some(part) = &mut self.writer else { return Ok(()) };
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
    fn create(path: PathBuf, file: u32, schema: Arc<ArrowSchema>) -> Result<Self> {
        let target = File::create(aside(&path)).map_err(|e| Error::io("creating", &path, &e))?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
        let writer = ArrowWriter::try_new(target, schema.clone(), Some(properties)).map_err(|e| refused(&path, &e))?;
        Ok(Self { file, path, schema, writer })
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
                error.fix("free space or choose an --out on another disk, then predict again into an empty folder")
            }
            _ => error,
        };
    }
    Error::data(format!("predictions cannot be written: {error}")).at("file", path.display())
}

/// The columns that the folders of the input file's path give, where the file has none of that name.
fn folder_columns(file: &plan::File, input: &RecordBatch) -> Vec<(Field, ArrayRef)> {
    let given = file.partitions.iter().filter(|(name, _)| input.column_by_name(name).is_none());
    given
        .map(|(name, value)| {
            let array = value.repeated(input.num_rows());
            (Field::new(name, array.data_type().clone(), true), array)
        })
        .collect()
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
