//! What the columns of a Parquet file look like in its first rows: for those who have not written a job yet, or want to
//! see what a log holds.

use super::accepts::{Accepts, list_item};
use super::columns::{DictionaryHashes, ids, lists, nulls, numbers, read_type};
use super::store::{BlobReader, Store};
use crate::error::{Error, Result};
use crate::guard;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Distinct ids that are counted; a column with more has "many".
pub const MOST_DISTINCT: usize = 100_000;

/// What a file holds.
#[derive(Debug, Clone)]
pub struct FileProfile {
    /// Rows of the file.
    pub rows: u64,
    /// Row groups of the file.
    pub row_groups: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Rows that were looked at.
    pub sampled: usize,
    /// In the order of the file.
    pub columns: Vec<Profile>,
}

/// One column, over the rows that were looked at.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: DataType,
    /// Rows without a value.
    pub nulls: usize,
    /// Ids and how many elements they are, of columns that can be read as ids; at most [`MOST_DISTINCT`] of them.
    pub ids: HashMap<u64, u64>,
    /// Of columns of numbers.
    pub numbers: Option<Numbers>,
    /// Shortest and longest list, of columns of lists.
    pub lengths: Option<(usize, usize)>,
    /// Sum of the lists' lengths; else the rows with a value.
    pub elements: usize,
}

/// The numbers of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// Whether all are 0 or 1, and both occur.
    pub binary: bool,
}

impl Numbers {
    /// `0.35 … 3.99, mean 2.3`, to four decimals.
    pub fn describe(&self) -> String {
        let short = |x: f64| (x * 1e4).round() / 1e4;
        format!("{} … {}, mean {}", short(self.min), short(self.max), short(self.mean))
    }
}

impl FileProfile {
    /// Looks at the first `rows` rows of a file.
    ///
    /// # Errors
    /// A file that is not there, or is no Parquet.
    pub fn read(store: &dyn Store, path: &str, rows: usize) -> Result<Self> {
        let blob = store.open(path)?;
        let bytes = blob.size();
        let file = BlobReader::new(blob, Arc::default());
        let broken = |what: String| Error::data(format!("the file cannot be read as Parquet: {what}")).at("file", path);
        let read = || -> std::result::Result<Self, ArrowError> {
            let plain = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
            let fields =
                plain.schema().fields().iter().map(|f| f.as_ref().clone().with_data_type(read_type(f.data_type())));
            let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(fields.collect::<Vec<Field>>())));
            let metadata = ArrowReaderMetadata::load(&file, options)?;
            let file = file.with_windows(|| first_chunks(metadata.metadata(), rows))?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
            let footer = builder.metadata().clone();
            let mut columns: Vec<Column> = plain.schema().fields().iter().map(|field| Column::new(field)).collect();
            let mut sampled = 0;
            for batch in builder.with_limit(rows).build()? {
                let batch = batch?;
                sampled += batch.num_rows();
                for (column, array) in columns.iter_mut().zip(batch.columns()) {
                    column.add(array)?;
                }
            }
            Ok(Self {
                rows: footer.file_metadata().num_rows() as u64,
                row_groups: footer.num_row_groups(),
                bytes,
                sampled,
                columns: columns.into_iter().map(Column::finish).collect(),
            })
        };
        guard::run(read).map_err(broken)?.map_err(|e| broken(e.to_string()))
    }
}

/// Where the columns of those row groups lie that hold the first `rows` rows.
fn first_chunks(footer: &ParquetMetaData, rows: usize) -> Vec<Range<u64>> {
    let begins = footer.row_groups().iter().scan(0i64, |before, group| {
        let begin = *before;
        *before = before.saturating_add(group.num_rows());
        Some((begin, group))
    });
    let read = begins.take_while(|(begin, _)| usize::try_from(*begin).is_ok_and(|begin| begin < rows));
    let ranges = read.flat_map(|(_, group)| group.columns().iter().map(|column| column.byte_range()));
    ranges.map(|(start, length)| start..start.saturating_add(length)).collect()
}

/// A column that is being looked at.
struct Column {
    profile: Profile,
    hashes: DictionaryHashes,
    min: f64,
    max: f64,
    sum: f64,
    numbers: usize,
    seen: [bool; 3],
}

impl Column {
    fn new(field: &Field) -> Self {
        let profile = Profile {
            name: field.name().clone(),
            kind: field.data_type().clone(),
            nulls: 0,
            ids: HashMap::new(),
            numbers: None,
            lengths: None,
            elements: 0,
        };
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { profile, hashes: DictionaryHashes::default(), min, max, sum: 0.0, numbers: 0, seen: [false; 3] }
    }

