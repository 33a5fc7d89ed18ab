//! What a run tells the outside: one line of `metrics.jsonl` per event. The trainer only emits them; who
//! prints or stores them is the command's business.

use crate::balance::{conflict, gram};
use crate::data::plan::Plan;
use crate::error::Result;
use crate::metric::Report;
use crate::observe::{Environment, Event, Events};
use crate::train::init;
use crate::train::non_finite::Finding;
use crate::train::resources::Resources;
use crate::train::step::StepReport;
use serde::Serialize;
use serde_json::{Map, Value};

/// Something that happened in a run. Few are told in a second, so that their size is no matter.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)]
pub enum Notice {
    /// The run begins, or goes on.
    Start(Start),
    /// A step was taken (every `train.log_every` steps).
    Step(Step),
    /// A step was left out, since its numbers are not finite.
    Skipped(Skipped),
    /// A split was evaluated.
    Eval(Evaluation),
    /// A checkpoint is whole.
    Checkpoint(Saved),
    /// What was taken until a checkpoint, or until all is done.
    Resources(Resources),
    /// The run is over.
    End(End),
}

impl Notice {
    /// Appends it to the log of the run.
    pub fn write(&self, log: &mut Events) -> Result<()> {
        match self {
            Self::Start(start) => log.write(Event::Start, start),
            Self::Step(step) => log.write(Event::Step, step),
            Self::Skipped(skipped) => log.write(Event::NonFinite, skipped),
            Self::Eval(evaluation) => log.write(Event::Eval, evaluation),
            Self::Checkpoint(saved) => log.write(Event::Checkpoint, saved),
            Self::Resources(resources) => log.write(Event::Resources, resources),
            Self::End(end) => log.write(Event::End, end),
        }
    }
}

/// A whole checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Saved {
    /// Steps taken.
    pub step: u64,
    /// Its folder.
    pub path: String,
    /// Whether it is the best so far.
    pub best: bool,
}

/// A step that was left out.
#[derive(Debug, Clone, Serialize)]
pub struct Skipped {
    /// Steps done, this one included.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// What is not finite, and where it comes from.
    #[serde(flatten)]
    pub finding: Finding,
    /// The folder from which the step can be replayed, if it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// The end of a run.
#[derive(Debug, Clone, Serialize)]
pub struct End {
    /// Steps taken.
    pub step: u64,
    /// `done`, `early_stop` or `signal`.
    pub reason: &'static str,
    /// Seconds since the start, all included.
    pub seconds: f64,
    /// Steps left out since the start of training because their numbers were not finite.
    #[serde(skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// How the tasks' gradients agreed over those steps of this run that compared them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<conflict::Report>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The sizes of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// Name of the job.
    pub job: String,
    /// Steps already taken (0 unless resumed).
    pub step: u64,
    /// Steps planned in all.
    pub total_steps: u64,
    /// Passes over the rows that are planned.
    pub epochs: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Ranks.
    pub ranks: usize,
    /// Lanes.
    pub lanes: usize,
    /// CPU threads of each rank.
    pub threads: usize,
    /// Transport between ranks.
    pub backend: String,
    /// Rows of one epoch.
    pub rows: u64,
    /// Rows of one step over all ranks.
    pub global_batch: usize,
    /// Dense parameters (floats).
    pub dense_parameters: usize,
    /// How many of them are not frozen.
    pub trained_parameters: usize,
    /// How many of those two or more losses reach.
    pub shared_parameters: usize,
    /// Base learning rate of the dense optimizer.
    pub lr: f64,
    /// What computes the matrix products.
    pub products: &'static str,
    /// What is read.
    pub data: Data,
    /// Where the run runs, and how it was started.
    pub environment: Environment,
    /// What the run began with, if that was another run's checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<init::Report>,
}

/// The splits of the data.
#[derive(Debug, Clone, Serialize)]
pub struct Data {
    /// What is trained on.
    pub train: Split,
    /// What is evaluated on while training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<Split>,
    /// What is evaluated on after training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Split>,
}

/// One split.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Split {
    /// Files.
    pub files: usize,
    /// Row groups.
    pub row_groups: usize,
    /// Rows.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl From<&Plan> for Split {
    fn from(plan: &Plan) -> Self {
        let bytes = plan.files.iter().map(|file| file.bytes).sum();
        Self { files: plan.files.len(), row_groups: plan.row_groups.len(), rows: plan.rows, bytes }
    }
}

/// One step.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Steps taken, this one included.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Rows a second over all ranks since the last `step` event.
    pub samples_per_s: f64,
    /// Learning-rate factor of the schedule.
    pub lr_factor: f64,
    /// Loss of each task, with the architecture's terms and the static weight: what the balancing method sees.
    pub losses: Map<String, Value>,
    /// Mean loss of each task over its labelled rows, without terms and weight, if that is another one.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub plain_losses: Map<String, Value>,
    /// Weight of each task.
    pub weights: Map<String, Value>,
    /// Which of the tasks' gradients were compared: a `balance.scope`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'static str>,
    /// Norm of each task's gradient in that scope.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub grad_norms: Map<String, Value>,
    /// Cosines between these gradients, K × K.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cosines: Vec<Vec<f64>>,
    /// Norm of the dense update direction before clipping.
    pub grad_norm: f64,
    /// Rows of each table.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub table_rows: Map<String, Value>,
}

/// One evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// Steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u64,
    /// `valid` or `test`.
    pub split: &'static str,
    /// Metrics by task, of the whole and of scenarios.
    #[serde(flatten)]
    pub report: Report,
    /// Rows a second over all ranks.
    pub samples_per_s: f64,
}

/// Who listens to a run. Called on rank 0 only.
pub trait Observer {
    /// Takes notice.
    fn notice(&mut self, notice: &Notice) -> Result<()>;

    /// Called after every step, logged or not, for a progress display: the epoch, the steps taken, the rows of
    /// this step over all ranks, and each task's loss.
    fn tick(&mut self, epoch: u64, step: u64, rows: u64, losses: &[f64]);
}

impl Step {
    /// Fills in what `report` says; `names` are the tasks'.
    pub fn new(
        step: u64,
        epoch: u64,
        samples_per_s: f64,
        lr_factor: f64,
        names: &[String],
        report: &StepReport,
    ) -> Self {
        let k = names.len();
        let (norms, cosines) = match &report.compared {
            None => (Vec::new(), Vec::new()),
            Some((_, gram)) => (gram::norms(gram, k), gram::cosines(gram, k)),
        };
        Self {
            step,
            epoch,
            samples_per_s,
            lr_factor,
            losses: by_task(names, &report.losses),
            plain_losses: if report.plain == report.losses { Map::new() } else { by_task(names, &report.plain) },
            weights: by_task(names, &report.weights),
            scope: report.compared.as_ref().map(|(scope, _)| scope.name()),
            grad_norms: by_task(names, &norms),
            cosines: cosines.chunks(k.max(1)).map(<[f64]>::to_vec).collect(),
            grad_norm: report.grad_norm,
            table_rows: Map::new(),
        }
    }
}

fn by_task(names: &[String], values: &[f64]) -> Map<String, Value> {
    names.iter().cloned().zip(values.iter().map(|&v| Value::from(v))).collect()
}
