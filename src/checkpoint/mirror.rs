//! Copies of a run's checkpoints at another place, which is an object store as a rule.
//!
//! ```text
//! <copy_to>/checkpoints/step-00000200/…       as in RUN_DIR; the manifest comes last and goes first
//! ```

use super::folder::{CheckpointDir, PREFIX, outdated, step_name};
use super::manifest::{MANIFEST, Manifest};
use super::transfer::{fetch, remove, send};
use crate::comm::{Communicator, collectives};
use crate::data::everywhere::Everywhere;
use crate::data::store::{Depot, at, read_whole};
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Where a run's checkpoints are copied to.
#[derive(Clone)]
pub struct Mirror {
    store: Arc<dyn Depot>,
    run: String,
}

impl Mirror {
    /// The copies at `run`: an address, or a folder of this machine.
    pub fn new(run: &str) -> Self {
        Self { store: Arc::new(Everywhere::default()), run: run.to_string() }
    }

    /// Refuses a place that holds copies of another run. Collective.
    pub fn check_free(&self, comm: &dyn Communicator) -> Result<()> {
        let check = || match self.newest()? {
            None => Ok(()),
            Some(step) => Err(Error::job("`checkpoint.copy_to` already holds checkpoints of a run")
                .at("path", self.folder(step))
                .fix("go on from there with --resume, or name another folder")),
        };
        collectives::agree(comm, if comm.rank() == 0 { check() } else { Ok(()) })
    }

    /// Brings the newest checkpoint to `dir`, and the best that it knows of, if `dir` has none that is as new. Says which
    /// checkpoint of `dir` has no copy yet. Collective.
    pub fn pull(&self, comm: &dyn Communicator, dir: &CheckpointDir) -> Result<Option<u64>> {
        let pulled = if comm.rank() == 0 { self.bring(dir) } else { Ok(None) };
        let mut owed = [collectives::agree(comm, pulled)?.map_or(0, |step| step + 1)];
        collectives::all_reduce_max(comm, &mut owed)?;
        Ok(owed[0].checked_sub(1))
    }

    fn bring(&self, dir: &CheckpointDir) -> Result<Option<u64>> {
        let (there, here) = (self.steps()?, dir.steps()?);
        match (there.last(), here.last()) {
            (None, here) => Ok(here.copied()),
            (Some((there, _)), Some(here)) if there <= here => Ok((there < here).then_some(*here)),
            (Some((newest, folder)), _) => {
                std::fs::create_dir_all(dir.path()).map_err(|e| Error::io("creating", dir.path(), &e))?;
                let best = best_of(self.store.as_ref(), folder)?;
                for (step, folder) in there.iter().filter(|(step, _)| step == newest || Some(*step) == best) {
                    if !here.contains(step) {
                        tracing::info!("fetching the checkpoint {folder}");
                        fetch(self.store.as_ref(), folder, &dir.step(*step))?;
                    }
                }
                Ok(None)
            }
        }
    }

    /// Begins to copy the whole checkpoint of `step`: each rank sends its share of the files, on a thread.
    pub fn begin(&self, comm: &dyn Communicator, dir: &CheckpointDir, step: u64) -> Result<Copying> {
        let (mirror, local, target) = (self.clone(), dir.step(step), self.folder(step));
        let (rank, size) = (comm.rank(), comm.size());
        let send_share = move || {
            let names = Manifest::read(&local)?.files.into_iter().map(|file| file.name);
            let mine: Vec<String> = names.skip(rank).step_by(size).collect();
            send(mirror.store.as_ref(), &local, &target, &mine)
        };
        let thread = std::thread::Builder::new().name("copy".to_string()).spawn(send_share);
        let thread = thread.map_err(|e| Error::internal(format!("no thread can be started to copy: {e}")))?;
        Ok(Copying { mirror: self.clone(), local: dir.step(step), step, thread: Some(thread) })
    }

    /// The step of the newest whole copy.
    pub fn newest(&self) -> Result<Option<u64>> {
        Ok(self.steps()?.last().map(|(step, _)| *step))
    }

    fn folder(&self, step: u64) -> String {
        at(&at(&self.run, "checkpoints"), &step_name(step))
    }

    fn steps(&self) -> Result<Vec<(u64, String)>> {
        steps(self.store.as_ref(), &self.run)
    }

