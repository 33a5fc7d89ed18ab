//! Saving: training stops for a snapshot, a thread of each rank writes the files of its buckets, that of rank 0 the dense
//! part too. Once all files are on disk, rank 0 writes the manifest and gives the folder its name.

use super::disk::Disk;
use super::files::{Data, FileEntry, Named, write_tensors};
use super::folder::CheckpointDir;
use super::in_order::in_order;
use super::manifest::{MANIFEST, Manifest};
use super::table_file;
use crate::comm::{Communicator, collectives};
use crate::embedding::{Embeddings, TableRows, TableSnapshot};
use crate::error::{Error, Result};
use crate::nn::{Buffer, ParamStore};
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Table files of one checkpoint, where every rank owns whole files; more ranks write more.
const TABLE_FILES: usize = 64;

/// Names of the tensors with the rows' classes and their epoch.
pub(super) const ROW_CLASSES: &str = "rows.class";
pub(super) const ASSIGNED: &str = "rows.assigned";

/// Name of the file with the dense part.
pub const DENSE_FILE: &str = "dense.safetensors";

/// The dense optimizer's state, gathered: `moments[i][p]` is moment `names[i]` of parameter p, empty if p is frozen.
#[derive(Debug, Clone, Default)]
pub struct DenseState {
    /// Names of the moments.
    pub names: Vec<String>,
    /// Moments by name, then by parameter.
    pub moments: Vec<Vec<Vec<f32>>>,
}

/// What is saved.
pub struct Snapshot<'a> {
    /// The manifest, complete but for `files` and the tables' `rows`.
    pub manifest: Manifest,
    /// Parameters and buffers.
    pub store: &'a ParamStore,
    /// State of the dense optimizer.
    pub dense: DenseState,
    /// This rank's buckets of all tables.
    pub embeddings: &'a mut Embeddings,
    /// Of each table only the rows of these ids, and no candidates.
    pub only: Option<Vec<HashSet<u64>>>,
    /// A class of every training row, if the model has such, and the epoch that began with their last assignment.
    pub row_classes: Option<(&'a [u8], u64)>,
}

/// Takes a snapshot and begins to write it as the checkpoint of its step, beside what training does next. Collective.
///
/// Until the files are written, the memory of those pages of the tables that training changes is needed twice: at most
/// as much again as the tables that are trained. Where there is no room for that, the files are written before this
/// returns.
///
/// # Errors
/// The same on all ranks. Nothing that was saved before is touched then, and the half-written folder is removed: a full
/// disk gets its space back. What a killed run leaves aside is swept by the next successful save.
pub fn begin(comm: &dyn Communicator, dir: &CheckpointDir, snapshot: Snapshot) -> Result<Saving> {
    let partial = dir.partial(snapshot.manifest.step);
    let prepared = if comm.rank() == 0 { prepare(&dir.disk, &partial) } else { Ok(()) };
    let started = collectives::agree(comm, prepared).and_then(|()| {
        let saving = Saving::start(dir, partial.clone(), snapshot, comm.rank() == 0);
        collectives::agree(comm, saving)
    });
    clear_failed(comm, dir, &partial, &started);
    started
}

/// A checkpoint that is being written; waits for its thread when it is dropped.
#[derive(Debug)]
pub struct Saving {
    dir: CheckpointDir,
    partial: PathBuf,
    manifest: Manifest,
    writer: Writer,
}

impl Saving {
    fn start(dir: &CheckpointDir, partial: PathBuf, snapshot: Snapshot, is_first: bool) -> Result<Self> {
        let Snapshot { manifest, store, dense, embeddings, only, row_classes } = snapshot;
        let dense = is_first.then(|| dense_tensors(store, dense, row_classes)).transpose()?;
        let waits = !embeddings.has_room_for_snapshot();
        let (owned, tables) = (embeddings.owned_buckets(), embeddings.snapshot());
        let (disk, folder, copy) = (dir.disk.clone(), partial.clone(), manifest.clone());
        let rows = move |buckets: Range<usize>| {
            let of_table = |(index, table): (usize, &TableSnapshot)| match &only {
                Some(ids) => table.export(buckets.clone()).keeping(|id| ids[index].contains(&id)),
                None => table.export(buckets.clone()),
            };
            tables.iter().enumerate().map(of_table).collect()
        };
        let write = move || write_files(&disk, &folder, &copy, dense, rows, owned);
        let thread = std::thread::Builder::new().name("checkpoint".to_string()).spawn(write);
        let thread = thread.map_err(|e| Error::internal(format!("no thread can be started to save: {e}")))?;
        let mut writer = Writer::Running(thread);
        if waits {
            writer.wait();
        }
        Ok(Self { dir: dir.clone(), partial, manifest, writer })
    }

