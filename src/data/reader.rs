//! Row groups of the plan's files as Arrow columns, in the order of the schema.

use super::columns;
use super::lanes::Piece;
use super::place::Place;
use super::plan::{Constant, Plan, load_footer};
use super::schema::Schema;
use super::sharing::{Group, SharedGroups};
use super::store::{BlobReader, Store, remedy};
use crate::error::{Error, Result};
use crate::guard;
use crate::pulse;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema as ArrowSchema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::PageIndexPolicy;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Footers (and file handles) kept at a time.
const OPEN_FILES_LIMIT: usize = 256;
/// Larger row groups are read by each lane on its own, page by page.
const SHARED_BYTES_LIMIT: usize = 64 << 20;

/// Which columns of a file are read, and with what types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Those of the schema; strings as dictionaries, so that each is hashed once.
    Needed,
    /// All, with the types they were written with.
    All,
}

/// The files of a plan, open for reading from any thread.
pub struct Files {
    store: Arc<dyn Store>,
    plan: Arc<Plan>,
    schema: Arc<Schema>,
    columns: Columns,
    open: Mutex<OpenFiles>,
    shared: SharedGroups,
    read_bytes: Arc<AtomicU64>,
}

/// The most recently opened files, oldest first.
#[derive(Default)]
struct OpenFiles {
    files: BTreeMap<u32, (BlobReader, ArrowReaderMetadata)>,
    order: VecDeque<u32>,
}

impl Files {
    /// Nothing is opened before it is read.
    pub fn new(store: Arc<dyn Store>, plan: Arc<Plan>, schema: Arc<Schema>, columns: Columns) -> Self {
        let shared = SharedGroups::default();
        Self { store, plan, schema, columns, open: Mutex::default(), shared, read_bytes: Arc::default() }
    }

