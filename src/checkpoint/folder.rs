//! The folder of a run's checkpoints: names, the newest, the best, and which are dropped.

use super::disk::Disk;
use super::manifest::Manifest;
use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub(super) const PREFIX: &str = "step-";
const PARTIAL: &str = ".partial";
const REPLACED: &str = "-replaced.partial";

/// Name of the folder of a whole checkpoint.
pub(super) fn step_name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// `RUN_DIR/checkpoints`, or another folder of steps.
#[derive(Debug, Clone)]
pub struct CheckpointDir {
    path: PathBuf,
    pub(super) disk: Disk,
}

impl CheckpointDir {
    /// The checkpoints of the run folder `run_dir`; the folder need not exist yet.
    pub fn of_run(run_dir: &Path) -> Self {
        Self { path: run_dir.join("checkpoints"), disk: Disk::default() }
    }

    /// The steps in `path`; the folder need not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path, disk: Disk::default() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder of the checkpoint of `step`.
    pub fn step(&self, step: u64) -> PathBuf {
        self.path.join(step_name(step))
    }

    /// Where the checkpoint of `step` is written before it is whole.
    pub fn partial(&self, step: u64) -> PathBuf {
        self.path.join(step_name(step) + PARTIAL)
    }

    /// Where a whole checkpoint of `step` waits while another takes its place.
    fn replaced(&self, step: u64) -> PathBuf {
        self.path.join(step_name(step) + REPLACED)
    }

    /// Moves the whole checkpoint of `step` out of the way of another.
    pub fn put_aside(&self, step: u64) -> Result<()> {
        let (whole, aside) = (self.step(step), self.replaced(step));
        if aside.exists() {
            self.disk.remove(&aside)?;
        }
        self.disk.rename("replacing", &whole, &aside)
    }

    /// Puts back what [`CheckpointDir::put_aside`] moved, where a crash came before its replacement.
    pub fn recover(&self) -> Result<()> {
        for name in self.names()? {
            let step = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(REPLACED)?.parse().ok());
            if let Some(step) = step.filter(|&step| !self.step(step).exists()) {
                let aside = self.replaced(step);
                self.disk.rename("recovering", &aside, &self.step(step))?;
            }
        }
        Ok(())
    }

    /// Names in the folder; none where it does not exist yet.
    fn names(&self) -> Result<Vec<String>> {
        let listing = |e| Error::io("listing", &self.path, &e);
        match std::fs::read_dir(&self.path) {
            Ok(entries) => {
                entries.map(|entry| Ok(entry.map_err(listing)?.file_name().to_string_lossy().into_owned())).collect()
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
            Err(e) => Err(listing(e)),
        }
    }

    /// Steps of the whole checkpoints, ascending.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let names = self.names()?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest whole checkpoint.
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(self.steps()?.last().map(|&step| self.step(step)))
    }

    /// Drops all but the newest `keep` checkpoints and the one of step `best`, and what crashed saves left.
    pub fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        outdated(&self.steps()?, keep, best).try_for_each(|step| self.drop_step(step))?;
        self.sweep()
    }

    /// A folder is renamed before it is emptied, so that no half-dropped one looks whole.
    fn drop_step(&self, step: u64) -> Result<()> {
        let doomed = self.partial(step);
        if doomed.exists() {
            self.disk.remove(&doomed)?;
        }
        self.disk.rename("dropping", &self.step(step), &doomed)?;
        self.disk.remove(&doomed)
    }

    fn sweep(&self) -> Result<()> {
        for name in self.names()?.iter().filter(|name| name.starts_with(PREFIX) && name.ends_with(PARTIAL)) {
            self.disk.remove(&self.path.join(name))?;
        }
        Ok(())
    }
}

/// Of `steps` all but the newest `keep` and `best`.
pub(super) fn outdated(steps: &[u64], keep: usize, best: Option<u64>) -> impl Iterator<Item = u64> {
    let old = &steps[..steps.len().saturating_sub(keep.max(1))];
    old.iter().copied().filter(move |&step| Some(step) != best)
}

/// Finds the checkpoint that the argument `CKPT` of a command means: a checkpoint folder, or a run folder
/// (its best checkpoint, else its newest).
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join(super::manifest::MANIFEST).is_file() {
        return Ok(path.to_path_buf());
    }
    let dir = CheckpointDir::of_run(path);
    let Some(newest) = dir.newest()? else {
        let fix = match path.join("clients").is_dir() {
            true => "name the run of one of its clients, `clients/<name>`",
            false => "name a run folder or a folder `checkpoints/step-NNNNNNNN` of one",
        };
        return Err(Error::checkpoint("there is no checkpoint here").at("path", path.display()).fix(fix));
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
    fn a_crash_between_the_two_halves_of_a_replacement_loses_nothing() {
        let (_run, dir) = run_with(&[10, 20]);
        std::fs::write(dir.step(20).join("old"), "").unwrap();
        for _ in 0..2 {
            dir.put_aside(20).unwrap();
            assert_eq!(dir.steps().unwrap(), [10]);
            dir.recover().unwrap();
            assert_eq!(dir.steps().unwrap(), [10, 20]);
        }
        dir.put_aside(20).unwrap();
        std::fs::create_dir(dir.step(20)).unwrap();
        dir.recover().unwrap();
        assert!(!dir.step(20).join("old").exists(), "the replacement stays");
        dir.put_aside(20).unwrap();
        dir.recover().unwrap();
        assert!(!dir.step(20).join("old").exists(), "what lay aside from before is gone");
        run_with(&[]).1.recover().unwrap();
    }

    #[test]
    fn what_a_crashed_save_left_does_not_keep_a_checkpoint() {
        let (_run, dir) = run_with(&[10, 20]);
        std::fs::create_dir_all(dir.partial(10).join("files")).unwrap();
        dir.prune(1, None).unwrap();
        assert_eq!(dir.names().unwrap(), ["step-00000020"]);
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
