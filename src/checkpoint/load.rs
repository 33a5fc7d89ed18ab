//! Loading, at any number of ranks: every rank reads the dense part, and the table files that overlap the
//! buckets it owns. A run that goes on takes all of its checkpoint; another job's run takes what it knows.

use super::files::{FileEntry, TensorFile};
use super::manifest::{Manifest, TableEntry};
use super::matches::Matches;
use super::save::{ASSIGNED, DENSE_FILE, DenseState, ROW_CLASSES};
use crate::embedding::{Embeddings, TableRows};
use crate::error::{Error, Result};
use crate::nn::ParamStore;
use std::ops::Range;
use std::path::Path;

/// Loads parameters and buffers into `store`; returns the optimizer's moments.
pub fn load_dense(dir: &Path, manifest: &Manifest, store: &ParamStore) -> Result<DenseState> {
    check_parameters(dir, manifest, store)?;
    let file = TensorFile::read(dir, entry(dir, manifest, DENSE_FILE)?)?;
    let tensors = file.tensors()?;
    for (index, name) in store.names().iter().enumerate() {
        store.load(index, &tensors.get::<f32>(&format!("parameters.{name}"))?)?;
    }
    for (name, buffer) in store.buffer_names().iter().zip(store.buffers()) {
        buffer.set(&tensors.get::<f32>(&format!("buffers.{name}"))?)?;
    }
    let names = manifest.optimizer.1.clone();
    let of = |(index, name): (usize, &String), moment: &String| match store.is_frozen(index) {
        true => Ok(Vec::new()),
        false => tensors.get::<f32>(&format!("optimizer.{moment}.{name}")),
    };
    let moment = |moment: &String| store.names().iter().enumerate().map(|parameter| of(parameter, moment)).collect();
    let moments = names.iter().map(moment).collect::<Result<_>>()?;
    Ok(DenseState { names, moments })
}

/// Loads those parameters and buffers that `store` has too, by name and shape. Returns the moments of these parameters,
/// none of them unless `keep_moments`, and the names of the buffers.
pub fn load_known_dense(
    dir: &Path,
    manifest: &Manifest,
    store: &ParamStore,
    keep_moments: bool,
) -> Result<(DenseState, Vec<String>)> {
    let file = TensorFile::read(dir, entry(dir, manifest, DENSE_FILE)?)?;
    let tensors = file.tensors()?;
    let names = if keep_moments { manifest.optimizer.1.clone() } else { Vec::new() };
    let mut moments = vec![vec![Vec::new(); store.names().len()]; names.len()];
    for (index, (name, var)) in store.names().iter().zip(store.vars()).enumerate() {
        let Some(saved) = manifest.parameters.iter().find(|p| &p.name == name && p.shape == var.dims()) else {
            continue;
        };
        store.load(index, &tensors.get::<f32>(&format!("parameters.{name}"))?)?;
        for (moment, all) in names.iter().zip(&mut moments) {
            if !saved.frozen && !store.is_frozen(index) {
                all[index] = tensors.get(&format!("optimizer.{moment}.{name}"))?;
            }
        }
    }
    let mut loaded = Vec::new();
    for (name, buffer) in store.buffer_names().iter().zip(store.buffers()) {
        let saved = format!("buffers.{name}");
        if tensors.has(&saved, &[buffer.get().len()]) {
            buffer.set(&tensors.get::<f32>(&saved)?)?;
            loaded.push(name.clone());
        }
    }
    Ok((DenseState { names, moments }, loaded))
}

/// The classes of the training rows, and the epoch that began with their last assignment.
pub fn load_row_classes(dir: &Path, manifest: &Manifest) -> Result<(Vec<u8>, u64)> {
    let file = TensorFile::read(dir, entry(dir, manifest, DENSE_FILE)?)?;
    let tensors = file.tensors()?;
    let assigned = tensors.get::<u64>(ASSIGNED)?.first().copied().unwrap_or(0);
    Ok((tensors.get(ROW_CLASSES)?, assigned))
}

/// Loads the rows of this rank's buckets into `embeddings`. The totals of every file are checked against the
/// manifest, whose totals were checked against each other: no row can be missing.
pub fn load_tables(dir: &Path, manifest: &Manifest, embeddings: &mut Embeddings) -> Result<()> {
    let owned = embeddings.owned_buckets();
    read_tables(dir, manifest, owned, |table, rows| embeddings.import(table, rows).map(|_| ()))
}

/// Hands the dense parameters to `take`, by name.
pub fn read_dense(dir: &Path, manifest: &Manifest, mut take: impl FnMut(&str, Vec<f32>)) -> Result<()> {
    let file = TensorFile::read(dir, entry(dir, manifest, DENSE_FILE)?)?;
    let tensors = file.tensors()?;
    for parameter in &manifest.parameters {
        take(&parameter.name, tensors.get(&format!("parameters.{}", parameter.name))?);
    }
    Ok(())
}

