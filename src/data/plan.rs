//! What there is to read, known before step 0: the files, their row groups and their rows.
//!
//! Rank 0 lists the files; the footer of file `i` is read by rank `i mod R`; the rest is gathered. Every
//! rank then holds the same plan, so that all of them know how many steps an epoch has.

use super::batch::Origin;
use super::schema::Schema;
use super::store::{BlobReader, FileInfo, NOT_FETCHED, Store, list_all, partitions, remedy};
use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};
use crate::guard;
use crate::pulse;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Files, row groups and rows, the same on every rank.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// In the order of the patterns, sorted by path within each.
    pub files: Vec<File>,
    /// Row groups that have rows, file by file.
    pub row_groups: Vec<RowGroup>,
    /// Rows over all row groups; at least 1.
    pub rows: u64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Path as the store takes it.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Constant columns given by `key=value` folders of the path.
    pub partitions: Vec<(String, Constant)>,
}

impl File {
    /// The columns that the folders of its path give, as long as `input`, where it has none of that name.
    pub fn folder_columns(&self, input: &RecordBatch) -> Vec<(Field, ArrayRef)> {
        let given = self.partitions.iter().filter(|(name, _)| input.column_by_name(name).is_none());
        let column = |(name, value): &(String, Constant)| {
            let array = value.repeated(input.num_rows());
            (Field::new(name, array.data_type().clone(), true), array)
        };
        given.map(column).collect()
    }
}

/// The value of a partition column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constant {
    /// `__HIVE_DEFAULT_PARTITION__`.
    Null,
    /// A key whose value is an integer in every file.
    Int(i64),
    /// Any other.
    Text(String),
}

impl Constant {
    /// A column that holds it `rows` times.
    pub fn repeated(&self, rows: usize) -> ArrayRef {
        match self {
            Self::Null => new_null_array(&DataType::Int64, rows),
            Self::Int(number) => Arc::new(Int64Array::from_value(*number, rows)),
            Self::Text(text) => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows))),
        }
    }
}

/// One row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowGroup {
    /// Index into [`Plan::files`].
    pub file: u32,
    /// Its number inside the file.
    pub index: u32,
    /// Its rows, at least 1.
    pub rows: u32,
    /// Its compressed size, all columns.
    pub bytes: u64,
}

/// What one rank reports of one file: its index, and `(rows, bytes)` of its row groups.
type Footer = (u32, Vec<(u64, u64)>);

impl Plan {
    /// Lists `patterns`, reads the footers and checks in every file the columns that `schema` needs.
    /// Collective; an error on one rank is returned by all.
    pub fn read(comm: &dyn Communicator, store: &dyn Store, patterns: &[String], schema: &Schema) -> Result<Self> {
        let listed = if comm.rank() == 0 { list_all(store, patterns).map(with_partitions) } else { Ok(Vec::new()) };
        let listed = collectives::agree(comm, listed)?;
        let files: Vec<File> = decoded(&collectives::broadcast(comm, 0, &encoded(&listed)?)?)?;
        let mine: Vec<usize> = (comm.rank()..files.len()).step_by(comm.size()).collect();
        let footers = mine.par_iter().map(|&i| footer(store, &files[i], i, schema)).collect::<Vec<_>>();
        // The first error by file, so that the message does not depend on thread timing.
        let footers = collectives::agree(comm, footers.into_iter().collect::<Result<Vec<Footer>>>())?;
        let mut all: Vec<Footer> = Vec::with_capacity(files.len());
        for message in collectives::all_gather_messages(comm, &encoded(&footers)?)? {
            all.extend(decoded::<Vec<Footer>>(&message)?);
        }
        collectives::agree(comm, Self::assemble(files, all, patterns))
    }

