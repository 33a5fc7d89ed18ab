//! Checkpoints and bundles that are in a store, as folders of this machine.

use super::manifest::MANIFEST;
use super::mirror::{best_of, steps};
use super::transfer::{fetch, send_folder};
use crate::comm::{Communicator, collectives};
use crate::data::store::{Depot, at, is_far, read_whole, refuse_far};
use crate::error::{Error, Result};
use crate::random;
use std::path::{Path, PathBuf};

/// A path on this machine for what `path` names: itself, or a copy of the checkpoint or bundle that it is the address of;
/// of a run the best checkpoint, else the newest. Copies stay below the user's cache folder, and are taken again for as
/// long as they are the same. Collective; where ranks share the folder, one of them fetches for all.
pub fn localised(comm: &dyn Communicator, store: &dyn Depot, path: &Path) -> Result<PathBuf> {
    let Some(address) = path.to_str().filter(|path| is_far(path)) else { return Ok(path.to_path_buf()) };
    let first = if comm.rank() == 0 { copy(store, address).map(Some) } else { Ok(None) };
    match collectives::agree(comm, first)? {
        Some(path) => collectives::agree(comm, Ok(path)),
        None => collectives::agree(comm, copy(store, address)),
    }
}

fn copy(store: &dyn Depot, address: &str) -> Result<PathBuf> {
    let folder = match store.stat(&at(address, MANIFEST))? {
        Some(_) => address.trim_end_matches('/').to_string(),
        None => chosen(store, address)?,
    };
    let manifest = read_whole(store, &at(&folder, MANIFEST))?;
    let id = random::hash(random::text(&folder), &[random::text(&String::from_utf8_lossy(&manifest))]);
    let copy = cache()?.join(format!("{id:016x}"));
    if !copy.join(MANIFEST).is_file() {
        fetch(store, &folder, &copy)?;
    }
    tracing::info!("{folder} is read from its copy {}", copy.display());
    Ok(copy)
}

/// The best checkpoint of a run, else its newest.
fn chosen(store: &dyn Depot, run: &str) -> Result<String> {
    let mut steps = steps(store, run)?;
    let Some((_, newest)) = steps.last().cloned() else {
        return Err(Error::checkpoint("there is no checkpoint or bundle here")
            .at("path", run)
            .fix("name a run, one of its folders `checkpoints/step-NNNNNNNN`, or a bundle"));
    };
    let best = best_of(store, &newest)?;
    steps.retain(|(step, _)| Some(*step) == best);
    Ok(steps.pop().map_or(newest, |(_, folder)| folder))
}

/// Lets `write` make the bundle `out`: there, or for an address in a folder of this machine, which is copied to the store
/// when it is whole and then dropped.
pub fn published<T>(store: &dyn Depot, out: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let Some(to) = out.to_str().filter(|out| is_far(out)) else { return write(out) };
    if to.starts_with("http") {
        refuse_far(out, "a bundle")?;
    }
    if let Some(file) = store.below(to)?.first() {
        return Err(Error::job("the folder for the bundle is not empty")
            .at("path", &file.path)
            .fix("name another folder with --out, or remove this one"));
    }
    let here = cache()?.join(format!("bundle-{}", std::process::id()));
    let written = write(&here).and_then(|written| send_folder(store, &here, to).map(|()| written));
    let _ = std::fs::remove_dir_all(&here);
    written
}

/// A folder of the user's own.
fn cache() -> Result<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    let base = base.ok_or_else(|| Error::job("there is no place for copies").fix("set XDG_CACHE_HOME to a folder"))?;
    let folder = base.join("tandem");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("creating", &folder, &e))?;
    Ok(folder)
}