/// Hands the rows of each table in `buckets` to `take`, in the order of the buckets, file by file: one file is held in
/// memory at a time.
pub fn read_tables(
    dir: &Path,
    manifest: &Manifest,
    buckets: Range<usize>,
    mut take: impl FnMut(usize, &TableRows) -> Result<()>,
) -> Result<()> {
    for file in &manifest.files {
        let Some((first, last)) = file.buckets else { continue };
        if last < buckets.start || first >= buckets.end {
            continue;
        }
        let content = TensorFile::read(dir, file)?;
        for (index, table) in manifest.tables.iter().enumerate() {
            let rows = read_rows(&content, table, first..last + 1)?;
            let expected = file.rows.get(index).copied().unwrap_or(0);
            if rows.ids.len() as u64 != expected {
                return Err(Error::checkpoint(format!(
                    "table `{}` has {} rows in a file that should hold {expected}",
                    table.name,
                    rows.ids.len()
                ))
                .at("file", dir.join(&file.name).display()));
            }
            take(index, &rows)?;
        }
    }
    Ok(())
}

/// Loads this rank's rows of those tables that `embeddings` has too, by name and dimension; returns which they are. The
/// rows begin with the optimizer state of new ones unless `keep_state` is set and the state is of the same kind.
pub fn load_known_tables(
    dir: &Path,
    manifest: &Manifest,
    embeddings: &mut Embeddings,
    keep_state: bool,
) -> Result<Matches> {
    let wants: Vec<(String, usize)> =
        embeddings.table_names().enumerate().map(|(table, name)| (name.to_string(), embeddings.dim(table))).collect();
    let has: Vec<(String, usize)> = manifest.tables.iter().map(|table| (table.name.clone(), table.dim)).collect();
    // Other bucket counts cut the ids in another way: then any file can hold ids of this rank.
    let owned = embeddings.owned_buckets();
    let same_buckets = manifest.buckets == embeddings.buckets();
    for file in &manifest.files {
        let Some((first, last)) = file.buckets else { continue };
        if same_buckets && (last < owned.start || first >= owned.end) {
            continue;
        }
        let content = TensorFile::read(dir, file)?;
        for (saved, named) in manifest.tables.iter().zip(&has) {
            let Some(table) = wants.iter().position(|wanted| wanted == named) else { continue };
            let slots = embeddings.slots(table).into_iter().map(|slot| (slot.name.to_string(), slot.width));
            let keep = keep_state && slots.collect::<Vec<_>>() == saved.state;
            embeddings.import_renewed(table, read_rows(&content, saved, first..last + 1)?, keep)?;
        }
    }
    Ok(Matches::new(&wants, &has))
}

fn read_rows(content: &TensorFile, table: &TableEntry, buckets: Range<usize>) -> Result<TableRows> {
    let tensors = content.tensors()?;
    let name = |part: &str| format!("{}.{part}", table.name);
    Ok(TableRows {
        buckets,
        bucket_rows: tensors.get(&name("bucket_rows"))?,
        ids: tensors.get(&name("ids"))?,
        values: tensors.get(&name("values"))?,
        state: tensors.get(&name("state"))?,
        counts: tensors.get(&name("counts"))?,
        last_steps: tensors.get(&name("last_steps"))?,
        bucket_candidates: tensors.get(&name("bucket_candidates"))?,
        candidate_ids: tensors.get(&name("candidate_ids"))?,
        candidate_counts: tensors.get(&name("candidate_counts"))?,
    })
}

fn entry<'a>(dir: &Path, manifest: &'a Manifest, name: &str) -> Result<&'a FileEntry> {
    manifest.files.iter().find(|f| f.name == name).ok_or_else(|| {
        Error::checkpoint(format!("the manifest does not name `{name}`"))
            .at("path", dir.display())
            .fix("use another checkpoint of this run")
    })
}

/// The checkpoint must hold exactly the model's parameters.
fn check_parameters(dir: &Path, manifest: &Manifest, store: &ParamStore) -> Result<()> {
    let other = |what: String| {
        Error::checkpoint(what)
            .at("path", dir.display())
            .fix("this checkpoint was written by another job: use its own job file, or train anew in another --run-dir")
    };
    for (name, var) in store.names().iter().zip(store.vars()) {
        match manifest.parameters.iter().find(|p| &p.name == name) {
            None => return Err(other(format!("the checkpoint has no parameter `{name}`"))),
            Some(p) if p.shape != var.dims() => {
                return Err(other(format!(
                    "parameter `{name}` has shape {:?} in the checkpoint, {:?} in the job",
                    p.shape,
                    var.dims()
                )));
            }
            Some(_) => {}
        }
    }
    match manifest.parameters.iter().find(|p| !store.names().contains(&p.name)) {
        Some(p) => Err(other(format!("the checkpoint has a parameter `{}` that this job's model lacks", p.name))),
        None => Ok(()),
    }
}
