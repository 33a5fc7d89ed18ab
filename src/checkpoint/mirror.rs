//! Copies of a run's checkpoints in an object store, and checkpoints that are there and not here.
//!
//! ```text
//! <copy_to>/checkpoints/step-00000200/…       as in RUN_DIR; the manifest comes last and goes first
//! ```

use super::folder::CheckpointDir;
use super::manifest::{MANIFEST, Manifest};
use crate::comm::{Communicator, collectives};
use crate::data::store::{Store, is_far, read_whole};
use crate::data::transfer::{at, fetch, remove, send};
use crate::error::{Error, Result};
use crate::random;
use std::path::{Path, PathBuf};

const FOLDER: &str = "checkpoints";

/// Copies the whole checkpoint of `step` to the run at `to`, the files in turn by the ranks; then drops those copies there whose
/// checkpoints are gone here. Collective.
pub fn push(comm: &dyn Communicator, store: &dyn Store, dir: &CheckpointDir, to: &str, step: u64) -> Result<()> {
    let local = dir.step(step);
    let manifest = collectives::agree(comm, Manifest::read(&local))?;
    let target = at(&at(to, FOLDER), &folder_name(&local));
    let names: Vec<String> = manifest.files.iter().map(|file| file.name.clone()).collect();
    let mine: Vec<String> = names.into_iter().skip(comm.rank()).step_by(comm.size()).collect();
    collectives::agree(comm, send(store, &local, &target, &mine))?;
    let finish = || {
        send(store, &local, &target, &[MANIFEST.to_string()])?;
        let kept = dir.steps()?;
        let gone = steps(store, to)?.into_iter().filter(|(step, _)| !kept.contains(step));
        gone.map(|(_, folder)| remove(store, &folder, MANIFEST)).collect()
    };
    collectives::agree(comm, if comm.rank() == 0 { finish() } else { Ok(()) })
}

/// Brings the newest checkpoint of the run at `from` here, if there is a newer one than here. Collective.
pub fn pull(comm: &dyn Communicator, store: &dyn Store, dir: &CheckpointDir, from: &str) -> Result<()> {
    let bring = || {
        let here = dir.steps()?.last().copied();
        match steps(store, from)?.pop() {
            Some((step, folder)) if Some(step) > here => {
                std::fs::create_dir_all(dir.path()).map_err(|e| Error::io("creating", dir.path(), &e))?;
                fetch(store, &folder, &dir.step(step), MANIFEST)
            }
            _ => Ok(()),
        }
    };
    collectives::agree(comm, if comm.rank() == 0 { bring() } else { Ok(()) })
}

/// Steps and folders of the whole checkpoints of the run at `of`, ascending.
fn steps(store: &dyn Store, of: &str) -> Result<Vec<(u64, String)>> {
    let folder = at(of, FOLDER);
    let mut found = Vec::new();
    for file in store.below(&folder)? {
        let step = file.path.strip_suffix(&format!("/{MANIFEST}")).and_then(|step| step.rsplit_once('/'));
        let number = step.and_then(|(_, name)| name.strip_prefix("step-")?.parse().ok());
        found.extend(number.map(|number| (number, file.path[..file.path.len() - MANIFEST.len() - 1].to_string())));
    }
    found.sort_unstable();
    Ok(found)
}

fn folder_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path on this machine for what `path` names: itself, or a copy of the checkpoint or bundle that it is the address of; of a run the
/// best checkpoint, else the newest. Copies stay below the user's cache folder, and are taken again for as long as they are the same.
pub fn localised(store: &dyn Store, path: &Path) -> Result<PathBuf> {
    let Some(address) = path.to_str().filter(|path| is_far(path)) else { return Ok(path.to_path_buf()) };
    let vouches = |folder: &str| at(folder, MANIFEST);
    let is_whole =
        |folder: &str| -> Result<bool> { Ok(store.below(folder)?.iter().any(|file| file.path == vouches(folder))) };
    let folder = match is_whole(address)? {
        true => address.trim_end_matches('/').to_string(),
        false => chosen(store, address)?,
    };
    let manifest = read_whole(store, &vouches(&folder))?;
    let id = random::hash(random::text(&folder), &[random::text(&String::from_utf8_lossy(&manifest))]);
    let copy = cache()?.join(format!("{id:016x}"));
    if !copy.join(MANIFEST).is_file() {
        fetch(store, &folder, &copy, MANIFEST)?;
    }
    Ok(copy)
}

/// The best checkpoint of a run, else its newest.
fn chosen(store: &dyn Store, run: &str) -> Result<String> {
    let mut steps = steps(store, run)?;
    let Some((_, newest)) = steps.last().cloned() else {
        return Err(Error::checkpoint("there is no checkpoint here").at("path", run).fix("check the address"));
    };
    let manifest: serde_json::Value = serde_json::from_slice(&read_whole(store, &at(&newest, MANIFEST))?)
        .map_err(|e| Error::checkpoint(format!("the manifest is damaged: {e}")).at("path", &newest))?;
    let best = manifest.pointer("/progress/best/0").and_then(serde_json::Value::as_u64);
    steps.retain(|(step, _)| Some(*step) == best);
    Ok(steps.pop().map_or(newest, |(_, folder)| folder))
}

/// A path of this process alone, for a folder that goes elsewhere when it is whole.
pub fn scratch(name: &str) -> Result<PathBuf> {
    Ok(cache()?.join(format!("{name}-{}", std::process::id())))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::store::Local;

    /// Two checkpoints at a run; of the newer one only files, no manifest.
    fn run() -> (tempfile::TempDir, String) {
        let place = tempfile::tempdir().unwrap();
        for (step, name) in [(3, "dense"), (3, MANIFEST), (20, "dense")] {
            let folder = place.path().join(format!("store/checkpoints/step-{step:08}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), "{}").unwrap();
        }
        let run = place.path().join("store").display().to_string();
        (place, run)
    }

    #[test]
    fn only_whole_copies_count() {
        let (place, run) = run();
        let found: Vec<u64> = steps(&Local, &run).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(found, [3]);
        let dir = CheckpointDir::of_run(&place.path().join("here"));
        pull(&crate::comm::solo::Solo, &Local, &dir, &run).unwrap();
        assert_eq!(dir.steps().unwrap(), [3]);
        assert!(chosen(&Local, &run).unwrap().ends_with("step-00000003"));
        assert_eq!(localised(&Local, Path::new("runs/here")).unwrap(), Path::new("runs/here"));
    }
}