    /// Decodes a row group once for all who read it at the same time, where two or more of `pieces` lie in it.
    #[must_use]
    pub fn sharing(mut self, pieces: impl Iterator<Item = Piece>) -> Self {
        self.shared = SharedGroups::new(pieces.map(|piece| piece.row_group));
        self
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Bytes read from the store so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Starts reading `piece`. With [`Columns::Needed`] only `wanted` columns (indices into
    /// `Schema::columns`) are read; `batch_rows` is the unit of decoding.
    pub fn read(&self, piece: Piece, wanted: &[usize], batch_rows: usize) -> Result<PieceReader> {
        let group = self.plan.row_groups[piece.row_group as usize];
        let file = &self.plan.files[group.file as usize];
        let (reader, metadata) = self.open(group.file)?;
        let found = metadata.metadata().row_groups().get(group.index as usize).map(|found| found.num_rows());
        if found != Some(i64::from(group.rows)) {
            return Err(changed(&file.path, group.index));
        }
        let names: Vec<&str> = wanted.iter().map(|&column| self.schema.columns[column].name.as_str()).collect();
        let mask = self.mask(&metadata, &names);
        let shared = self.shared.get(piece.row_group);
        let shared = shared.filter(|_| decoded_bytes(&metadata, group.index, &mask) <= SHARED_BYTES_LIMIT);
        let open = |part: Piece, batch_rows: usize| {
            let chunks = || column_chunks(&metadata, group.index, &mask);
            let damaged = |what: String| damaged(&file.path, group.index, &what);
            let reader = untrusted(|| reader.with_windows(chunks)).map_err(damaged)?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(reader, metadata)
                .with_row_groups(vec![group.index as usize])
                .with_projection(mask)
                .with_batch_size(batch_rows.min(part.rows as usize))
                .with_offset(part.start as usize)
                .with_limit(part.rows as usize);
            untrusted(|| builder.build()).map_err(damaged)
        };
        let (reader, pending) = match &shared {
            None => (Some(open(piece, batch_rows)?), None),
            Some(shared) => {
                let whole = Piece { start: 0, rows: group.rows, ..piece };
                let decode = || next_batch(&mut open(whole, group.rows as usize)?, &file.path, group.index);
                let rows = shared.get_or_init(decode).as_ref().map_err(Clone::clone)?;
                if rows.num_rows() != group.rows as usize {
                    return Err(changed(&file.path, group.index));
                }
                (None, Some(rows.slice(piece.start as usize, piece.rows as usize)))
            }
        };
        let constant =
            |name: &&str| file.partitions.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let constant = |name: &&str| constant(name).or(self.schema.nulls_for_missing.then_some(Constant::Null));
        Ok(PieceReader {
            constants: names.iter().map(constant).collect(),
            names: names.into_iter().map(str::to_string).collect(),
            file: file.path.clone(),
            number: group.index,
            piece,
            reader,
            pending,
            _shared: shared,
        })
    }

    /// The columns of a file that are read.
    fn mask(&self, metadata: &ArrowReaderMetadata, names: &[&str]) -> ProjectionMask {
        match self.columns {
            Columns::All => ProjectionMask::all(),
            Columns::Needed => {
                let roots = metadata.parquet_schema().root_schema().get_fields().iter().enumerate();
                let roots = roots.filter(|(_, root)| names.contains(&root.name())).map(|(index, _)| index);
                ProjectionMask::roots(metadata.parquet_schema(), roots)
            }
        }
    }

    /// The file's handle and footer, from memory if it was read of late.
    fn open(&self, file: u32) -> Result<(BlobReader, ArrowReaderMetadata)> {
        if let Some(found) = self.lock().files.get(&file) {
            return Ok(found.clone());
        }
        // Not under the lock: other threads may read on. Two may then load one footer, which is harmless.
        let path = &self.plan.files[file as usize].path;
        let reader = BlobReader::new(self.store.open(path)?, self.read_bytes.clone());
        let loaded = (reader.clone(), self.load(&reader, path)?);
        let mut open = self.lock();
        if open.files.insert(file, loaded.clone()).is_none() {
            open.order.push_back(file);
        }
        if open.order.len() > OPEN_FILES_LIMIT
            && let Some(oldest) = open.order.pop_front()
        {
            open.files.remove(&oldest);
        }
        Ok(loaded)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenFiles> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, reader: &BlobReader, path: &str) -> Result<ArrowReaderMetadata> {
        // The offset index lets a lane start in the middle of a row group without decoding what is before.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = load_footer(reader, path, options.clone())?;
        if self.columns == Columns::All {
            return Ok(metadata);
        }
        let needed = |field: &Field| self.schema.columns.iter().any(|column| column.name == *field.name());
        let retyped = |field: &Arc<Field>| match needed(field) {
            true => Arc::new(field.as_ref().clone().with_data_type(columns::read_type(field.data_type()))),
            false => field.clone(),
        };
        let fields: Vec<_> = metadata.schema().fields().iter().map(retyped).collect();
        let supplied = Arc::new(ArrowSchema::new_with_metadata(fields, metadata.schema().metadata().clone()));
        // Dictionaries are only faster: where the reader will not give them, plain strings do.
        Ok(ArrowReaderMetadata::try_new(metadata.metadata().clone(), options.with_schema(supplied)).unwrap_or(metadata))
    }
}

/// Reads one piece of a row group, in order.
pub struct PieceReader {
    /// Absent where `pending` holds the whole piece.
    reader: Option<ParquetRecordBatchReader>,
    /// The wanted columns, and the value of each in the file's path.
    names: Vec<String>,
    constants: Vec<Option<Constant>>,
    file: String,
    number: u32,
    /// What is left to read.
    piece: Piece,
    /// Rows decoded by Parquet and not yet taken.
    pending: Option<RecordBatch>,
    /// Keeps a shared row group, of which `pending` is a part, for those who come later.
    _shared: Option<Arc<Group>>,
}

/// Consecutive rows.
pub struct Slice {
    /// All columns that were read.
    pub batch: RecordBatch,
    /// The wanted columns, in the order they were asked for; partition values included.
    pub columns: Vec<ArrayRef>,
    /// Row of the first, inside the row group.
    pub first_row: u32,
}

impl PieceReader {
    /// The next rows, at least one and at most `limit`; `None` at the end of the piece.
    pub fn take(&mut self, limit: usize) -> Result<Option<Slice>> {
        if self.piece.rows == 0 {
            return Ok(None);
        }
        let batch = match self.pending.take() {
            Some(batch) => batch,
            None => match &mut self.reader {
                Some(reader) => next_batch(reader, &self.file, self.number)?,
                None => return Err(changed(&self.file, self.number)),
            },
        };
        let rows = batch.num_rows().min(limit);
        if rows < batch.num_rows() {
            self.pending = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        let batch = batch.slice(0, rows);
        let first_row = self.piece.start;
        self.piece.start += rows as u32;
        self.piece.rows -= rows as u32;
        Ok(Some(Slice { columns: self.wanted(&batch)?, batch, first_row }))
    }

    /// The address of rows that start at `first_row`.
    pub fn place(&self, first_row: u32) -> Place<'_> {
        Place { file: &self.file, row_group: self.piece.row_group, number: self.number, first_row }
    }

    fn wanted(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |(name, constant): (&String, &Option<Constant>)| match (batch.column_by_name(name), constant) {
            (Some(array), _) => Ok(array.clone()),
            (None, Some(value)) => Ok(value.repeated(batch.num_rows())),
            (None, None) => Err(changed(&self.file, self.number).at("column", name)),
        };
        self.names.iter().zip(&self.constants).map(column).collect()
    }
}

/// Runs the Parquet reader, which fails on some damaged bytes and panics on others.
fn untrusted<T, E: std::fmt::Display>(
    read: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, String> {
    guard::run(read)?.map_err(|e| e.to_string())
}

/// The next rows of a row group that has more.
fn next_batch(reader: &mut ParquetRecordBatchReader, file: &str, row_group: u32) -> Result<RecordBatch> {
    let _touch = pulse::touch(file, Some(row_group));
    let batch = untrusted(|| reader.next().transpose()).map_err(|what| damaged(file, row_group, &what))?;
    batch.ok_or_else(|| changed(file, row_group))
}

/// About what the columns of a row group take once they are decoded: 8 bytes a value.
fn decoded_bytes(metadata: &ArrowReaderMetadata, row_group: u32, mask: &ProjectionMask) -> usize {
    let columns = metadata.metadata().row_group(row_group as usize).columns().iter().enumerate();
    let values = columns.filter(|(index, _)| mask.leaf_included(*index)).map(|(_, column)| column.num_values());
    // A damaged footer says any number.
    values.fold(0usize, |bytes, n| bytes.saturating_add(usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(8)))
}

/// Where the columns of a row group that are read lie in the file.
fn column_chunks(metadata: &ArrowReaderMetadata, row_group: u32, mask: &ProjectionMask) -> Vec<Range<u64>> {
    let columns = metadata.metadata().row_group(row_group as usize).columns().iter().enumerate();
    let ranges = columns.filter(|(index, _)| mask.leaf_included(*index)).map(|(_, column)| column.byte_range());
    ranges.map(|(start, length)| start..start.saturating_add(length)).collect()
}

fn damaged(file: &str, row_group: u32, source: &str) -> Error {
    Error::data(format!("cannot read the row group: {source}"))
        .at("file", file)
        .at("row group", row_group)
        .fix(remedy(source, "the file is damaged: write it again, or take it out of `data:`"))
}

fn changed(file: &str, row_group: u32) -> Error {
    Error::data("the file is not the one whose footer was read at the start")
        .at("file", file)
        .at("row group", row_group)
        .fix("it was replaced during the run; start again (with --resume if a checkpoint is there)")
}
