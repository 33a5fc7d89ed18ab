//! Checkpoints of a run: one is written beside the steps that follow it.

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

impl Saving {
    /// Whether this rank has nothing more to write.
    pub(super) fn is_written(&self) -> bool {
        self.files.is_written()
    }
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

    /// Waits for the checkpoint that is being written, if there is one; then older ones may go. Collective.
    pub(super) fn finish_saving(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(Saving { files, step, best }) = self.saving.take() else { return Ok(()) };
        let (comm, dir) = (self.comm.as_ref(), CheckpointDir::of_run(&self.run_dir));
        self.stages.time(Stage::Checkpoint, || files.finish(comm))?;
        let pruned = if comm.rank() == 0 { dir.prune(self.job.checkpoint.keep, best) } else { Ok(()) };
        collectives::agree(comm, pruned)?;
        let path = dir.step(step).display().to_string();
        self.tell(observer, Notice::Checkpoint(Saved { step, path, best: best == Some(step) }))?;
        self.tell(observer, Notice::Resources(self.resources()?))
    }

    /// Where the run stands, as a checkpoint says it.
    pub(super) fn position(&self) -> persist::Position {
        persist::Position { step: self.step, cursor: self.cursor, progress: self.progress.clone() }
    }
}
