//! A run: epochs of steps, evaluations, early stopping, checkpoints.

mod local;
mod meter;
mod prepare;
mod refused;
mod saving;

use super::dataset::Dataset;
use super::events::{Data, End, Evaluation, Notice, Observer, Split, Start, Step};
use super::goal::Goal;
use super::init;
use super::resources::{self, Resources};
use super::step::{Asks, Clock, StepInput, StepReport, Stepped, Trainable};
use super::trained::Trained;
use crate::balance::conflict::Conflict;
use crate::checkpoint::{CheckpointDir, Mirror, Progress};
use crate::comm::{Comm, collectives};
use crate::config::Every;
use crate::config::job::{Job, LogConflict};
use crate::data::batch::Batch;
use crate::data::lanes::{Cursor, Layout, Order};
use crate::data::loader::Loader;
use crate::data::statistics::Statistics;
use crate::error::Result;
use crate::metric::Report;
use crate::nn::Kernels;
use crate::observe::{Environment, Stage, Stages, json_line};
use crate::optim::Schedule;
use crate::pulse;
pub use local::Local;
use meter::Meter;
pub use prepare::Begin;
use saving::{Copying, Saving};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All planned steps were taken.
    Done,
    /// The metric of `train.eval.stop` did not improve any more.
    EarlyStop,
    /// A rank was asked to stop; a checkpoint was saved.
    Signal,
}

impl Ending {
    /// As it stands in `metrics.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::EarlyStop => "early_stop",
            Self::Signal => "signal",
        }
    }
}

/// What came of a step, to the run.
struct Took {
    /// What any rank asks for.
    asks: Asks,
    /// `None` if it was left out.
    report: Option<StepReport>,
}

/// A run that is ready for its next step.
pub struct Run {
    comm: Comm,
    /// The job, with everything that was left to tandem filled in.
    pub job: Job,
    /// Everything that is trained.
    pub trainable: Trainable,
    /// Where the time goes.
    pub stages: Stages,
    run_dir: PathBuf,
    train: Dataset,
    valid: Option<Dataset>,
    test: Option<Dataset>,
    layout: Layout,
    statistics: Arc<Statistics>,
    schedule: Box<dyn Schedule>,
    total_steps: u64,
    step: u64,
    cursor: Cursor,
    progress: Progress,
    /// Step of the last snapshot that was taken for a checkpoint.
    saved: Option<u64>,
    saving: Option<Saving>,
    /// Where checkpoints are copied to, if the job says so.
    mirror: Option<Mirror>,
    /// Step of the checkpoint that the run was resumed from, if it has no copy there.
    uncopied: Option<u64>,
    copying: Option<Copying>,
    /// Steps that were left out one after another, up to the last.
    refused_in_a_row: u64,
    /// What `init_from` brought, unless the run was resumed.
    begun_with: Option<init::Report>,
    /// Whether each task has had a labelled row in this epoch, or since the run was resumed.
    labelled: Vec<bool>,
    /// How the tasks' gradients agreed since this process began.
    conflict: Conflict,
    best: Goal,
    stop: Option<Goal>,
}

impl Run {
    /// The sizes of the run.
    pub fn start_notice(&self, threads: usize) -> Start {
        Start {
            job: self.job.name.clone(),
            step: self.step,
            total_steps: self.total_steps,
            steps_per_epoch: self.layout.steps(),
            ranks: self.comm.size(),
            lanes: self.layout.lanes,
            threads,
            backend: self.comm.backend(),
            epochs: self.job.train.epochs as u64,
            rows: self.layout.rows,
            global_batch: self.job.train.global_batch,
            dense_parameters: self.trainable.store.len(),
            trained_parameters: self.trainable.store.trained_len(),
            shared_parameters: self.trainable.dense.shared_len(),
            init_from: self.begun_with.clone(),
            lr: self.trainable.dense.lr(),
            data: Data {
                train: Split::from(self.train.plan.as_ref()),
                valid: self.valid.as_ref().map(|valid| Split::from(valid.plan.as_ref())),
                test: self.test.as_ref().map(|test| Split::from(test.plan.as_ref())),
            },
            environment: Environment::here(),
            products: match self.job.kernels {
                Kernels::Fused => self.job.precision.unit(),
                Kernels::Reference => "f32 by the reference kernels",
            },
        }
    }

