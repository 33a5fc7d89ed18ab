//! Predictions for every row, in the order of the input, on any number of ranks.
//!
//! The rows are cut into consecutive, equal shares, one per rank. A rank writes one file per input file it
//! reads from, named by where its rows begin (`part-<file>-<row group>-<row>.parquet`), so that the files in the
//! order of their names hold the rows in the order of the input. What the input's folders say (`dt=2024-01-01/…`)
//! becomes columns.
//!
//! A part is closed after about a million rows, and has its name only then: a run that was killed goes on behind the
//! parts that are there (`resume`).

mod output;
mod resume;

use super::dataset::{Dataset, check_predictions};
use super::trained::Trained;
use crate::comm::{Comm, collectives};
use crate::config::job::{Paths, TaskKind};
use crate::data::batch::Batch;
use crate::data::decode::empty_batch;
use crate::data::scan::{self, Scan, Scanned};
use crate::data::schema::{Purpose, Schema};
use crate::data::store::Store;
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array};
use arrow::datatypes::{DataType, Field};
use output::Output;
use resume::Record;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::ScopedJoinHandle;

/// Batches that are read ahead, and that wait to be written.
const AHEAD: usize = 2;

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
    let scan = collectives::agree(comm.as_ref(), scan)?;
    let output = Output::new(&options.out, &data.plan, record);
    score(comm, trained, &data, rounds[0], scan, output)?;
    Ok(Predicted { rows: data.plan.rows, scored })
}

/// Scores `rounds` batches, while one thread reads those that come next and another writes those that are scored.
fn score(
    comm: &Comm,
    trained: &mut Trained,
    data: &Dataset,
    rounds: u64,
    mut scan: Scan,
    mut output: Output,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (read, batches) = mpsc::sync_channel(AHEAD);
        // Nobody receives any more once the prediction has failed.
        scope.spawn(move || while read.send(scan.next()).is_ok() {});
        let (scored, to_write) = mpsc::sync_channel(AHEAD);
        let plan = data.plan.clone();
        let mut writer = Writer {
            thread: Some(scope.spawn(move || {
                for scored in to_write {
                    match scored {
                        Some((rows, predictions)) => output.write(&plan, &rows, predictions)?,
                        None => return output.finish(),
                    }
                }
                Ok(())
            })),
            scored,
        };
        let mut written = Ok(());
        for _ in 0..rounds {
            // What fails on one rank ends all of them before the next exchange.
            let next = || batches.recv().unwrap_or_else(|_| Err(Error::internal("the thread that reads rows is gone")));
            let rows: Option<Scanned> = collectives::agree(comm.as_ref(), written.and_then(|()| next()))?;
            let padding = rows.is_none().then(|| padding(data));
            let batch = rows.as_ref().map(|rows| &rows.batch).or(padding.as_ref());
            let logits = trained.trainable.infer(comm, batch.ok_or_else(|| Error::internal("no batch to score"))?)?;
            written = rows.map_or(Ok(()), |rows| {
                check_predictions(&data.schema, &data.plan, &rows.batch, &logits)?;
                let predictions = predictions(trained, &logits)?;
                writer.take(Some((rows, predictions)))
            });
        }
        let ended = written.and_then(|()| writer.take(None)).and_then(|()| writer.join());
        collectives::agree(comm.as_ref(), ended)
    })
}

/// Rows and what the tasks predict for them; nothing: these were all.
type Scored = Option<(Scanned, Vec<(Field, ArrayRef)>)>;

/// The thread that writes what is scored.
struct Writer<'scope> {
    scored: mpsc::SyncSender<Scored>,
    thread: Option<ScopedJoinHandle<'scope, Result<()>>>,
}

impl Writer<'_> {
    /// Hands it rows; its error, if it has failed.
    fn take(&mut self, scored: Scored) -> Result<()> {
        if self.scored.send(scored).is_ok() { Ok(()) } else { self.join() }
    }

    /// Waits for its end, which it must know of.
    fn join(&mut self) -> Result<()> {
        let gone = || Error::internal("the thread that writes predictions is gone");
        let thread = self.thread.take().ok_or_else(gone)?;
        thread.join().unwrap_or_else(|_| Err(gone()))
    }
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
