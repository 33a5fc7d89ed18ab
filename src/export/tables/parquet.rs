//! Tables as Parquet: `id` uint64, `vector` list of numbers; with int8 also `scale` float32.

use super::quantized::{quantized, scale};
use super::{Shape, Sink};
use crate::error::{Error, Result};
use crate::export::schema::Dtype;
use crate::guard;
use arrow::array::{
    Array, ArrayRef, AsArray, Float16Array, Float32Array, Int8Array, ListArray, RecordBatch, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Float16Type, Float32Type, Int8Type, Schema, UInt64Type};
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that are kept in memory before they are written: at 64 floats a row 16 MiB.
const GROUP_ROWS: usize = 65_536;

/// Rows that are read at a time.
const READ_ROWS: usize = 8192;

pub struct Writer {
    out: Out,
    dtype: Dtype,
    dim: usize,
}

/// A Parquet file while it is written.
struct Out {
    path: PathBuf,
    schema: Arc<Schema>,
    writer: ArrowWriter<File>,
}

impl Writer {
    pub fn create(path: PathBuf, shape: &Shape) -> Result<Self> {
        let item = match shape.dtype {
            Dtype::F32 => DataType::Float32,
            Dtype::Fp16 => DataType::Float16,
            Dtype::Int8 => DataType::Int8,
        };
        let vector = Field::new("vector", DataType::List(Arc::new(Field::new("element", item, false))), false);
        let mut fields = vec![Field::new("id", DataType::UInt64, false)];
        if shape.dtype == Dtype::Int8 {
            fields.push(Field::new("scale", DataType::Float32, false));
        }
        fields.push(vector);
        Ok(Self { out: Out::create(path, fields)?, dtype: shape.dtype, dim: shape.dim })
    }

    fn columns(&self, ids: &[u64], vectors: &[f32]) -> Result<Vec<ArrayRef>> {
        let ids: ArrayRef = Arc::new(UInt64Array::from(ids.to_vec()));
        Ok(match self.dtype {
            Dtype::F32 => vec![ids, self.lists(Arc::new(Float32Array::from(vectors.to_vec())))?],
            Dtype::Fp16 => {
                let halves = vectors.iter().map(|&value| f16::from_f32(value));
                vec![ids, self.lists(Arc::new(Float16Array::from_iter_values(halves)))?]
            }
            Dtype::Int8 => {
                let scales: Vec<f32> = vectors.chunks_exact(self.dim).map(scale).collect();
                let rows = vectors.chunks_exact(self.dim).zip(&scales);
                let integers = rows.flat_map(|(row, &scale)| row.iter().map(move |&value| quantized(value, scale)));
                let integers = Arc::new(Int8Array::from_iter_values(integers));
                vec![ids, Arc::new(Float32Array::from(scales)), self.lists(integers)?]
            }
        })
    }

    fn lists(&self, values: ArrayRef) -> Result<ArrayRef> {
        let rows = values.len() / self.dim.max(1);
        let item = Arc::new(Field::new("element", values.data_type().clone(), false));
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(self.dim, rows));
        let lists = ListArray::try_new(item, offsets, values, None);
        Ok(Arc::new(lists.map_err(|e| Error::internal(format!("vectors do not fit a column: {e}")))?))
    }
}

impl Sink for Writer {
    fn push(&mut self, ids: &[u64], vectors: &[f32]) -> Result<()> {
        for (ids, vectors) in ids.chunks(READ_ROWS).zip(vectors.chunks(READ_ROWS * self.dim)) {
            let columns = self.columns(ids, vectors)?;
            self.out.write(columns)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.out.close()
    }
}

impl Out {
    fn create(path: PathBuf, fields: Vec<Field>) -> Result<Self> {
        let file = File::create(&path).map_err(|e| Error::io("creating", &path, &e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(Default::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let schema = Arc::new(Schema::new(fields));
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
        Ok(Self { writer: writer.map_err(|e| failed("writing", &path, &e))?, schema, path })
    }

    fn write(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::internal(format!("rows do not fit their file: {e}")))?;
        self.writer.write(&batch).map_err(|e| failed("writing", &self.path, &e))
    }

    fn close(self) -> Result<()> {
        self.writer.close().map_err(|e| failed("writing", &self.path, &e))?;
        Ok(())
    }
}

fn failed(doing: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::data(format!("{doing} failed: {error}")).at("file", path.display())
}

/// Hands the rows of a table's file to `take`, some thousand at a time: N ids and their N · dim numbers as float32.
pub fn read_rows(path: &Path, dim: usize, mut take: impl FnMut(&[u64], &[f32]) -> Result<()>) -> Result<()> {
    each_batch(path, |batch| {
        let damaged = |what: &str| Error::data(format!("{what} in a table's file")).at("file", path.display());
        let ids = batch.column_by_name("id").and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
        let ids = ids.ok_or_else(|| damaged("no uint64 `id`"))?;
        let vectors = batch.column_by_name("vector").and_then(|vectors| vectors.as_list_opt::<i32>());
        let vectors = vectors.ok_or_else(|| damaged("no list `vector`"))?;
        let numbers = numbers(vectors, batch.column_by_name("scale"), dim).ok_or_else(|| damaged("other numbers"))?;
        if numbers.len() != ids.len() * dim {
            return Err(damaged(&format!("vectors of other lengths than {dim}")));
        }
        take(ids.values(), &numbers)
    })
}

/// The numbers of all lists, one after another.
fn numbers(lists: &ListArray, scales: Option<&ArrayRef>, dim: usize) -> Option<Vec<f32>> {
    let (first, last) = (*lists.value_offsets().first()? as usize, *lists.value_offsets().last()? as usize);
    let values = lists.values().slice(first, last - first);
    Some(match values.data_type() {
        DataType::Float32 => values.as_primitive::<Float32Type>().values().to_vec(),
        DataType::Float16 => values.as_primitive::<Float16Type>().values().iter().map(|value| value.to_f32()).collect(),
        DataType::Int8 => {
            let scales = scales?.as_primitive_opt::<Float32Type>()?;
            let rows = values.as_primitive::<Int8Type>().values().chunks_exact(dim.max(1)).zip(scales.values());
            rows.flat_map(|(row, &scale)| row.iter().map(move |&value| f32::from(value) * scale)).collect()
        }
        _ => return None,
    })
}

/// Writes ids whose rows are gone.
pub fn write_tombstones(path: &Path, ids: &[u64]) -> Result<()> {
    let mut out = Out::create(path.to_path_buf(), vec![Field::new("id", DataType::UInt64, false)])?;
    out.write(vec![Arc::new(UInt64Array::from(ids.to_vec()))])?;
    out.close()
}

/// Reads them back.
pub fn read_tombstones(path: &Path) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    each_batch(path, |batch| {
        let ids = batch.column_by_name("id").and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
        all.extend_from_slice(ids.ok_or_else(|| failed("reading", path, &"no uint64 `id`"))?.values());
        Ok(())
    })?;
    Ok(all)
}

fn each_batch(path: &Path, mut take: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io("opening", path, &e))?;
    // A damaged file makes the decoder fail in some places and panic in others.
    let untrusted = |what: String| failed("reading", path, &what);
    let open = || ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(READ_ROWS).build();
    let mut reader = guard::run(open).and_then(|reader| reader.map_err(|e| e.to_string())).map_err(untrusted)?;
    loop {
        let batch = guard::run(|| reader.next().transpose()).and_then(|batch| batch.map_err(|e| e.to_string()));
        match batch.map_err(untrusted)? {
            Some(batch) => take(batch)?,
            None => return Ok(()),
        }
    }
}
