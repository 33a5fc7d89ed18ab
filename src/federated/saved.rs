//! What a resumed federation needs beside its clients' checkpoints.
//!
//! ```text
//! RUN_DIR/
//!   clients/<name>/checkpoints/step-…    each client's own, as of an ordinary run
//!   rounds/round-000004/
//!     round.json                         rounds done, each client's step, shares, the best round
//!     vectors.safetensors                each unit's mean and last updates
//! ```
//!
//! A round's folder is written when all clients have saved, aside and renamed: it is what makes their checkpoints belong together. A
//! run that is killed before goes on from the round before, whose checkpoints are still there.

use super::unit::Shared;
use crate::checkpoint::{Data, Disk, FileEntry, Named, Progress, TensorFile, write_tensors};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const VECTORS: &str = "vectors.safetensors";
const ROUND: &str = "round.json";

/// `round.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Rounds done.
    pub round: u64,
    /// The method.
    pub method: String,
    /// Names of the clients and the steps that they have taken.
    pub clients: Vec<(String, u64)>,
    /// Each unit.
    pub units: Vec<SavedUnit>,
    /// Best round and early stopping.
    pub progress: Progress,
    /// The file of the vectors.
    pub vectors: FileEntry,
}

/// A unit in `round.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedUnit {
    /// Its name.
    pub name: String,
    /// Shares of the clients.
    pub shares: Vec<f64>,
    /// Number of its last updates.
    pub updates: usize,
}

impl SavedUnit {
    /// What is saved of `shared`.
    pub fn of(shared: &Shared) -> Self {
        Self { name: shared.unit.name.clone(), shares: shared.shares.clone(), updates: shared.updates.len() }
    }
}

/// The folder of `round`.
fn folder(run_dir: &Path, round: u64) -> PathBuf {
    run_dir.join("rounds").join(format!("round-{round:06}"))
}

/// Whole rounds in the folder, ascending.
fn rounds(run_dir: &Path) -> Result<Vec<u64>> {
    let dir = run_dir.join("rounds");
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let listing = |e| Error::io("listing", &dir, &e);
    let mut rounds = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(listing)? {
        let name = entry.map_err(listing)?.file_name().to_string_lossy().into_owned();
        rounds.extend(name.strip_prefix("round-").and_then(|number| number.parse::<u64>().ok()));
    }
    rounds.sort_unstable();
    Ok(rounds)
}

/// Writes what follows the round; on rank 0, when all clients have saved. Earlier rounds are dropped then.
pub fn write(run_dir: &Path, mut saved: Saved, units: &[Shared]) -> Result<()> {
    let whole = folder(run_dir, saved.round);
    let (partial, disk) = (whole.with_extension("partial"), Disk::default());
    if partial.exists() {
        disk.remove(&partial)?;
    }
    disk.create_dir(&partial)?;
    let tensors: Vec<Named> = units.iter().flat_map(tensors_of).collect();
    saved.vectors = write_tensors(&disk, &partial, VECTORS, &tensors)?;
    let text = serde_json::to_vec_pretty(&saved).map_err(|e| Error::internal(format!("round.json: {e}")))?;
    disk.write(&partial.join(ROUND), &[&text])?;
    disk.sync_dir(&partial)?;
    if whole.exists() {
        disk.remove(&whole)?;
    }
    disk.rename("finishing", &partial, &whole)?;
    disk.sync_dir(&run_dir.join("rounds"))?;
    for old in rounds(run_dir)?.into_iter().filter(|&round| round < saved.round) {
        disk.remove(&folder(run_dir, old))?;
    }
    Ok(())
}

fn tensors_of<'a>(shared: &'a Shared) -> Vec<Named<'a>> {
    let named = |what: String, values: &'a [f32]| {
        let name = format!("{}.{what}", shared.unit.name);
        Named { name, shape: vec![shared.unit.len], data: Data::F32(values.into()) }
    };
    let updates = shared.updates.iter().enumerate().map(|(i, update)| named(format!("update.{i}"), update.as_slice()));
    std::iter::once(named("mean".to_string(), shared.mean.as_slice())).chain(updates).collect()
}

/// The newest whole round, if there is one.
pub fn newest(run_dir: &Path) -> Result<Option<Saved>> {
    let Some(&round) = rounds(run_dir)?.last() else { return Ok(None) };
    let path = folder(run_dir, round).join(ROUND);
    let text = std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
    let saved = serde_json::from_slice(&text)
        .map_err(|e| Error::checkpoint(format!("the round is damaged: {e}")).at("file", path.display()))?;
    Ok(Some(saved))
}

/// Restores the units of the round `saved`.
pub fn restore(run_dir: &Path, saved: &Saved, units: &mut [Shared]) -> Result<()> {
    let file = TensorFile::read(&folder(run_dir, saved.round), &saved.vectors)?;
    let tensors = file.tensors()?;
    if saved.units.len() != units.len() {
        return Err(other_job(format!("{} units were shared, the job shares {}", saved.units.len(), units.len())));
    }
    for (shared, SavedUnit { name, shares, updates }) in units.iter_mut().zip(&saved.units) {
        let unit = &shared.unit.name;
        let vector = |what: &str| {
            let values = tensors.get::<f32>(&format!("{unit}.{what}"))?;
            match values.len() == shared.unit.len {
                true => Ok(values),
                false => {
                    Err(other_job(format!("unit `{unit}` had {} numbers, and has {}", values.len(), shared.unit.len)))
                }
            }
        };
        if name != unit || shares.len() != shared.shares.len() {
            return Err(other_job(format!("unit `{name}` was shared where the job shares `{unit}`")));
        }
        let mean = vector("mean")?;
        shared.updates = (0..*updates).map(|i| vector(&format!("update.{i}"))).collect::<Result<_>>()?;
        shared.mean = mean;
        shared.shares.copy_from_slice(shares);
    }
    Ok(())
}

fn other_job(what: String) -> Error {
    Error::checkpoint(what)
        .fix("set `federated` and `model` back to go on with this run, or train anew in another --run-dir")
}