    fn add(&mut self, array: &ArrayRef) -> std::result::Result<(), ArrowError> {
        let missing = nulls(array);
        self.profile.nulls += missing.as_ref().map_or(0, |nulls| nulls.null_count());
        let Some(lists) = lists(array) else { return self.add_values(array) };
        let present = |row: usize| missing.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let rows = lists.offsets.windows(2).enumerate().filter(|(row, _)| present(*row));
        for ends in rows.map(|(_, ends)| ends) {
            let (length, known) = (ends[1] - ends[0], self.profile.lengths);
            let (shortest, longest) = known.unwrap_or((length, length));
            self.profile.lengths = Some((shortest.min(length), longest.max(length)));
        }
        self.add_values(&lists.values)
    }

    fn add_values(&mut self, array: &ArrayRef) -> std::result::Result<(), ArrowError> {
        let missing = nulls(array);
        let present = |row: usize| missing.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        self.profile.elements += array.len() - missing.as_ref().map_or(0, |nulls| nulls.null_count());
        if Accepts::Id.accepts(array.data_type()) {
            let mut found = Vec::new();
            ids(array, &mut self.hashes, &mut found)?;
            let present = found.into_iter().enumerate().filter(|(row, _)| present(*row));
            for id in present.map(|(_, id)| id) {
                let room = self.profile.ids.len() < MOST_DISTINCT;
                match self.profile.ids.get_mut(&id) {
                    Some(count) => *count += 1,
                    None if room => drop(self.profile.ids.insert(id, 1)),
                    None => {}
                }
            }
        }
        if Accepts::Number.accepts(array.data_type()) {
            let mut found = Vec::new();
            numbers(array, &mut found)?;
            found
                .into_iter()
                .enumerate()
                .filter(|(row, x)| present(*row) && x.is_finite())
                .for_each(|(_, x)| self.take(x));
        }
        Ok(())
    }

    fn take(&mut self, x: f64) {
        (self.min, self.max, self.sum) = (self.min.min(x), self.max.max(x), self.sum + x);
        self.numbers += 1;
        let place = if x == 0.0 {
            0
        } else if x == 1.0 {
            1
        } else {
            2
        };
        self.seen[place] = true;
    }

    fn finish(mut self) -> Profile {
        if self.numbers > 0 {
            let (binary, mean) = (self.seen == [true, true, false], self.sum / self.numbers as f64);
            self.profile.numbers = Some(Numbers { min: self.min, max: self.max, mean, binary });
        }
        self.profile
    }
}

impl Profile {
    /// Whether a row holds a list.
    pub fn is_list(&self) -> bool {
        list_item(&self.kind).is_some()
    }

    /// The ids with the most elements, the most first, then by id.
    pub fn hottest(&self, count: usize) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = self.ids.iter().map(|(id, rows)| (*id, *rows)).collect();
        all.sort_unstable_by_key(|&(id, rows)| (std::cmp::Reverse(rows), id));
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Local;
    use super::*;
    use crate::data::testing::{TestFile, floats, ints};
    use arrow::array::{Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int64Type;

    #[test]
    fn columns_are_counted_over_the_first_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.parquet");
        let lists = [Some(vec![Some(1), Some(2), Some(2)]), None, Some(vec![]), Some(vec![Some(9)])];
        let columns: [(&str, ArrayRef); 5] = [
            ("click", ints([0, 1, 1, 7])),
            ("price", floats([0.5, 2.5, f64::NAN, 9.0])),
            ("city", Arc::new(StringArray::from(vec![Some("Rome"), None, Some("Rome"), Some("Oslo")]))),
            ("seen", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
            ("gone", Arc::new(Int64Array::from(vec![None::<i64>; 4]))),
        ];
        TestFile::new(&columns).row_group_rows(2).write(&path);
        let profile = FileProfile::read(&Local, &path.display().to_string(), 3).unwrap();
        assert_eq!((profile.rows, profile.row_groups, profile.sampled), (4, 2, 3));
        let [click, price, city, seen, gone] = &profile.columns[..] else { panic!("{profile:?}") };
        assert_eq!(click.numbers, Some(Numbers { min: 0.0, max: 1.0, mean: 2.0 / 3.0, binary: true }));
        assert_eq!(click.hottest(9), [(1, 2), (0, 1)]);
        assert_eq!(price.numbers.map(|n| (n.min, n.max, n.mean, n.binary)), Some((0.5, 2.5, 1.5, false)));
        assert!(price.ids.is_empty() && gone.numbers.is_none() && gone.ids.is_empty());
        assert_eq!((city.nulls, city.elements, city.ids.len()), (1, 2, 1));
        assert_eq!((seen.lengths, seen.elements, seen.ids.len(), seen.is_list()), (Some((0, 3)), 3, 2, true));
    }

    #[test]
    fn what_is_no_parquet_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv");
        std::fs::write(&path, "a,b\n1,2\n").unwrap();
        let error = FileProfile::read(&Local, &path.display().to_string(), 3).unwrap_err().to_string();
        assert!(error.contains("log.csv") && error.contains("Parquet"), "{error}");
    }
}
