//! Before the first step: footers, statistics, the model, and what a checkpoint brings back.

use super::Run;
use crate::balance::conflict::Conflict;
use crate::checkpoint::{CheckpointDir, Manifest, Mirror, Progress};
use crate::comm::{Comm, collectives};
use crate::config::Checked;
use crate::config::job::Job;
use crate::data::lanes::{Cursor, Layout};
use crate::data::scenarios::Scenarios;
use crate::data::schema::Purpose;
use crate::data::statistics::Statistics;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::observe::Stages;
use crate::optim::{self, Schedule};
use crate::train::dataset::Dataset;
use crate::train::freeze::Frozen;
use crate::train::goal::Goal;
use crate::train::init::Init;
use crate::train::pretrained::{self, Pretrained};
use crate::train::row_classes::RowClasses;
use crate::train::step::Trainable;
use crate::train::trained::saved_job;
use crate::train::{persist, ranks, setup};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Run {
    /// Reads the footers and the statistics, builds the model and, with `resume`, restores the newest
    /// whole checkpoint of `run_dir`; without one, begins with that of `init_from`. Collective.
    pub fn prepare(comm: Comm, job: Checked, store: Arc<dyn Store>, run_dir: &Path, resume: bool) -> Result<Self> {
        Self::prepare_from(comm, job, store, run_dir, if resume { Begin::Newest } else { Begin::New })
    }

    /// [`Run::prepare`], from a chosen checkpoint. Collective.
    pub fn prepare_from(comm: Comm, job: Checked, store: Arc<dyn Store>, run_dir: &Path, begin: Begin) -> Result<Self> {
        let mut job = job.into_job();
        if ranks::of_job(&job, comm.size())? != comm.size() {
            return Err(Error::internal("a reproducible job was begun on other ranks than its virtual ones").agreed());
        }
        let stages = Stages::start();
        let dir = CheckpointDir::of_run(run_dir);
        let recovered = if comm.rank() == 0 { dir.recover() } else { Ok(()) };
        collectives::agree(comm.as_ref(), recovered)?;
        let mirror = job.checkpoint.copy_to.as_deref().map(Mirror::new);
        let uncopied = match (&mirror, begin) {
            (Some(mirror), Begin::Newest) => mirror.pull(comm.as_ref(), &dir)?,
            (Some(mirror), _) => mirror.check_free(comm.as_ref()).map(|()| None)?,
            (None, _) => None,
        };
        let newest = collectives::agree(comm.as_ref(), starting_point(&dir, begin))?;
        let manifest =
            newest.as_deref().map(|path| collectives::agree(comm.as_ref(), Manifest::read(path))).transpose()?;
        let init = job.init_from.as_ref().filter(|_| manifest.is_none());
        let init = init.map(|from| Init::read(&comm, from)).transpose()?;

        let pretrained = match &manifest {
            Some(manifest) => {
                saved_job(manifest).and_then(|saved| pretrained::as_saved(&mut job, &saved)).map(|()| None)
            }
            None => Pretrained::open(&mut job).map(Some),
        };
        let pretrained = collectives::agree(comm.as_ref(), pretrained)?;

        let open = |paths, purpose| Dataset::open(&comm, &store, &job, paths, purpose);
        let mut train =
            open(Some(&job.data.train), Purpose::Train)?.ok_or_else(|| Error::internal("no training data"))?;
        let mut valid = open(job.data.valid.as_ref(), Purpose::Evaluate)?;
        let mut test = open(job.data.test.as_ref(), Purpose::Evaluate)?;
        let frozen = match &manifest {
            Some(manifest) => Ok(Frozen::of_checkpoint(manifest)),
            None => Frozen::of_job(&job, init.as_ref().map(Init::manifest)),
        };
        let frozen = collectives::agree(comm.as_ref(), frozen)?;
        let saved = manifest.as_ref().map(persist::statistics).transpose();
        let saved = collectives::agree(comm.as_ref(), saved)?;
        // What the job alone decides comes before the first pass over the data. Where that pass numbers the scenarios, the
        // model is built again for them.
        let build = |job: &mut Job, statistics: Option<&Statistics>| {
            collectives::agree(comm.as_ref(), Parts::build(&comm, job, &train, frozen.clone(), statistics))
        };
        let mut parts = build(&mut job, saved.as_ref())?;
        let (statistics, matches) = match (saved, &init) {
            (Some(statistics), _) => (statistics, None),
            (None, Some(init)) => {
                let (statistics, matches) = init.statistics(&comm, &job, &train)?;
                (statistics, Some(matches))
            }
            (None, None) => (train.statistics(&comm)?, None),
        };
        if manifest.is_none() && job.data.scenario.is_some() {
            parts = build(&mut job, Some(&statistics))?;
        }
        let Parts { layout, schedule, mut trainable, best, stop } = parts;
        if let Some(wanted) = trainable.model.row_classes() {
            let classes = RowClasses::random(wanted, &train.plan, job.seed);
            trainable.row_classes = Some(collectives::agree(comm.as_ref(), classes)?);
        }
        let begun_with = match (&init, matches) {
            (Some(init), Some(matches)) => Some(init.load(&comm, &mut trainable, matches)?),
            _ => None,
        };
        if let Some(pretrained) = pretrained {
            pretrained.fill(&comm, &mut job, &mut trainable)?;
        }
        let statistics = Arc::new(statistics);
        let relations = train.collect_relations(&comm, &statistics)?;
        for split in [Some(&mut train), valid.as_mut(), test.as_mut()].into_iter().flatten() {
            split.relations = relations.clone();
        }
        let mut run = Self {
            trainable,
            best,
            stop,
            saved: None,
            saving: None,
            mirror,
            uncopied,
            copying: None,
            refused_in_a_row: 0,
            begun_with,
            labelled: vec![false; job.tasks.len()],
            conflict: Conflict::default(),
            total_steps: total_steps(&job, layout.steps()),
            run_dir: run_dir.to_path_buf(),
            step: 0,
            cursor: Cursor::default(),
            progress: Progress::default(),
            comm,
            job,
            stages,
            train,
            valid,
            test,
            layout,
            statistics,
            schedule,
        };
        if let (Some(path), Some(manifest)) = (newest, manifest) {
            run.restore(&path, &manifest)?;
        }
        Ok(run)
    }

    fn restore(&mut self, path: &Path, manifest: &Manifest) -> Result<()> {
        let comm = self.comm.clone();
        collectives::agree(comm.as_ref(), persist::check_same_job(manifest, &self.job, &self.train.fingerprint()))?;
        let restored = persist::restore(comm.as_ref(), path, manifest, &mut self.trainable);
        collectives::agree(comm.as_ref(), restored)?;
        // A run that outgrew its memory goes on with tighter limits, and needs the room before its first step.
        self.trainable.embeddings.trim(manifest.step.saturating_sub(1));
        self.step = manifest.step;
        self.saved = Some(manifest.step);
        self.cursor = manifest.cursor;
        self.progress = manifest.progress.clone();
        Ok(())
    }
}

