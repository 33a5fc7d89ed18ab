//! The folder of a run's checkpoints: names, the newest, the best, and which are dropped.

use super::manifest::Manifest;
use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const PREFIX: &str = "step-";
const PARTIAL: &str = ".partial";

/// `RUN_DIR/checkpoints`.
#[derive(Debug, Clone)]
pub struct CheckpointDir {
    path: PathBuf,
}

impl CheckpointDir {
    /// The checkpoints of the run folder `run_dir`; the folder need not exist yet.
    pub fn of_run(run_dir: &Path) -> Self {
        Self { path: run_dir.join("checkpoints") }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder of the checkpoint of `step`.
    pub fn step(&self, step: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{step:08}"))
    }

    /// Where the checkpoint of `step` is written before it is whole.
    pub fn partial(&self, step: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{step:08}{PARTIAL}"))
    }

    /// Where a whole checkpoint of `step` waits while another takes its place.
    pub fn replaced(&self, step: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{step:08}-replaced{PARTIAL}"))
    }

    /// Steps of the whole checkpoints, ascending.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("listing", &self.path, &e)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("listing", &self.path, &e))?;
            let name = entry.file_name();
            if let Some(step) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse().ok()) {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest whole checkpoint.
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(self.steps()?.last().map(|&step| self.step(step)))
    }

    /// Drops all but the newest `keep` checkpoints and the one of step `best`, and what crashed saves left.
    pub fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        let old = &steps[..steps.len().saturating_sub(keep.max(1))];
        for &step in old.iter().filter(|&&step| Some(step) != best) {
            self.drop_step(step)?;
        }
        self.sweep()
    }

    /// A folder is renamed before it is emptied, so that no half-dropped one looks whole.
    fn drop_step(&self, step: u64) -> Result<()> {
        let doomed = self.partial(step);
        std::fs::rename(self.step(step), &doomed).map_err(|e| Error::io("dropping", &self.step(step), &e))?;
        remove(&doomed)
    }

    fn sweep(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.path).map_err(|e| Error::io("listing", &self.path, &e))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| n.starts_with(PREFIX) && n.ends_with(PARTIAL)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).map_err(|e| Error::io("dropping", dir, &e))
}

/// Finds the checkpoint that the argument `CKPT` of a command means: a checkpoint folder, or a run folder
/// (its best checkpoint, else its newest).
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join(super::manifest::MANIFEST).is_file() {
        return Ok(path.to_path_buf());
    }
    let dir = CheckpointDir::of_run(path);
    let Some(newest) = dir.newest()? else {
        return Err(Error::checkpoint("there is no checkpoint here")
            .at("path", path.display())
            .fix("name a run folder or a folder `checkpoints/step-NNNNNNNN` of one"));
    };
    let best = Manifest::read(&newest)?.progress.best.map(|(step, _)| dir.step(step));
    Ok(best.filter(|best| best.is_dir()).unwrap_or(newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(steps: &[u64]) -> (tempfile::TempDir, CheckpointDir) {
        let run = tempfile::tempdir().unwrap();
        let dir = CheckpointDir::of_run(run.path());
        for &step in steps {
            std::fs::create_dir_all(dir.step(step)).unwrap();
        }
        (run, dir)
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let (_run, dir) = run_with(&[10, 20, 30, 40]);
        std::fs::create_dir_all(dir.partial(50)).unwrap();
        dir.prune(2, Some(10)).unwrap();
        assert_eq!(dir.steps().unwrap(), [10, 30, 40]);
        assert!(!dir.partial(50).exists());
    }

    #[test]
    fn the_last_one_is_never_dropped() {
        let (_run, dir) = run_with(&[10, 20]);
        dir.prune(0, None).unwrap();
        assert_eq!(dir.steps().unwrap(), [20]);
    }

    #[test]
    fn a_partial_folder_is_not_a_checkpoint() {
        let (run, dir) = run_with(&[]);
        assert_eq!(dir.steps().unwrap(), Vec::<u64>::new());
        std::fs::create_dir_all(dir.partial(5)).unwrap();
        assert_eq!(dir.newest().unwrap(), None);
        let error = resolve(run.path()).unwrap_err().to_string();
        assert!(error.contains("no checkpoint"), "{error}");
    }
}
