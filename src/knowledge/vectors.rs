//! Reads vectors by key from a Parquet file, a few thousand at a time.

use super::value::{Value, values};
use crate::data::lists;
use crate::data::store::refuse_far;
use crate::error::{Error, Result};
use crate::guard;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Rows read at a time.
const BATCH_ROWS: usize = 4096;

/// A file with a vector for each key.
#[derive(Debug, Clone)]
pub struct VectorFile {
    path: PathBuf,
    key: String,
    vector: String,
    groups: usize,
    /// Numbers of a vector.
    pub dim: usize,
}

/// Some rows of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vectors {
    /// Keys.
    pub keys: Vec<Value>,
    /// A vector for each, one after another.
    pub values: Vec<f32>,
}

/// Reads some row groups of it.
pub struct Reader<'a> {
    file: &'a VectorFile,
    batches: ParquetRecordBatchReader,
}

impl VectorFile {
    /// Finds the columns `key` and `vector`; the first row says how long a vector is.
    ///
    /// # Errors
    /// No such file or columns, columns of other types, or no row.
    pub fn open(path: &Path, key: &str, vector: &str) -> Result<Self> {
        refuse_far(path, "a file of vectors")?;
        let mut file =
            Self { path: path.to_path_buf(), key: key.to_string(), vector: vector.to_string(), groups: 0, dim: 0 };
        let builder = file.builder()?;
        file.groups = builder.metadata().num_row_groups();
        for name in [key, vector] {
            if builder.schema().field_with_name(name).is_err() {
                let names: Vec<&str> = builder.schema().fields().iter().map(|field| field.name().as_str()).collect();
                return Err(file.wrong(format!("no column `{name}`; the columns are: {}", names.join(", "))));
            }
        }
        let first = file.reader(0..file.groups)?.next()?;
        let first = first.ok_or_else(|| file.wrong("the file has no row".to_string()))?;
        file.dim = first.values.len() / first.keys.len().max(1);
        if file.dim == 0 {
            return Err(file.wrong(format!("the vectors of `{vector}` have no numbers")));
        }
        Ok(file)
    }

    /// Number of row groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Reads the row groups `groups` in order.
    pub fn reader(&self, groups: impl Iterator<Item = usize>) -> Result<Reader<'_>> {
        let builder = self.builder()?;
        let roots = builder.parquet_schema().root_schema().get_fields().iter().enumerate();
        let roots = roots.filter(|(_, root)| [self.key.as_str(), self.vector.as_str()].contains(&root.name()));
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots.map(|(index, _)| index).collect::<Vec<_>>());
        let builder = builder.with_projection(mask).with_row_groups(groups.collect()).with_batch_size(BATCH_ROWS);
        let batches = guard::run(|| builder.build()).map_err(|what| self.damaged(&what))?;
        Ok(Reader { file: self, batches: batches.map_err(|e| self.damaged(&e.to_string()))? })
    }

    fn builder(&self) -> Result<ParquetRecordBatchReaderBuilder<File>> {
        let file = File::open(&self.path).map_err(|e| {
            Error::io("opening the vectors", &self.path, &e)
                .fix("write them with `tandem knowledge`, or correct the path")
        })?;
        let builder =
            guard::run(|| ParquetRecordBatchReaderBuilder::try_new(file)).map_err(|what| self.damaged(&what))?;
        builder.map_err(|e| self.damaged(&e.to_string()))
    }

    fn damaged(&self, what: &str) -> Error {
        self.wrong(format!("the file cannot be read: {what}"))
    }

    /// An error about this file.
    pub fn wrong(&self, what: String) -> Error {
        Error::data(what)
            .at("file", self.path.display())
            .fix("write the file again: a column of integers or texts, and one of lists of as many floats each")
    }
}

impl Reader<'_> {
    /// The next rows; `None` at the end.
    #[allow(clippy::should_implement_trait)] // an iterator of results would let a caller skip an error
    pub fn next(&mut self) -> Result<Option<Vectors>> {
        let Self { file, batches } = self;
        let batch = guard::run(|| batches.next().transpose()).map_err(|what| file.damaged(&what))?;
        let batch = batch.map_err(|e| file.damaged(&e.to_string()))?;
        batch.map(|batch| file.decode(&batch)).transpose()
    }
}

