//! One split of the data: its files, what is read of them, and the batches of one rank.

use super::ranking::Positives;
use super::step::Trainable;
use crate::comm::{Comm, collectives};
use crate::config::job::{Job, Paths};
use crate::data::batch::Batch;
use crate::data::lanes::{Cursor, Layout, Order};
use crate::data::loader::{Loader, Options, Source};
use crate::data::plan::Plan;
use crate::data::reader::{Columns, Files};
use crate::data::relations::Relations;
use crate::data::schema::{Purpose, Schema, TaskColumns};
use crate::data::statistics::Statistics;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::metric::{self, ByScenario, Evaluator, Report};
use crate::observe::{Stage, Stages};
use std::sync::Arc;

/// Threads of a rank that decode ahead of training, and its lanes in evaluation, so that all of them have something to
/// decode there too. Two hide the wait for the disk behind the decoding.
const DECODE_THREADS: usize = 2;

/// One split.
#[derive(Clone)]
pub struct Dataset {
    /// Files and row groups, the same on every rank.
    pub plan: Arc<Plan>,
    /// Columns and what they become.
    pub schema: Arc<Schema>,
    /// What the training log pairs, where negatives are drawn or candidates ranked.
    pub relations: Option<Arc<Relations>>,
    store: Arc<dyn Store>,
}

impl Dataset {
    /// Reads the footers of `paths`, if there are any. Collective.
    pub fn open(
        comm: &Comm,
        store: &Arc<dyn Store>,
        job: &Job,
        paths: Option<&Paths>,
        purpose: Purpose,
    ) -> Result<Option<Self>> {
        let Some(paths) = paths else { return Ok(None) };
        let schema = collectives::agree(comm.as_ref(), Schema::new(job, purpose))?;
        Self::open_as(comm, store, job, paths, schema).map(Some)
    }

    /// The same for a schema that is at hand. Collective.
    pub fn open_as(comm: &Comm, store: &Arc<dyn Store>, job: &Job, paths: &Paths, schema: Schema) -> Result<Self> {
        let plan = Plan::read(comm.as_ref(), store.as_ref(), &job.data.resolve(paths), &schema)?;
        Ok(Self { plan: Arc::new(plan), schema: Arc::new(schema), relations: None, store: store.clone() })
    }

    /// Statistics of the numeric features over all rows, and the scenarios. Collective.
    pub fn statistics(&self, comm: &Comm) -> Result<Statistics> {
        let files = Files::new(self.store.clone(), self.plan.clone(), self.schema.clone(), Columns::Needed);
        Statistics::collect(comm.as_ref(), &files)
    }

    /// What these rows, of the training log, pair; `None` where neither negatives are drawn nor candidates ranked.
    /// Collective.
    pub fn collect_relations(&self, comm: &Comm, statistics: &Statistics) -> Result<Option<Arc<Relations>>> {
        if !Relations::needed(&self.schema) {
            return Ok(None);
        }
        let files = Files::new(self.store.clone(), self.plan.clone(), self.schema.clone(), Columns::Needed);
        Ok(Some(Arc::new(Relations::collect(comm.as_ref(), &files, statistics)?)))
    }

    /// What decoding needs to know of this split.
    pub fn source(&self, statistics: &Arc<Statistics>) -> Source {
        Source {
            store: self.store.clone(),
            plan: self.plan.clone(),
            schema: self.schema.clone(),
            statistics: statistics.clone(),
            relations: self.relations.clone(),
        }
    }

    /// Names the rows, so that a cursor is not applied to other ones.
    pub fn fingerprint(&self) -> String {
        let groups: Vec<u64> =
            self.plan.row_groups.iter().flat_map(|g| [u64::from(g.file), u64::from(g.rows)]).collect();
        format!("{:016x}", crate::random::hash(self.plan.rows, &groups))
    }

    /// This rank's batches from `cursor` to the end of its epoch.
    pub fn loader(
        &self,
        comm: &Comm,
        statistics: &Arc<Statistics>,
        layout: Layout,
        order: Order,
        cursor: Cursor,
        prefetch: usize,
    ) -> Result<Loader> {
        let lanes = layout.hosted(comm.rank(), comm.size())?;
        let options = Options { layout, lanes, order, prefetch, threads: DECODE_THREADS };
        Loader::start(self.source(statistics), options, cursor)
    }

