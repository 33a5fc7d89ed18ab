//! The golden rows of a bundle: some hundred rows of the log, and one of nulls.

use crate::comm::Comm;
use crate::config::job::{Job, Paths};
use crate::data::batch::Batch;
use crate::data::decode::Decoder;
use crate::data::lanes::Piece;
use crate::data::place::Place;
use crate::data::plan::Plan;
use crate::data::scan::Scan;
use crate::data::schema::{Purpose, Schema};
use crate::data::statistics::Statistics;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::export::describe::{DENSE, POOLED};
use crate::export::golden::Numbers;
use crate::export::onnx::SCENARIO;
use crate::export::schema::BundleSchema;
use crate::train::dataset::{Dataset, check_predictions};
use crate::train::predict::{sigmoid, softmax_rows};
use crate::train::step::Trainable;
use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema as ArrowSchema};
use std::sync::Arc;

/// Rows that are taken from the log.
const ROWS: usize = 256;

/// Row groups that they are taken from, at most.
const GROUPS: usize = 8;

/// See the module.
pub struct Rows {
    /// As they were read: the columns that the features need.
    pub rows: RecordBatch,
    /// Decoded.
    pub batch: Batch,
    plan: Arc<Plan>,
    schema: Arc<Schema>,
}

impl Rows {
    /// Reads rows of `patterns`; without any of the job's test, validation or training rows.
    pub fn read(
        comm: &Comm,
        store: &Arc<dyn Store>,
        job: &Job,
        schema: &Arc<Schema>,
        statistics: &Arc<Statistics>,
        patterns: &[String],
    ) -> Result<Self> {
        let mut job = job.clone();
        let paths = match patterns {
            [] => job.data.test.clone().or_else(|| job.data.valid.clone()).unwrap_or_else(|| job.data.train.clone()),
            _ => {
                job.data.root = None;
                Paths::Many(patterns.to_vec())
            }
        };
        const FIX: &str = "name rows for the golden batch with --data";
        let data = Dataset::open(comm, store, &job, Some(&paths), Purpose::Predict)
            .map_err(|error| if error.place("pattern").is_some() { error.fix(FIX) } else { error })?
            .ok_or_else(|| Error::internal("no golden rows"))?;
        let rows = raw_rows(&data, statistics)?;
        let place = Place { file: "the golden rows", row_group: 0, number: 0, first_row: 0 };
        let batch = Decoder::new(schema.clone(), statistics)?.record_batch(&rows, &place)?;
        Ok(Self { rows, batch, plan: data.plan, schema: schema.clone() })
    }

    /// What the model reads and gives for them.
    pub fn score(&self, comm: &Comm, trainable: &mut Trainable, schema: &BundleSchema) -> Result<Vec<Numbers>> {
        let (input, logits) = trainable.infer_from(comm, &self.batch)?;
        check_predictions(&self.schema, &self.plan, &self.batch, &logits)?;
        let numbers = |name: &str, tensor: &candle_core::Tensor| -> Result<Numbers> {
            Ok(Numbers { name: name.to_string(), values: tensor.flatten_all()?.to_vec1()? })
        };
        let mut all = vec![numbers(POOLED, &input.pooled)?, numbers(DENSE, &input.dense)?];
        for (spec, sequence) in trainable.spec.sequences.iter().zip(&input.sequences) {
            for described in schema.sequences.iter().filter(|s| s.values == format!("sequence.{}", spec.name)) {
                all.push(numbers(&described.values, &sequence.values)?);
                all.push(numbers(&described.mask, &sequence.mask)?);
            }
        }
        if !input.scenarios.is_empty() {
            let values = input.scenarios.iter().map(|&scenario| scenario as f32).collect();
            all.push(Numbers { name: SCENARIO.to_string(), values });
        }
        for (task, logits) in schema.tasks.iter().zip(logits) {
            let predictions = match task.activation.as_str() {
                "sigmoid" => logits.iter().map(|&x| sigmoid(x)).collect(),
                "softmax" => softmax_rows(&logits, task.width),
                _ => logits.clone(),
            };
            all.push(Numbers { name: task.prediction.clone(), values: predictions });
            all.push(Numbers { name: task.logits.clone(), values: logits });
        }
        Ok(all)
    }
}

/// Rows of some row groups, and a last one that knows nothing.
fn raw_rows(data: &Dataset, statistics: &Arc<Statistics>) -> Result<RecordBatch> {
    let groups = data.plan.row_groups.len();
    let taken = groups.min(GROUPS);
    let pieces = (0..taken).map(|i| {
        let row_group = (i * groups / taken) as u32;
        Piece { row_group, start: 0, rows: data.plan.row_groups[row_group as usize].rows.min((ROWS / taken) as u32) }
    });
    let mut scan = Scan::new(data.source(statistics), pieces.collect(), ROWS)?;
    let mut batches: Vec<RecordBatch> = Vec::new();
    while let Some(scanned) = scan.next()? {
        let batch = needed(data, scanned.row_group, &scanned.input)?;
        // Files may write a column with different types; one file of golden rows can not.
        if batches.first().is_none_or(|first| first.schema() == batch.schema()) {
            batches.push(batch);
        }
    }
    let Some(first) = batches.first() else { return Err(Error::data("there are no rows for the golden batch")) };
    let schema = first.schema();
    let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let unfit = |e: arrow::error::ArrowError| Error::internal(format!("golden rows do not fit together: {e}"));
    batches.push(RecordBatch::try_new(schema.clone(), nulls).map_err(unfit)?);
    concat_batches(&schema, &batches).map_err(unfit)
}

/// The columns that features read, also those that are given by the file's folders.
fn needed(data: &Dataset, row_group: u32, input: &RecordBatch) -> Result<RecordBatch> {
    let file = &data.plan.files[data.plan.row_groups[row_group as usize].file as usize];
    let column = |column: &crate::data::schema::Column| -> Result<(Field, ArrayRef)> {
        let given = || file.partitions.iter().find(|(name, _)| *name == column.name);
        let array = input.column_by_name(&column.name).cloned();
        let array = array.or_else(|| Some(given()?.1.repeated(input.num_rows())));
        let array = array.ok_or_else(|| Error::internal(format!("no column `{}`", column.name)))?;
        Ok((Field::new(&column.name, array.data_type().clone(), true), array))
    };
    let (fields, arrays): (Vec<_>, Vec<_>) =
        data.schema.columns.iter().map(column).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), arrays)
        .map_err(|e| Error::internal(format!("golden rows: {e}")).at("file", &file.path))
}