    /// Trains to the end, or until `stop_asked` answers true on some rank. `observer` is told on rank 0.
    pub fn train(&mut self, observer: &mut dyn Observer, stop_asked: &dyn Fn() -> bool) -> Result<Ending> {
        let ended = self.train_on(observer, stop_asked);
        // What ended the run does not take the checkpoint that is being written, if all ranks know that it ended.
        if ended.as_ref().is_err_and(|error| error.is_agreed() || self.comm.size() == 1) {
            let _ = self.finish_saving(observer).and_then(|()| self.finish_copying());
        }
        ended
    }

    fn train_on(&mut self, observer: &mut dyn Observer, stop_asked: &dyn Fn() -> bool) -> Result<Ending> {
        let began = Instant::now();
        let mut meter = Meter::new();
        if let Some(step) = self.uncopied.take() {
            self.copy(step, self.progress.best.map(|(step, _)| step))?;
        }
        // A run that was stopped by a signal may owe an evaluation; one that stopped early stays stopped.
        let mut ending = if self.step > 0 { self.settle(observer)? } else { None };
        let mut ahead = None;
        while ending.is_none() && self.step < self.total_steps {
            meter.paused(|| self.reassign_rows())?;
            let mut loader = match ahead.take() {
                Some(loader) => loader,
                None => self.loader(self.cursor)?,
            };
            let mut upcoming = self.next_batch(&mut loader)?;
            while let Some(batch) = upcoming {
                // An error of the next rows ends the run when their turn comes: this step is sound.
                let next = if self.step + 1 < self.total_steps { self.next_batch(&mut loader) } else { Ok(None) };
                let batches = (&batch, next.as_ref().ok().and_then(Option::as_ref));
                let took = self.one_step(batches, stop_asked(), &mut meter, observer)?;
                loader.recycle(batch);
                if ahead.is_none() && self.epoch_ends_soon() {
                    ahead = Some(self.loader(Cursor { epoch: self.cursor.epoch + 1, taken: 0 })?);
                }
                ending = meter.paused(|| self.after_step(took.asks, observer))?;
                if ending.is_some() || self.step == self.total_steps {
                    break;
                }
                upcoming = next?;
            }
        }
        self.trainable.embeddings.call_off(self.comm.as_ref())?;
        if self.saved != Some(self.step) {
            self.save(observer)?;
        }
        self.finish_saving(observer)?;
        self.finish_copying()?;
        let ending = ending.unwrap_or(Ending::Done);
        let (seconds, conflict) = (began.elapsed().as_secs_f64(), self.conflict.report(&self.task_names()));
        let skipped = self.progress.skipped;
        let end = End { step: self.step, reason: ending.name(), seconds, skipped, conflict };
        self.tell(observer, Notice::End(end))?;
        Ok(ending)
    }

    /// Assigns the rows' classes anew, if an epoch begins for which that is due.
    fn reassign_rows(&mut self) -> Result<()> {
        let Cursor { epoch, taken } = self.cursor;
        let Some(mut classes) = self.trainable.row_classes.take_if(|classes| taken == 0 && classes.due(epoch)) else {
            return Ok(());
        };
        let _time = self.stages.guard(Stage::Eval);
        let (batch, trainable) = (self.job.train.eval.global_batch, &mut self.trainable);
        let assigned = classes.reassign(&self.comm, &self.train, trainable, &self.statistics, batch, epoch);
        self.trainable.row_classes = Some(classes);
        assigned
    }