    /// Whether this rank's files are on the disk, or could not be written.
    pub fn is_written(&self) -> bool {
        match &self.writer {
            Writer::Running(thread) => thread.is_finished(),
            Writer::Done(_) => true,
        }
    }

    /// Waits for the files of all ranks and makes them a checkpoint. Collective.
    ///
    /// # Errors
    /// As for [`begin`].
    pub fn finish(mut self, comm: &dyn Communicator) -> Result<()> {
        let written = std::mem::replace(self.writer.wait(), Ok(Vec::new()));
        let finished = self.publish(comm, written);
        clear_failed(comm, &self.dir, &self.partial, &finished);
        finished
    }

    fn publish(&self, comm: &dyn Communicator, written: Written) -> Result<()> {
        let files = gather_entries(comm, &collectives::agree(comm, written)?)?;
        let published = if comm.rank() == 0 { self.name(files) } else { Ok(()) };
        collectives::agree(comm, published)
    }

    /// Writes the manifest of all `files` and gives the folder its name.
    fn name(&self, files: Vec<FileEntry>) -> Result<()> {
        let Self { dir, partial, .. } = self;
        let mut manifest = self.manifest.clone();
        for (i, table) in manifest.tables.iter_mut().enumerate() {
            table.rows = files.iter().filter_map(|f| f.rows.get(i)).sum();
        }
        manifest.files = files;
        dir.disk.write(&partial.join(MANIFEST), &[manifest.to_text()?.as_bytes()])?;
        dir.disk.sync_dir(partial)?;
        let whole = dir.step(manifest.step);
        if whole.exists() {
            // The same step was saved before (a resumed run that owed an evaluation). The old one steps aside, and is
            // swept after the new one has taken its name.
            dir.put_aside(manifest.step)?;
        }
        dir.disk.rename("finishing", partial, &whole)?;
        dir.disk.sync_dir(dir.path())
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.writer.wait();
    }
}

/// The entries of the files that a rank wrote.
type Written = Result<Vec<FileEntry>>;

/// The thread that writes a rank's files.
#[derive(Debug)]
enum Writer {
    Running(JoinHandle<Written>),
    Done(Written),
}

impl Writer {
    fn wait(&mut self) -> &mut Written {
        let lost = || Err(Error::internal("the thread that writes the checkpoint panicked"));
        if let Self::Running(_) = self
            && let Self::Running(thread) = std::mem::replace(self, Self::Done(lost()))
        {
            *self = Self::Done(thread.join().unwrap_or_else(|_| lost()));
        }
        match self {
            Self::Done(written) => written,
            Self::Running(_) => unreachable!("it was waited for"),
        }
    }
}

fn prepare(disk: &Disk, partial: &Path) -> Result<()> {
    if partial.exists() {
        disk.remove(partial)?;
    }
    disk.create_dir(partial)
}

/// Removes what a failed save has written. Every rank has stopped writing when the ranks agree on the error, which is the
/// one to report.
fn clear_failed<T>(comm: &dyn Communicator, dir: &CheckpointDir, partial: &Path, saved: &Result<T>) {
    if saved.is_err() && comm.rank() == 0 {
        let _ = dir.disk.remove(partial);
    }
}