/// What follows from the job and the number of rows; the same on every rank.
struct Parts {
    layout: Layout,
    schedule: Box<dyn Schedule>,
    trainable: Trainable,
    best: Goal,
    stop: Option<Goal>,
}

impl Parts {
    /// Without `statistics` the scenarios are not known yet, and a made-up one stands for them.
    fn build(
        comm: &Comm,
        job: &mut Job,
        train: &Dataset,
        frozen: Frozen,
        statistics: Option<&Statistics>,
    ) -> Result<Self> {
        let layout = Layout::train(train.plan.rows, job.train.global_batch, job.data.lanes)?;
        ranks::check_lanes(job, &layout, comm.size())?;
        job.data.lanes = Some(layout.lanes);
        let (best, stop) = (Goal::best(job)?, Goal::stop(job)?);
        let schedule = optim::schedule::build(&mut job.optimizer.schedule, layout.steps())?;
        let scenarios = statistics.and_then(Statistics::scenarios).map(Scenarios::names);
        let made_up = ["made up".to_string()];
        let trainable = setup::build(comm, job, &train.schema, scenarios.unwrap_or(&made_up), frozen)?;
        Ok(Self { layout, schedule, trainable, best, stop })
    }
}

/// Where a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With a new model. The folder must not hold a run, whose checkpoints this one would drop.
    New,
    /// With a new model, over what the folder may hold.
    Anew,
    /// From the newest whole checkpoint; with a new model if there is none.
    Newest,
    /// From the checkpoint of this step.
    At(u64),
}

fn starting_point(dir: &CheckpointDir, begin: Begin) -> Result<Option<PathBuf>> {
    let newest = dir.newest()?;
    match (begin, newest) {
        (Begin::New, Some(path)) => Err(Error::job("this run folder already holds checkpoints of a run")
            .at("path", path.display())
            .fix("go on from there with --resume, or choose another folder with --run-dir")),
        (Begin::Anew, _) => Ok(None),
        (Begin::New | Begin::Newest, newest) => Ok(newest),
        (Begin::At(step), _) => Ok(Some(dir.step(step))),
    }
}

fn total_steps(job: &Job, steps_per_epoch: u64) -> u64 {
    let planned = steps_per_epoch.saturating_mul(job.train.epochs as u64);
    job.train.max_steps.map_or(planned, |limit| planned.min(limit))
}