    /// With the batch of this step, and that of the next if it is at hand.
    fn one_step(
        &mut self,
        (batch, next): (&Batch, Option<&Batch>),
        stop: bool,
        meter: &mut Meter,
        observer: &mut dyn Observer,
    ) -> Result<Took> {
        let lr_factor = self.schedule.factor(self.step, self.total_steps);
        let clock = Clock { step: self.step, steps_per_epoch: self.layout.steps(), total_steps: self.total_steps };
        let looks = match self.job.train.log_conflict {
            LogConflict::Auto => self.logs(self.step + 1),
            LogConflict::EveryStep => true,
            LogConflict::Never => false,
        };
        let asks = Asks { stop, wait: self.is_writing() };
        let input = StepInput { batch, next, plan: &self.train.plan, clock, lr_factor, asks, looks };
        let rows = self.layout.rows_in_step(self.cursor.taken);
        let report = match self.trainable.step(&self.comm, &input, &self.stages)? {
            Stepped::Taken(report) => report,
            Stepped::Refused(refused) => {
                meter.rows += rows;
                meter.paused(|| self.refused(&refused, batch, clock, observer))?;
                return Ok(Took { asks: refused.asks, report: None });
            }
        };
        self.refused_in_a_row = 0;
        self.count_conflict(&report);
        meter.rows += rows;
        let epoch = self.cursor.epoch;
        json_line::set_step(self.step + 1);
        self.labelled.iter_mut().zip(&report.present).for_each(|(any, &present)| *any |= present);
        self.advance();
        if self.cursor.epoch > epoch {
            self.warn_of_unlabelled();
        }
        if self.logs(self.step) {
            let mut event = Step::new(self.step, epoch, meter.lap(), lr_factor, &self.task_names(), &report);
            event.table_rows = resources::table_rows(self.comm.as_ref(), &self.trainable.embeddings)?;
            self.tell(observer, Notice::Step(event))?;
        }
        if self.comm.rank() == 0 {
            observer.tick(epoch, self.step, rows, &report.losses);
        }
        Ok(Took { asks: report.asks, report: Some(report) })
    }

    /// Whether a `step` event is told once `step` steps are taken.
    fn logs(&self, step: u64) -> bool {
        step.is_multiple_of(self.job.train.log_every.max(1)) || step == 1 || step == self.total_steps
    }

    /// Counts what the step saw, if that is what the method looks at: a table of both would tell nothing.
    fn count_conflict(&mut self, report: &StepReport) {
        let Some((scope, gram)) = &report.compared else { return };
        if self.trainable.balance.scope.is_none_or(|own| own == *scope) {
            self.conflict.add(*scope, gram, &report.weights);
        }
    }

    /// What follows a step; says whether the run ends here. A checkpoint whose files are written on all ranks gets its name.
    /// A signal leaves no time to evaluate: that is made up for when the run is resumed.
    fn after_step(&mut self, asks: Asks, observer: &mut dyn Observer) -> Result<Option<Ending>> {
        if !asks.wait {
            self.finish_writing(observer)?;
        }
        if asks.stop {
            return Ok(Some(Ending::Signal));
        }
        self.settle(observer)
    }

    /// Evaluates and saves, if that is due at this step and not done yet; says whether the run ends here.
    fn settle(&mut self, observer: &mut dyn Observer) -> Result<Option<Ending>> {
        let (step, per_epoch) = (self.step, self.layout.steps());
        let due = move |every: Every| every.steps(per_epoch).is_some_and(|every| step.is_multiple_of(every));
        let every = self.job.train.eval.every;
        let last = step == self.total_steps && every != Every::Never;
        let evaluates = self.valid.is_some() && (last || due(every)) && self.progress.evaluated != Some(step);
        let improved = evaluates && self.validate(observer)?;
        // A checkpoint that was saved before the evaluation knows nothing of it.
        let saves = if self.saved == Some(step) { evaluates } else { improved || due(self.job.checkpoint.every) };
        if saves {
            self.save(observer)?;
        }
        let stop = self.job.train.eval.stop.as_ref();
        let stale = stop.is_some_and(|stop| self.progress.stale >= stop.patience.max(1));
        Ok(stale.then_some(Ending::EarlyStop))
    }

    /// Evaluates the best checkpoint of the run on `data.test`, if there is one.
    pub fn test(&mut self, observer: &mut dyn Observer) -> Result<Option<Report>> {
        let Some(test) = self.test.clone() else { return Ok(None) };
        let step = self.progress.best.map_or(self.step, |(step, _)| step);
        let began = Instant::now();
        let batch = self.job.train.eval.global_batch;
        let report = if step == self.step {
            test.evaluate(&self.comm, &mut self.trainable, &self.statistics, batch, &self.stages)?
        } else {
            let path = CheckpointDir::of_run(&self.run_dir).step(step);
            let mut best = Trained::load(&self.comm, &path)?;
            test.evaluate(&self.comm, &mut best.trainable, &best.statistics, batch, &self.stages)?
        };
        self.announce("test", step, &test, began, &report, observer)?;
        Ok(Some(report))
    }