    /// How all rows are read in the order of the files, in batches of about `global_batch` rows: every rank has lanes of its
    /// own, and as many batches as the others, because every batch looks embedding rows up at their owners.
    pub fn in_order(&self, comm: &Comm, global_batch: usize) -> Layout {
        Layout::evaluate(self.plan.rows, global_batch, comm.size() * DECODE_THREADS)
    }

    /// Metrics of `trainable` over all rows, the same on every rank. Collective.
    pub fn evaluate(
        &self,
        comm: &Comm,
        trainable: &mut Trainable,
        statistics: &Arc<Statistics>,
        global_batch: usize,
        stages: &Stages,
    ) -> Result<Report> {
        let _eval = stages.guard(Stage::Eval);
        let layout = self.in_order(comm, global_batch);
        let mut loader = self.loader(comm, statistics, layout, Order::sequential(), Cursor::default(), 2)?;
        let (tasks, rows) = (self.metric_tasks(), self.plan.rows);
        let names = statistics.scenarios().map_or(&[][..], |scenarios| scenarios.names());
        let mut scorer =
            Scorer { whole: Evaluator::new(&tasks, rows), scenarios: ByScenario::new(&tasks, rows, names) };
        let mut positives = Positives::new(&self.schema, trainable)?;
        let mut scored = Ok(());
        // What fails on one rank ends all of them before the next exchange.
        while let Some(batch) = collectives::agree(comm.as_ref(), scored.and_then(|()| loader.next()))? {
            positives.add(&batch);
            let logits = trainable.infer(comm, &batch)?;
            scored = self.score(&mut scorer, &batch, &logits);
        }
        let (mut tasks, curves) = scorer.whole.finish_drawn(comm.as_ref())?;
        for (task, values) in positives.rank(comm.as_ref(), trainable, self.relations.as_deref())? {
            tasks[task].values.splice(0..0, values);
        }
        Ok(Report { tasks, scenarios: scorer.scenarios.finish(comm.as_ref())?, curves })
    }

    fn score(&self, scorer: &mut Scorer, batch: &Batch, logits: &[Vec<f32>]) -> Result<()> {
        check_predictions(&self.schema, &self.plan, batch, logits)?;
        scorer.scenarios.count(&batch.scenarios, &batch.present)?;
        for (task, (logits, target)) in logits.iter().zip(&batch.targets).enumerate() {
            let groups = self.schema.tasks[task].group.map_or(&[][..], |group| &batch.groups[group]);
            scorer.whole.add(task, logits, &target.label, &target.weight, groups)?;
            scorer.scenarios.add(&batch.scenarios, task, logits, (&target.label, &target.weight), groups)?;
        }
        Ok(())
    }

    fn metric_tasks(&self) -> Vec<metric::Task> {
        let task = |task: &TaskColumns| metric::Task {
            name: task.name.clone(),
            kind: task.kind,
            outputs: task.classes,
            grouped: task.group.is_some(),
            ranked_at: task.ranked_at.clone(),
        };
        self.schema.tasks.iter().map(task).collect()
    }
}

/// The metrics of an evaluation while it runs.
struct Scorer {
    whole: Evaluator,
    scenarios: ByScenario,
}

/// A model that diverged predicts NaN or infinity for some rows. They must not pass for scores.
pub fn check_predictions(schema: &Schema, plan: &Plan, batch: &Batch, logits: &[Vec<f32>]) -> Result<()> {
    for (task, logits) in schema.tasks.iter().zip(logits) {
        let Some(bad) = logits.iter().position(|logit| !logit.is_finite()) else { continue };
        let error = Error::numeric(format!("the prediction of task `{}` is {}", task.name, logits[bad]))
            .fix("the model has diverged: lower the learning rates, or look for extreme values in the row named here");
        let row = bad / task.classes;
        return Err(if batch.present[row] { plan.name_row(error, batch.origin[row]) } else { error });
    }
    Ok(())
}
