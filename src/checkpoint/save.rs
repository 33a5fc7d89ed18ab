//! Saving: each rank writes the files of its buckets, rank 0 the dense part and, last, the manifest.

use super::files::{Data, FileEntry, Named, sync_dir, write_synced, write_tensors};
use super::folder::CheckpointDir;
use super::manifest::{MANIFEST, Manifest};
use crate::comm::{Communicator, collectives};
use crate::embedding::Embeddings;
use crate::error::{Error, Result};
use crate::nn::{Buffer, ParamStore};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// Table files of one checkpoint, where every rank owns whole files; more ranks write more.
const TABLE_FILES: usize = 64;

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
    pub dense: &'a DenseState,
    /// This rank's buckets of all tables.
    pub embeddings: &'a Embeddings,
    /// Of each table only the rows of these ids, and no candidates.
    pub only: Option<&'a [HashSet<u64>]>,
    /// A class of every training row, if the model has such, and the epoch that began with their last assignment.
    pub row_classes: Option<(&'a [u8], u64)>,
}

/// Writes `snapshot` as the checkpoint of its step. Collective. On an error nothing that was saved before is
/// touched, and the half-written folder is removed: a full disk gets its space back. What a killed run leaves
/// aside is swept by the next successful save.
pub fn save(comm: &dyn Communicator, dir: &CheckpointDir, snapshot: Snapshot) -> Result<()> {
    let step = snapshot.manifest.step;
    let (partial, whole) = (dir.partial(step), dir.step(step));
    let saved = write(comm, dir, &partial, &whole, snapshot);
    // Every rank has stopped writing when the ranks agree on the error, which is the one to report.
    if saved.is_err() && comm.rank() == 0 {
        let _ = std::fs::remove_dir_all(&partial);
    }
    saved
}

fn write(comm: &dyn Communicator, dir: &CheckpointDir, partial: &Path, whole: &Path, snapshot: Snapshot) -> Result<()> {
    let prepared = if comm.rank() == 0 { prepare(partial) } else { Ok(()) };
    collectives::agree(comm, prepared)?;
    let written = collectives::agree(comm, write_files(comm, partial, &snapshot))?;
    let files = gather_entries(comm, &written)?;
    let finished = if comm.rank() == 0 { finish(dir, partial, whole, snapshot.manifest, files) } else { Ok(()) };
    collectives::agree(comm, finished)
}

fn prepare(partial: &Path) -> Result<()> {
    if partial.exists() {
        std::fs::remove_dir_all(partial).map_err(|e| Error::io("clearing", partial, &e))?;
    }
    std::fs::create_dir_all(partial).map_err(|e| Error::io("creating", partial, &e))
}