/// What one file holds.
enum Part {
    Dense(Vec<Named<'static>>),
    Buckets(Range<usize>),
}

fn write_files(
    disk: &Disk,
    partial: &Path,
    manifest: &Manifest,
    dense: Option<Vec<Named<'static>>>,
    rows: impl Fn(Range<usize>) -> Vec<TableRows> + Sync,
    owned: Range<usize>,
) -> Written {
    let buckets = table_files(owned, manifest.buckets).into_iter().map(Part::Buckets);
    let parts: Vec<Part> = dense.map(Part::Dense).into_iter().chain(buckets).collect();
    let write = |part: &Part| match part {
        Part::Dense(tensors) => write_tensors(disk, partial, DENSE_FILE, tensors),
        Part::Buckets(buckets) => {
            table_file::write(disk, partial, &manifest.tables, &rows(buckets.clone()), buckets.clone())
        }
    };
    let mut entries = Vec::new();
    in_order(&parts, write, |entry| {
        entries.push(entry);
        Ok(())
    })?;
    Ok(entries)
}

/// Cuts the owned buckets at the fixed file boundaries, so that file names and contents do not depend on the
/// number of ranks as long as every rank owns whole files.
fn table_files(owned: Range<usize>, buckets: usize) -> Vec<Range<usize>> {
    let width = buckets.div_ceil(TABLE_FILES);
    let mut files = Vec::new();
    let mut first = owned.start;
    while first < owned.end {
        let end = owned.end.min((first / width + 1) * width);
        files.push(first..end);
        first = end;
    }
    files
}

/// A copy of what ranks hold alike: parameters, moments, buffers, classes of rows.
fn dense_tensors(
    store: &ParamStore,
    dense: DenseState,
    row_classes: Option<(&[u8], u64)>,
) -> Result<Vec<Named<'static>>> {
    let mut tensors = Vec::new();
    let shapes: Vec<Vec<usize>> = store.vars().iter().map(|var| var.dims().to_vec()).collect();
    for (moment, all) in dense.names.iter().zip(dense.moments) {
        for (index, values) in all.into_iter().enumerate().filter(|(index, _)| !store.is_frozen(*index)) {
            let name = format!("optimizer.{moment}.{}", store.names()[index]);
            tensors.push(Named { name, shape: shapes[index].clone(), data: Data::F32(values.into()) });
        }
    }
    for (index, (name, shape)) in store.names().iter().zip(shapes).enumerate() {
        let mut values = vec![0.0; shape.iter().product()];
        store.read(index, &mut values)?;
        tensors.push(Named { name: format!("parameters.{name}"), shape, data: Data::F32(values.into()) });
    }
    for (name, values) in store.buffer_names().iter().zip(store.buffers().iter().map(Buffer::get)) {
        let (name, shape) = (format!("buffers.{name}"), vec![values.len()]);
        tensors.push(Named { name, shape, data: Data::F32(values.into()) });
    }
    if let Some((classes, assigned)) = row_classes {
        let (name, shape) = (ROW_CLASSES.to_string(), vec![classes.len()]);
        tensors.push(Named { name, shape, data: Data::U8(classes.to_vec().into()) });
        tensors.push(Named { name: ASSIGNED.to_string(), shape: vec![1], data: Data::U64(vec![assigned].into()) });
    }
    Ok(tensors)
}

/// Everybody's entries, in rank order: ascending buckets.
fn gather_entries(comm: &dyn Communicator, mine: &[FileEntry]) -> Result<Vec<FileEntry>> {
    let message = serde_json::to_vec(mine).map_err(|e| Error::internal(format!("manifest entries: {e}")))?;
    let mut all = Vec::new();
    for part in collectives::all_gather_messages(comm, &message)? {
        let part: Vec<FileEntry> =
            serde_json::from_slice(&part).map_err(|e| Error::internal(format!("manifest entries: {e}")))?;
        all.extend(part);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_files_do_not_depend_on_ranks_that_own_whole_files() {
        let whole = table_files(0..1024, 1024);
        assert_eq!(whole.len(), TABLE_FILES);
        for ranks in [2, 4, 8, 64] {
            let cut: Vec<_> =
                (0..ranks).flat_map(|r| table_files(1024 * r / ranks..1024 * (r + 1) / ranks, 1024)).collect();
            assert_eq!(cut, whole, "{ranks} ranks");
        }
    }

    #[test]
    fn any_number_of_ranks_covers_every_bucket() {
        for (buckets, ranks) in [(1024, 3), (1024, 7), (16, 5), (1, 1), (256, 100)] {
            let mut next = 0;
            for r in 0..ranks {
                for file in table_files(buckets * r / ranks..buckets * (r + 1) / ranks, buckets) {
                    assert_eq!(file.start, next);
                    next = file.end;
                }
            }
            assert_eq!(next, buckets);
        }
    }
}
