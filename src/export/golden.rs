//! `golden.parquet`: some rows, the inputs that the model gets for them, and what it gives.
//!
//! | columns | what |
//! |---|---|
//! | the log's own | the rows as they were read |
//! | `tandem.<input>` | list of float32: that input of the model, row-major (`tandem.pooled`, `tandem.dense`, …) |
//! | `tandem.logits_<task>`, `tandem.pred_<task>` | list of float32: what the trained model gives |

use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, Float32Array, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Name of the file in a bundle.
pub const FILE: &str = "golden.parquet";

/// Rows read at a time.
const READ_ROWS: usize = 64;

/// A few bytes of a file can stand for any number of rows: so much of them is read.
const READ_BYTES_LIMIT: usize = 1 << 30;

/// What stands before the names of columns that are not the log's.
const PREFIX: &str = "tandem.";

/// So many numbers for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Name of the input or output.
    pub name: String,
    /// Rows · width, row-major.
    pub values: Vec<f32>,
}

/// Writes the rows and their numbers.
pub fn write(path: &Path, rows: &RecordBatch, numbers: &[Numbers]) -> Result<()> {
    let mut fields: Vec<Field> = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column.clone());
    }
    for Numbers { name, values } in numbers {
        let width = values.len() / rows.num_rows().max(1);
        let item = Arc::new(Field::new("element", DataType::Float32, false));
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(width, rows.num_rows()));
        let lists = ListArray::try_new(item, offsets, Arc::new(Float32Array::from(values.clone())), None);
        let lists = lists.map_err(|e| Error::internal(format!("`{name}` does not fit the golden rows: {e}")))?;
        fields.push(Field::new(format!("{PREFIX}{name}"), lists.data_type().clone(), false));
        columns.push(Arc::new(lists));
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns)
        .map_err(|e| Error::internal(format!("golden rows do not fit their file: {e}")))?;
    let failed = |e: parquet::errors::ParquetError| {
        Error::data(format!("golden rows cannot be written: {e}")).at("file", path.display())
    };
    let file = File::create(path).map_err(|e| Error::io("creating", path, &e))?;
    let mut writer = ArrowWriter::try_new(file, schema, None).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.close().map_err(failed)?;
    Ok(())
}

/// Reads all of it.
pub fn read(path: &Path) -> Result<RecordBatch> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::data(format!("the golden rows cannot be read: {e}")).at("file", path.display())
    };
    let file = File::open(path).map_err(|e| failed(&e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| failed(&e))?.with_batch_size(READ_ROWS);
    let schema = reader.schema().clone();
    let (mut batches, mut bytes) = (Vec::new(), 0usize);
    for batch in reader.build().map_err(|e| failed(&e))? {
        let batch = batch.map_err(|e| failed(&e))?;
        bytes = bytes.saturating_add(batch.get_array_memory_size());
        if bytes > READ_BYTES_LIMIT {
            return Err(failed(&format!("they take more than {READ_BYTES_LIMIT} bytes")));
        }
        batches.push(batch);
    }
    concat_batches(&schema, &batches).map_err(|e| failed(&e))
}

/// The numbers of an input or output; `None` where the file has none.
pub fn numbers(golden: &RecordBatch, name: &str) -> Option<Vec<f32>> {
    let lists = golden.column_by_name(&format!("{PREFIX}{name}"))?.as_list_opt::<i32>()?;
    let values = lists.values().as_primitive_opt::<Float32Type>()?;
    let (first, last) = (*lists.value_offsets().first()? as usize, *lists.value_offsets().last()? as usize);
    Some(values.values()[first..last].to_vec())
}
