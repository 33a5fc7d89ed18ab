//! Checkpoints of a run: one is written beside the steps that follow it, and then copied.

use super::Run;
use crate::checkpoint::{self, CheckpointDir};
use crate::comm::collectives;
use crate::error::Result;
use crate::observe::Stage;
use crate::train::events::{Notice, Observer, Saved};
use crate::train::persist;

/// A checkpoint that is being written.
pub(super) struct Saving {
    files: checkpoint::Saving,
    step: u64,
    /// Step of the best evaluation as this checkpoint knows it: it must not go before a newer checkpoint is there.
    best: Option<u64>,
}

/// A checkpoint that is being copied to where the job wants it.
pub(super) struct Copying {
    files: checkpoint::Copying,
    step: u64,
    best: Option<u64>,
}

impl Run {
    /// Takes a snapshot and begins to write it, once the checkpoint before it is there. Collective.
    pub(super) fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.finish_saving(observer)?;
        let dir = CheckpointDir::of_run(&self.run_dir);
        let position = self.position();
        let Self { comm, trainable, job, statistics, train, stages, .. } = self;
        let context = persist::Context { job, statistics, data: train.fingerprint(), position };
        let files = stages.time(Stage::Checkpoint, || persist::save(comm.as_ref(), &dir, trainable, context, None))?;
        let best = self.progress.best.map(|(step, _)| step);
        self.saving = Some(Saving { files, step: self.step, best });
        self.saved = Some(self.step);
        Ok(())
    }

    /// Whether this rank has files of a checkpoint to write or to copy.
    pub(super) fn is_writing(&self) -> bool {
        let writes = self.saving.as_ref().is_some_and(|saving| !saving.files.is_written());
        writes || self.copying.as_ref().is_some_and(|copying| !copying.files.is_done())
    }

    /// Finishes what is written and copied, once no rank has more to do. Collective.
    pub(super) fn finish_writing(&mut self, observer: &mut dyn Observer) -> Result<()> {
        match self.saving {
            Some(_) => self.finish_saving(observer),
            None => self.copied_or_warned(),
        }
    }

    /// Waits for the checkpoint that is being written, if there is one; then older ones may go. Its copy begins. Collective.
    pub(super) fn finish_saving(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(Saving { files, step, best }) = self.saving.take() else { return Ok(()) };
        // The one that is copied may be dropped now.
        self.copied_or_warned()?;
        let (comm, dir) = (self.comm.as_ref(), CheckpointDir::of_run(&self.run_dir));
        self.stages.time(Stage::Checkpoint, || files.finish(comm))?;
        let pruned = if comm.rank() == 0 { dir.prune(self.job.checkpoint.keep, best) } else { Ok(()) };
        collectives::agree(comm, pruned)?;
        self.copy(step, best)?;
        let path = dir.step(step).display().to_string();
        self.tell(observer, Notice::Checkpoint(Saved { step, path, best: best == Some(step) }))?;
        self.tell(observer, Notice::Resources(self.resources()?))
    }

    /// Begins to copy the whole checkpoint of `step`, if the job wants that. Collective.
    pub(super) fn copy(&mut self, step: u64, best: Option<u64>) -> Result<()> {
        let Some(mirror) = &self.mirror else { return Ok(()) };
        let dir = CheckpointDir::of_run(&self.run_dir);
        let files = collectives::agree(self.comm.as_ref(), mirror.begin(self.comm.as_ref(), &dir, step))?;
        self.copying = Some(Copying { files, step, best });
        Ok(())
    }

    /// Waits for the copy that is being made, if there is one; then older ones may go. Collective.
    pub(super) fn finish_copying(&mut self) -> Result<()> {
        let Some(Copying { files, step, best }) = self.copying.take() else { return Ok(()) };
        let (comm, keep) = (self.comm.as_ref(), self.job.checkpoint.keep);
        self.stages.time(Stage::Checkpoint, || files.finish(comm, keep, best)).map_err(|error| {
            error.within("copying step", step).and_fix("the checkpoint is whole here: `--resume` copies it, too")
        })
    }

    /// A store that cannot be reached is no reason to stop: the next checkpoint will be copied, and a run whose last one
    /// could not be ends with an error.
    fn copied_or_warned(&mut self) -> Result<()> {
        match self.finish_copying() {
            Err(error) if error.is_agreed() || self.comm.size() == 1 => {
                if self.comm.rank() == 0 {
                    tracing::warn!("a checkpoint has no copy: {error}");
                }
                Ok(())
            }
            finished => finished,
        }
    }

    /// Where the run stands, as a checkpoint says it.
    pub(super) fn position(&self) -> persist::Position {
        persist::Position { step: self.step, cursor: self.cursor, progress: self.progress.clone() }
    }
}
