//! What a run does with a step whose numbers are not finite.

use super::Run;
use crate::config::job::NonFinite;
use crate::data::batch::Batch;
use crate::error::{Error, Result};
use crate::observe::Stage;
use crate::train::events::{Notice, Observer, Skipped};
use crate::train::non_finite::{self, Record, Recorded, Refused};
use crate::train::persist;
use crate::train::step::Clock;
use std::path::PathBuf;

/// Of so many steps that a run leaves out it writes down what is needed to take them again; the rest is only counted.
const RECORDED: u64 = 10;

/// A run ends that left out so many steps without one in between that it could take: it is the model that is broken.
const IN_A_ROW: u64 = 20;

impl Run {
    /// Ends the run, or leaves the step out, as the job says. Collective.
    pub(super) fn refused(
        &mut self,
        refused: &Refused,
        batch: &Batch,
        clock: Clock,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let records = self.job.train.non_finite == NonFinite::Stop || self.progress.skipped < RECORDED;
        let path = if records { self.record(refused, batch, clock) } else { None };
        self.refused_in_a_row += 1;
        if self.job.train.non_finite == NonFinite::Stop {
            return Err(refused.error(self.step, path.as_deref()));
        }
        if self.refused_in_a_row == IN_A_ROW {
            let error = refused.error(self.step, path.as_deref());
            return Err(error.within("steps left out in a row", IN_A_ROW));
        }
        self.progress.skipped += 1;
        let epoch = self.cursor.epoch;
        self.advance();
        if self.cursor.epoch > epoch {
            self.warn_of_unlabelled();
        }
        let path = path.map(|path| path.display().to_string());
        let finding = refused.finding.clone();
        self.tell(observer, Notice::Skipped(Skipped { step: self.step, epoch, finding, path }))
    }

    /// Writes down what is needed to take the step again, as far as that can be written: the finding is worth more than
    /// its record.
    fn record(&mut self, refused: &Refused, batch: &Batch, clock: Clock) -> Option<PathBuf> {
        let Clock { step, steps_per_epoch, total_steps } = clock;
        let position = self.position();
        let Self { comm, trainable, job, statistics, train, run_dir, stages, .. } = self;
        let context = persist::Context { job, statistics, data: train.fingerprint(), position };
        let record =
            Record { step, steps_per_epoch, total_steps, ranks: comm.size(), finding: refused.finding.clone() };
        let recorded = Recorded { trainable, context, batch, plan: &train.plan, record };
        let written = stages.time(Stage::Checkpoint, || non_finite::write(comm, run_dir, recorded));
        written.map_err(|error| self.warn_of_no_record(&error)).ok()
    }

    fn warn_of_no_record(&self, error: &Error) {
        if self.comm.rank() == 0 {
            tracing::warn!("the step cannot be replayed, since its rows could not be written: {error}");
        }
    }
}
