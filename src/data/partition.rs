//! A log parted by its scenarios: the rows of each in files of their own, with all their columns, in the order of the log.

use super::columns::{self, DictionaryHashes};
use super::lanes::Piece;
use super::reader::Files;
use super::scenarios::Scenarios;
use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema as ArrowSchema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 8192;

/// Rows of a row group of what is written: small enough that as many as there are scenarios fit into memory.
const GROUP_ROWS: usize = 1 << 16;

/// Writes the rows of each scenario into the folder that `folder` gives for its number; returns how many each has. Rows without a
/// scenario, or with one that is not among `scenarios`, are left out. `files` must be those of all columns. A file of the log is read
/// by one rank, and has one file in each folder, so the result does not depend on the ranks. Collective.
pub fn part(
    comm: &dyn Communicator,
    files: &Files,
    scenarios: &Scenarios,
    folder: &dyn Fn(usize) -> PathBuf,
) -> Result<Vec<u64>> {
    let mine = (comm.rank() as u32..files.plan().files.len() as u32).step_by(comm.size());
    let mut rows = vec![0; scenarios.names().len()];
    let written = mine.map(|file| part_file(files, file, scenarios, folder, &mut rows)).collect::<Result<Vec<()>>>();
    collectives::agree(comm, written)?;
    collectives::all_reduce_sum(comm, &mut rows)?;
    Ok(rows)
}

fn part_file(
    files: &Files,
    file: u32,
    scenarios: &Scenarios,
    folder: &dyn Fn(usize) -> PathBuf,
    rows: &mut [u64],
) -> Result<()> {
    let column = files.schema().scenario.ok_or_else(|| Error::internal("a log without scenarios is parted"))?;
    let name = &files.schema().columns[column].name;
    let numbers = scenarios.numbers();
    let mut parts: Vec<Option<Part>> = rows.iter().map(|_| None).collect();
    let (mut hashes, mut ids) = (DictionaryHashes::default(), Vec::new());
    for (row_group, group) in files.plan().row_groups.iter().enumerate().filter(|(_, group)| group.file == file) {
        let piece = Piece { row_group: row_group as u32, start: 0, rows: group.rows };
        let mut reader = files.read(piece, &[column], BATCH_ROWS)?;
        while let Some(slice) = reader.take(BATCH_ROWS)? {
            let place = reader.place(slice.first_row);
            let unreadable = |e| place.unreadable(name, &e);
            ids.clear();
            columns::ids(&slice.columns[0], &mut hashes, &mut ids).map_err(unreadable)?;
            let nulls = columns::nulls(&slice.columns[0]);
            let of_row = |(row, id): (usize, &u64)| match nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                true => None,
                false => numbers.get(id).copied(),
            };
            let found: Vec<Option<u32>> = ids.iter().enumerate().map(of_row).collect();
            let whole = with_folder_columns(files, file, &slice.batch)?;
            for (number, part) in parts.iter_mut().enumerate() {
                let mask: BooleanArray = found.iter().map(|found| Some(*found == Some(number as u32))).collect();
                if mask.true_count() > 0 {
                    rows[number] += mask.true_count() as u64;
                    let chosen = filter_record_batch(&whole, &mask).map_err(unreadable)?;
                    let path = folder(number).join(format!("part-{file:05}.parquet"));
                    Part::or_new(part, path, &chosen)?.write(&chosen)?;
                }
            }
        }
    }
    parts.into_iter().flatten().try_for_each(Part::finish)
}

/// The rows with what the folders of their file's path say as columns: the new path does not say it.
fn with_folder_columns(files: &Files, file: u32, rows: &RecordBatch) -> Result<RecordBatch> {
    let added: Vec<(Field, ArrayRef)> = files.plan().files[file as usize].folder_columns(rows);
    let fields: Vec<_> =
        rows.schema().fields().iter().cloned().chain(added.iter().map(|(f, _)| Arc::new(f.clone()))).collect();
    let arrays = rows.columns().iter().cloned().chain(added.iter().map(|(_, array)| array.clone())).collect();
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), arrays)
        .map_err(|e| Error::internal(format!("columns do not fit each other: {e}")))
}

/// A file being written.
struct Part {
    path: PathBuf,
    writer: ArrowWriter<File>,
}

impl Part {
    fn or_new<'a>(part: &'a mut Option<Self>, path: PathBuf, rows: &RecordBatch) -> Result<&'a mut Self> {
        match part {
            Some(part) => Ok(part),
            None => Ok(part.insert(Self::create(path, rows)?)),
        }
    }

    fn create(path: PathBuf, rows: &RecordBatch) -> Result<Self> {
        let parent = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(|e| Error::io("creating", parent, &e))?;
        let file = File::create(&path).map_err(|e| Error::io("creating", &path, &e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(Default::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).map_err(|e| refused(&path, &e))?;
        Ok(Self { path, writer })
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer.write(rows).map_err(|e| refused(&self.path, &e))
    }

    fn finish(self) -> Result<()> {
        self.writer.close().map(drop).map_err(|e| refused(&self.path, &e))
    }
}

fn refused(path: &Path, error: &parquet::errors::ParquetError) -> Error {
    Error::data(format!("the rows of a scenario cannot be written: {error}"))
        .at("file", path.display())
        .fix("see that there is room for a copy of the log in the run folder")
}