    fn assemble(files: Vec<File>, mut footers: Vec<Footer>, patterns: &[String]) -> Result<Self> {
        footers.sort_by_key(|(file, _)| *file);
        let mut plan = Self { files, ..Self::default() };
        for (file, groups) in footers {
            for (index, (rows, bytes)) in groups.into_iter().enumerate().filter(|(_, (rows, _))| *rows > 0) {
                let narrow = u32::try_from(rows).map_err(|_| {
                    Error::data(format!("a row group of {rows} rows is too large"))
                        .at("file", &plan.files[file as usize].path)
                        .at("row group", index)
                        .fix("write row groups of about 100,000 to 1,000,000 rows")
                })?;
                plan.row_groups.push(RowGroup { file, index: index as u32, rows: narrow, bytes });
                plan.rows += rows;
            }
        }
        if plan.rows == 0 {
            return Err(Error::data(format!("none of the {} files has a row", plan.files.len()))
                .at("pattern", patterns.join(", "))
                .fix("correct `data:` in the job, or look at what wrote these files"));
        }
        Ok(plan)
    }

    /// The path of the file that a row group is in.
    pub fn path(&self, row_group: u32) -> &str {
        &self.files[self.row_groups[row_group as usize].file as usize].path
    }

    /// Adds the address of a row to an error.
    pub fn name_row(&self, error: Error, row: Origin) -> Error {
        let group = self.row_groups[row.row_group as usize];
        error.at("file", self.path(row.row_group)).at("row group", group.index).at("row", row.row)
    }

    /// Compressed bytes over all row groups, all columns.
    pub fn bytes(&self) -> u64 {
        self.row_groups.iter().map(|group| group.bytes).sum()
    }
}

fn encoded<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal(format!("the plan cannot be sent: {e}")))
}

fn decoded<T: DeserializeOwned>(message: &[u8]) -> Result<T> {
    serde_json::from_slice(message).map_err(|e| Error::comm(format!("a rank sent a plan that cannot be read: {e}")))
}

/// Adds partition values; a key is an integer only if it is one in every file, so that one column never
/// mixes integer ids with hashed strings.
fn with_partitions(listing: Vec<FileInfo>) -> Vec<File> {
    const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
    let values: Vec<_> = listing.iter().map(|file| partitions(&file.path)).collect();
    let is_text = |(_, value): &&(String, String)| value != NULL && value.parse::<i64>().is_err();
    let text: BTreeSet<String> = values.iter().flatten().filter(is_text).map(|(key, _)| key.clone()).collect();
    let constant = |key: &str, value: String| match value.parse() {
        _ if value == NULL => Constant::Null,
        Ok(number) if !text.contains(key) => Constant::Int(number),
        _ => Constant::Text(value),
    };
    let file = |(info, pairs): (FileInfo, Vec<(String, String)>)| File {
        path: info.path,
        bytes: info.bytes,
        partitions: pairs.into_iter().map(|(key, value)| (key.clone(), constant(&key, value))).collect(),
    };
    listing.into_iter().zip(values).map(file).collect()
}

fn footer(store: &dyn Store, file: &File, index: usize, schema: &Schema) -> Result<Footer> {
    let reader = BlobReader::new(store.open(&file.path)?, Arc::new(AtomicU64::new(0)));
    let metadata = load_footer(&reader, &file.path, ArrowReaderOptions::new())?;
    let keys: Vec<String> = file.partitions.iter().map(|(key, _)| key.clone()).collect();
    schema.check(&file.path, metadata.schema(), &keys)?;
    let groups = metadata.metadata().row_groups().iter();
    let sizes = groups.map(|group| (group.num_rows().max(0) as u64, group.compressed_size().max(0) as u64)).collect();
    Ok((index as u32, sizes))
}

/// Reads a footer; what is not a whole Parquet file is an error that names it.
pub(super) fn load_footer(reader: &BlobReader, path: &str, options: ArrowReaderOptions) -> Result<ArrowReaderMetadata> {
    let _touch = pulse::touch(path, None);
    let loaded = guard::run(|| ArrowReaderMetadata::load(reader, options));
    loaded.and_then(|loaded| loaded.map_err(|e| e.to_string())).map_err(|what| {
        const DAMAGED: &str =
            "write the file again (it may be cut short or still being written), or narrow the pattern in `data:`";
        let error = match what.contains(NOT_FETCHED) {
            true => Error::data(format!("the footer cannot be read: {what}")),
            false => Error::data(format!("this is not a whole Parquet file: {what}")),
        };
        error.at("file", path).fix(remedy(&what, DAMAGED))
    })
}