    /// Drops all but the newest `keep` copies and the one of step `best`.
    fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        let steps: Vec<u64> = self.steps()?.into_iter().map(|(step, _)| step).collect();
        outdated(&steps, keep, best).try_for_each(|step| remove(self.store.as_ref(), &self.folder(step)))
    }
}

/// A checkpoint that is being copied; waits for its thread when it is dropped.
pub struct Copying {
    mirror: Mirror,
    local: PathBuf,
    step: u64,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Copying {
    /// Whether this rank's files are there, or could not be copied.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the files of all ranks and makes them a checkpoint at the store; then older ones go there. Collective.
    pub fn finish(mut self, comm: &dyn Communicator, keep: usize, best: Option<u64>) -> Result<()> {
        collectives::agree(comm, self.wait())?;
        let finish = || {
            let Self { mirror, local, step, .. } = &self;
            send(mirror.store.as_ref(), local, &mirror.folder(*step), &[MANIFEST.to_string()])?;
            mirror.prune(keep, best)
        };
        collectives::agree(comm, if comm.rank() == 0 { finish() } else { Ok(()) })
    }

    fn wait(&mut self) -> Result<()> {
        let lost = || Err(Error::internal("the thread that copies the checkpoint panicked"));
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| lost()))
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        let _ = self.wait();
    }
}

/// Steps and folders of the whole checkpoints of the run at `run`, ascending.
pub(super) fn steps(store: &dyn Depot, run: &str) -> Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    for file in store.below(&at(run, "checkpoints"))? {
        let folder = file.path.strip_suffix(&format!("/{MANIFEST}"));
        let name = folder.and_then(|folder| Some((folder, folder.rsplit_once('/')?.1)));
        found.extend(
            name.and_then(|(folder, name)| Some((name.strip_prefix(PREFIX)?.parse().ok()?, folder.to_string()))),
        );
    }
    found.sort_unstable();
    Ok(found)
}

/// The step of the best checkpoint that the one at `folder` knows of.
pub(super) fn best_of(store: &dyn Depot, folder: &str) -> Result<Option<u64>> {
    let manifest: serde_json::Value = serde_json::from_slice(&read_whole(store, &at(folder, MANIFEST))?)
        .map_err(|e| Error::checkpoint(format!("the manifest is damaged: {e}")).at("path", folder))?;
    Ok(manifest.pointer("/progress/best/0").and_then(serde_json::Value::as_u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::solo::Solo;
    use crate::data::store::Local;

    /// Checkpoints at a run, of which the newest knows the best; of one more only a file, no manifest.
    fn run() -> (tempfile::TempDir, Mirror) {
        let place = tempfile::tempdir().unwrap();
        let manifest = r#"{"files": [], "progress": {"best": [3, 0.5]}}"#;
        for (step, name) in [(3, MANIFEST), (5, MANIFEST), (7, MANIFEST), (20, "dense")] {
            let folder = place.path().join(format!("store/checkpoints/step-{step:08}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), manifest).unwrap();
        }
        let mirror = Mirror::new(&place.path().join("store").display().to_string());
        (place, mirror)
    }

    fn found(mirror: &Mirror) -> Vec<u64> {
        steps(&Local, &mirror.run).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn the_newest_and_the_best_come_back() {
        let (place, mirror) = run();
        assert_eq!(found(&mirror), [3, 5, 7], "what has no manifest is not whole");
        let dir = CheckpointDir::of_run(&place.path().join("here"));
        for _ in 0..2 {
            assert_eq!(mirror.pull(&Solo, &dir).unwrap(), None);
            assert_eq!(dir.steps().unwrap(), [3, 7]);
        }
        std::fs::create_dir_all(dir.step(9)).unwrap();
        assert_eq!(mirror.pull(&Solo, &dir).unwrap(), Some(9), "it is newer here, and has no copy");
        assert!(mirror.check_free(&Solo).unwrap_err().to_string().contains("--resume"));
        Mirror::new(&place.path().join("empty").display().to_string()).check_free(&Solo).unwrap();
    }

    #[test]
    fn old_copies_go_by_the_rule_of_the_run_folder() {
        let (_place, mirror) = run();
        mirror.prune(1, Some(3)).unwrap();
        assert_eq!(found(&mirror), [3, 7]);
    }
}
