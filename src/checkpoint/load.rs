//! Loading, at any number of ranks: every rank reads the dense part, and of the table files the buckets that it
//! owns. A run that goes on takes all of its checkpoint; another job's run takes what it knows.

use super::files::{FileEntry, TensorFile};
use super::in_order::in_order;
use super::manifest::Manifest;
use super::matches::Matches;
use super::save::{ASSIGNED, DENSE_FILE, DenseState, ROW_CLASSES};
use super::table_file;
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

/// Hands the rows of each table in `buckets` to `take`, in the order of the buckets, file by file. Nothing else is read; some
/// files (`in_order.rs`) are held in memory at a time.
pub fn read_tables(
    dir: &Path,
    manifest: &Manifest,
    buckets: Range<usize>,
    mut take: impl FnMut(usize, &TableRows) -> Result<()>,
) -> Result<()> {
    each_file(dir, manifest, &buckets, |tables| {
        tables.iter().enumerate().try_for_each(|(index, rows)| take(index, rows))
    })
}

/// Hands what each file has of `buckets` to `take`: the rows of every table.
fn each_file(
    dir: &Path,
    manifest: &Manifest,
    buckets: &Range<usize>,
    take: impl FnMut(Vec<TableRows>) -> Result<()>,
) -> Result<()> {
    let overlaps = |file: &&FileEntry| {
        file.buckets.is_some_and(|(first, last)| first < buckets.end && last >= buckets.start && !buckets.is_empty())
    };
    let files: Vec<&FileEntry> = manifest.files.iter().filter(overlaps).collect();
    in_order(&files, |file| table_file::read(dir, file, &manifest.tables, buckets), take)
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
    let wanted = if same_buckets { owned } else { 0..manifest.buckets };
    each_file(dir, manifest, &wanted, |tables| {
        for ((saved, named), rows) in manifest.tables.iter().zip(&has).zip(tables) {
            let Some(table) = wants.iter().position(|wanted| wanted == named) else { continue };
            let slots = embeddings.slots(table).into_iter().map(|slot| (slot.name.to_string(), slot.width));
            let keep = keep_state && slots.collect::<Vec<_>>() == saved.state;
            embeddings.import_renewed(table, rows, keep)?;
        }
        Ok(())
    })?;
    Ok(Matches::new(&wants, &has))
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