    fn loader(&self, cursor: Cursor) -> Result<Loader> {
        let order = Order::shuffled(self.job.seed, self.job.data.shuffle_window);
        self.train.loader(&self.comm, &self.statistics, self.layout, order, cursor, self.job.data.prefetch)
    }

    /// Whether this epoch's last batches are being decoded and another epoch follows. Its loader is started then,
    /// so that every lane has opened its first row group before the next step, or during the evaluation between.
    fn epoch_ends_soon(&self) -> bool {
        let left = self.layout.steps_after(self.cursor.taken);
        self.cursor.taken > 0 && left <= self.job.data.prefetch as u64 && self.step + left < self.total_steps
    }

    /// The next batch of this rank, or the error of any rank's.
    fn next_batch(&self, loader: &mut Loader) -> Result<Option<Batch>> {
        let next = self.stages.time(Stage::DecodeWait, || loader.next());
        self.stages.time(Stage::Exchange, || collectives::agree(self.comm.as_ref(), next))
    }

    /// Moves the cursor over one step.
    fn advance(&mut self) {
        self.step += 1;
        pulse::step(self.step);
        self.cursor.taken += self.layout.rows_per_lane as u64;
        if self.layout.steps_after(self.cursor.taken) == 0 {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, taken: 0 };
        }
    }

    /// Evaluates on `data.valid`; says whether it is the best so far.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<bool> {
        let Some(valid) = self.valid.clone() else { return Ok(false) };
        let began = Instant::now();
        let batch = self.job.train.eval.global_batch;
        let report = valid.evaluate(&self.comm, &mut self.trainable, &self.statistics, batch, &self.stages)?;
        self.announce("valid", self.step, &valid, began, &report, observer)?;
        self.progress.evaluated = Some(self.step);
        let better = self.best.better(&report.tasks, self.progress.best.map(|(_, best)| best))?;
        if let Some(value) = better {
            self.progress.best = Some((self.step, value));
        }
        if let Some(goal) = &self.stop {
            match goal.better(&report.tasks, self.progress.stop_best)? {
                Some(value) => (self.progress.stop_best, self.progress.stale) = (Some(value), 0),
                None => self.progress.stale += 1,
            }
        }
        Ok(better.is_some())
    }

    fn announce(
        &self,
        split: &'static str,
        step: u64,
        data: &Dataset,
        began: Instant,
        report: &Report,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let samples_per_s = data.plan.rows as f64 / began.elapsed().as_secs_f64();
        let report = report.clone();
        self.tell(observer, Notice::Eval(Evaluation { step, epoch: self.cursor.epoch, split, report, samples_per_s }))
    }

    /// What this process has taken so far. Collective.
    pub fn resources(&self) -> Result<Resources> {
        Resources::gather(self.comm.as_ref(), self.step, &self.stages, &self.trainable)
    }

    /// Tells `observer` on rank 0; its failure is everybody's. Collective.
    pub fn tell(&self, observer: &mut dyn Observer, notice: Notice) -> Result<()> {
        let told = if self.comm.rank() == 0 { observer.notice(&notice) } else { Ok(()) };
        collectives::agree(self.comm.as_ref(), told)
    }

    /// A task without labels costs time and learns nothing, and no metric of it says so.
    fn warn_of_unlabelled(&mut self) {
        let tasks = self.job.tasks.iter().zip(&self.trainable.tasks);
        for ((task, spec), labelled) in tasks.zip(&mut self.labelled) {
            if self.comm.rank() == 0 && spec.trained() && !*labelled {
                let name = &task.name;
                match (&task.label, &task.pair) {
                    (Some(label), _) => tracing::warn!(
                        "task `{name}` had no labelled row in this epoch: is its column `{label}` all null, or its \
                         `where` never true?"
                    ),
                    (None, pair) => tracing::warn!(
                        "task `{name}` had no pair in this epoch: is one of {} all null, or its `where` never true?",
                        pair.as_ref().map_or(String::new(), |[left, right]| format!("`{left}` and `{right}`"))
                    ),
                }
            }
            *labelled = false;
        }
    }

    fn task_names(&self) -> Vec<String> {
        self.job.tasks.iter().map(|t| t.name.clone()).collect()
    }
}