impl VectorFile {
    fn decode(&self, batch: &RecordBatch) -> Result<Vectors> {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| self.wrong(format!("no column `{name}`")));
        let keys = values(column(&self.key)?).map_err(|e| self.wrong(format!("column `{}`: {e}", self.key)))?;
        let keys: Option<Vec<Value>> = keys.into_iter().collect();
        let keys = keys.ok_or_else(|| self.wrong(format!("a null in the column `{}`", self.key)))?;
        let array = column(&self.vector)?;
        let lists = lists(array).ok_or_else(|| self.wrong(format!("column `{}` holds no lists", self.vector)))?;
        let numbers = cast(&lists.values, &DataType::Float32)
            .map_err(|e| self.wrong(format!("column `{}`: {e}", self.vector)))?;
        let dim = if self.dim > 0 { self.dim } else { numbers.len() / keys.len().max(1) };
        let uneven = lists.offsets.windows(2).any(|ends| ends[1] - ends[0] != dim) || array.null_count() > 0;
        let values = numbers.as_primitive::<Float32Type>();
        if uneven || values.null_count() > 0 || values.values().iter().any(|x| !x.is_finite()) {
            return Err(self.wrong(format!("the vectors of `{}` are not all {dim} finite numbers", self.vector)));
        }
        Ok(Vectors { keys, values: values.values().to_vec() })
    }
}

impl Vectors {
    /// A hash of keys and vectors that does not depend on the order of rows: those of parts are added up.
    pub fn hash(&self) -> u64 {
        let dim = self.values.len() / self.keys.len().max(1);
        let rows = self.keys.iter().zip(self.values.chunks_exact(dim.max(1)));
        rows.fold(0, |sum: u64, (key, vector)| {
            sum.wrapping_add(crate::random::bytes(key.id(), bytemuck::cast_slice(vector)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, FixedSizeListArray, Int64Array, ListArray, StringArray};
    use parquet::arrow::ArrowWriter;
    use std::sync::Arc;

    fn write(path: &Path, key: ArrayRef, vector: ArrayRef) {
        let batch = RecordBatch::try_from_iter([("key", key), ("vector", vector)]).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn ints(keys: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(keys.to_vec()))
    }

    fn lists(rows: &[&[f32]]) -> ArrayRef {
        let rows = rows.iter().map(|row| Some(row.iter().map(|&x| Some(x)).collect::<Vec<_>>()));
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
    }

    #[test]
    fn lists_of_either_kind_and_keys_of_either_type_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.parquet");
        write(&path, ints(&[7, -2]), lists(&[&[1.0, 2.0], &[3.0, 4.0]]));
        let file = VectorFile::open(&path, "key", "vector").unwrap();
        let read = file.reader(0..file.groups()).unwrap().next().unwrap().unwrap();
        assert_eq!((file.dim, &read.keys[..]), (2, &[Value::Int(7), Value::Int(-2)][..]));
        assert_eq!(read.values, [1.0, 2.0, 3.0, 4.0]);

        let rows = [[5.0, 6.0]].map(|row| Some(row.map(Some)));
        let fixed = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(rows, 2);
        write(&path, Arc::new(StringArray::from(vec!["x"])), Arc::new(fixed));
        let file = VectorFile::open(&path, "key", "vector").unwrap();
        let read = file.reader(0..1).unwrap().next().unwrap().unwrap();
        assert_eq!((read.keys, read.values), (vec![Value::Text("x".to_string())], vec![5.0, 6.0]));
    }

    #[test]
    fn the_hash_knows_keys_and_numbers_and_no_order() {
        let of = |keys: &[i64], values: &[f32]| {
            Vectors { keys: keys.iter().map(|&key| Value::Int(key)).collect(), values: values.to_vec() }.hash()
        };
        let whole = of(&[1, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(whole, of(&[2, 1], &[3.0, 4.0, 1.0, 2.0]));
        assert_eq!(whole, of(&[1], &[1.0, 2.0]).wrapping_add(of(&[2], &[3.0, 4.0])));
        assert_ne!(whole, of(&[1, 3], &[1.0, 2.0, 3.0, 4.0]));
        assert_ne!(whole, of(&[1, 2], &[1.0, 2.0, 3.0, 5.0]));
    }

    #[test]
    fn mistakes_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.parquet");
        let error = |key: &str| VectorFile::open(&path, key, "vector").unwrap_err().to_string();
        assert!(error("key").contains("v.parquet"));
        write(&path, ints(&[1, 2]), lists(&[&[1.0, 2.0], &[3.0]]));
        assert!(error("key").contains("not all"));
        assert!(error("user").contains("no column `user`") && error("user").contains("vector"));
        write(&path, ints(&[1, 2]), ints(&[1, 2]));
        assert!(error("key").contains("no lists"));
        std::fs::write(&path, "no parquet").unwrap();
        assert!(error("key").contains("cannot be read"));
    }
}