#[cfg(test)]
mod tests {
    use super::super::store::Local;
    use super::super::testing::{TestFile, ints, schema};
    use super::*;
    use crate::comm::solo::Solo;
    use arrow::array::ArrayRef;

    fn read(patterns: &[String]) -> Result<Plan> {
        let schema = schema("features: [{name: user, kind: categorical}]\ntasks: []");
        Plan::read(&Solo, &Local, patterns, &schema)
    }

    fn folder_with(files: &[(&str, usize)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for &(name, rows) in files {
            let user: ArrayRef = ints(0..rows as i64);
            TestFile::new(&[("user", user)]).row_group_rows(400).write(&folder.path().join(name));
        }
        folder
    }

    #[test]
    fn row_groups_are_listed_and_empty_files_are_fine() {
        let folder = folder_with(&[("a.parquet", 1), ("b.parquet", 0), ("c.parquet", 999), ("d.parquet", 7)]);
        let plan = read(&[folder.path().display().to_string()]).unwrap();
        let groups: Vec<_> = plan.row_groups.iter().map(|g| (g.file, g.index, g.rows)).collect();
        assert_eq!(groups, [(0, 0, 1), (2, 0, 400), (2, 1, 400), (2, 2, 199), (3, 0, 7)]);
        assert_eq!((plan.rows, plan.files.len()), (1007, 4));
        assert!(plan.path(3).ends_with("c.parquet") && plan.bytes() > 0);
    }

    #[test]
    fn the_order_in_which_ranks_report_does_not_matter() {
        let files = with_partitions(["a", "b", "c"].map(|p| FileInfo { path: p.to_string(), bytes: 9 }).into());
        let footers: Vec<Footer> = vec![(0, vec![(5, 50)]), (1, vec![(0, 1), (7, 70)]), (2, vec![(1, 10)])];
        let plan =
            |order: [usize; 3]| Plan::assemble(files.clone(), order.map(|i| footers[i].clone()).into(), &[]).unwrap();
        assert_eq!(plan([0, 2, 1]), plan([0, 1, 2]));
        assert_eq!((plan([2, 0, 1]).rows, plan([2, 0, 1]).row_groups.len()), (13, 3));
    }

    #[test]
    fn no_rows_at_all_is_an_error() {
        let folder = folder_with(&[("a.parquet", 0)]);
        let message = read(&[folder.path().display().to_string()]).unwrap_err().to_string();
        assert!(message.contains("none of the 1 files has a row"), "{message}");
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = folder_with(&[("a.parquet", 50), ("b.parquet", 50)]);
        let path = folder.path().join("b.parquet");
        let bytes = std::fs::read(&path).unwrap();
        for damaged in [&bytes[..bytes.len() / 2], b"not parquet at all", b""] {
            std::fs::write(&path, damaged).unwrap();
            let message = read(&[folder.path().display().to_string()]).unwrap_err().to_string();
            assert!(message.contains("b.parquet") && message.contains("fix:"), "{message}");
        }
    }

    #[test]
    fn columns_are_checked_in_every_file() {
        let folder = folder_with(&[("a.parquet", 5)]);
        TestFile::new(&[("usr", ints(0..5))]).write(&folder.path().join("b.parquet"));
        let message = read(&[folder.path().display().to_string()]).unwrap_err().to_string();
        assert!(message.contains("b.parquet") && message.contains("`usr`"), "{message}");
    }

    #[test]
    fn a_partition_key_has_one_type_over_all_files() {
        let file = |path: &str| FileInfo { path: path.to_string(), bytes: 1 };
        let files = with_partitions(vec![
            file("x/day=1/k=2/a.parquet"),
            file("x/day=__HIVE_DEFAULT_PARTITION__/k=b/a.parquet"),
        ]);
        assert_eq!(files[0].partitions[0], ("day".to_string(), Constant::Int(1)));
        assert_eq!(files[0].partitions[1], ("k".to_string(), Constant::Text("2".to_string())));
        assert_eq!(files[1].partitions[0], ("day".to_string(), Constant::Null));
        assert_eq!(files[1].partitions[1], ("k".to_string(), Constant::Text("b".to_string())));
    }
}