fn write_files(comm: &dyn Communicator, partial: &Path, snapshot: &Snapshot) -> Result<Vec<FileEntry>> {
    let mut entries = Vec::new();
    if comm.rank() == 0 {
        entries.push(write_dense(partial, snapshot)?);
    }
    for buckets in table_files(snapshot.embeddings.owned_buckets(), snapshot.manifest.buckets) {
        entries.push(write_buckets(partial, snapshot, buckets)?);
    }
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

fn write_dense(partial: &Path, snapshot: &Snapshot) -> Result<FileEntry> {
    let store = snapshot.store;
    let mut values = Vec::with_capacity(store.names().len());
    for (index, var) in store.vars().iter().enumerate() {
        let mut parameter = vec![0.0; var.elem_count()];
        store.read(index, &mut parameter)?;
        values.push(parameter);
    }
    let mut tensors = Vec::new();
    for (index, name) in store.names().iter().enumerate() {
        let shape = store.vars()[index].dims().to_vec();
        let moments = snapshot.dense.names.iter().zip(&snapshot.dense.moments);
        for (moment, all) in moments.filter(|_| !store.is_frozen(index)) {
            let name = format!("optimizer.{moment}.{name}");
            tensors.push(Named { name, shape: shape.clone(), data: Data::F32(&all[index]) });
        }
        tensors.push(Named { name: format!("parameters.{name}"), shape, data: Data::F32(&values[index]) });
    }
    let buffers: Vec<Vec<f32>> = store.buffers().iter().map(Buffer::get).collect();
    for (name, values) in store.buffer_names().iter().zip(&buffers) {
        tensors.push(Named { name: format!("buffers.{name}"), shape: vec![values.len()], data: Data::F32(values) });
    }
    let assigned = snapshot.row_classes.map(|(_, epoch)| [epoch]);
    if let (Some((classes, _)), Some(assigned)) = (snapshot.row_classes, &assigned) {
        let classes = Named { name: ROW_CLASSES.to_string(), shape: vec![classes.len()], data: Data::U8(classes) };
        tensors.push(classes);
        tensors.push(Named { name: ASSIGNED.to_string(), shape: vec![1], data: Data::U64(assigned) });
    }
    write_tensors(partial, DENSE_FILE, &tensors)
}

/// Names of the tensors with the rows' classes and their epoch.
pub(super) const ROW_CLASSES: &str = "rows.class";
pub(super) const ASSIGNED: &str = "rows.assigned";

/// Name of the file with the dense part.
pub const DENSE_FILE: &str = "dense.safetensors";

fn write_buckets(partial: &Path, snapshot: &Snapshot, buckets: Range<usize>) -> Result<FileEntry> {
    let tables = &snapshot.manifest.tables;
    let export = |table: usize| {
        let rows = snapshot.embeddings.export(table, buckets.clone());
        match snapshot.only {
            Some(ids) => rows.keeping(|id| ids[table].contains(&id)),
            None => rows,
        }
    };
    let exported: Vec<_> = (0..tables.len()).map(export).collect();
    let mut tensors = Vec::new();
    for (table, rows) in tables.iter().zip(&exported) {
        let n = rows.ids.len();
        let width = table.state.iter().map(|(_, width)| width).sum();
        let mut push = |part: &str, shape: Vec<usize>, data| {
            tensors.push(Named { name: format!("{}.{part}", table.name), shape, data });
        };
        push("ids", vec![n], Data::U64(&rows.ids));
        push("values", vec![n, table.dim], Data::F32(&rows.values));
        push("state", vec![n, width], Data::F32(&rows.state));
        push("counts", vec![n], Data::U32(&rows.counts));
        push("last_steps", vec![n], Data::U32(&rows.last_steps));
        push("bucket_rows", vec![buckets.len()], Data::U64(&rows.bucket_rows));
        push("candidate_ids", vec![rows.candidate_ids.len()], Data::U64(&rows.candidate_ids));
        push("candidate_counts", vec![rows.candidate_ids.len()], Data::U32(&rows.candidate_counts));
        push("bucket_candidates", vec![buckets.len()], Data::U64(&rows.bucket_candidates));
    }
    let name = format!("buckets-{:05}-{:05}.safetensors", buckets.start, buckets.end - 1);
    let mut entry = write_tensors(partial, &name, &tensors)?;
    entry.buckets = Some((buckets.start, buckets.end - 1));
    entry.rows = exported.iter().map(|rows| rows.ids.len() as u64).collect();
    Ok(entry)
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

fn finish(
    dir: &CheckpointDir,
    partial: &Path,
    whole: &Path,
    mut manifest: Manifest,
    files: Vec<FileEntry>,
) -> Result<()> {
    for (i, table) in manifest.tables.iter_mut().enumerate() {
        table.rows = files.iter().filter_map(|f| f.rows.get(i)).sum();
    }
    manifest.files = files;
    write_synced(&partial.join(MANIFEST), manifest.to_text()?.as_bytes())?;
    sync_dir(partial)?;
    if whole.exists() {
        // The same step was saved before (a resumed run that owed an evaluation). The old one steps aside, and is
        // swept after the new one has taken its name.
        dir.put_aside(manifest.step)?;
    }
    std::fs::rename(partial, whole).map_err(|e| Error::io("finishing", whole, &e))?;
    sync_dir(dir.path())
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
