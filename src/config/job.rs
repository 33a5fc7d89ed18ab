//! The job as written in YAML: what serde can read. What it must also satisfy is in [`super::check`].

mod eval;
mod feature;
mod federated;
mod label;
mod paths;
mod relation;
mod reproducible;
mod start;
mod table;

pub use eval::{Best, Eval, Stop};
pub use feature::{Feature, FeatureKind, Pooling, Transform};
pub use federated::{Client, Federated, Method, Part, Privacy, Share, SharedNorm, Weights};
pub use label::LabelValue;
pub use paths::Paths;
pub use relation::{Negatives, Ranking};
pub use reproducible::Reproducible;
pub use start::{Freeze, InitFrom, InitOptimizer};
pub use table::{Admission, Eviction, EvictionPolicy, Table};

use super::schema::AutoOrNumber;
use super::units::auto_or_number;
use super::{Bytes, Component, Every, TimeLimit};
use crate::comm::WireFormat;
use crate::nn::{Kernels, Precision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One job: everything `tandem train` needs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Name of the job; the default run folder is `runs/<name>`.
    pub name: String,
    /// Seed of everything random.
    #[serde(default = "defaults::seed")]
    pub seed: u64,
    /// Where the rows come from.
    pub data: Data,
    /// Input columns and how they become numbers or embedding rows.
    pub features: Vec<Feature>,
    /// Options per embedding table; a table that is not listed here has the defaults.
    #[serde(default)]
    pub tables: BTreeMap<String, Table>,
    /// What is predicted.
    pub tasks: Vec<Task>,
    /// The architecture.
    pub model: Component,
    /// A checkpoint of another run that this one begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<InitFrom>,
    /// Parameters and tables that no step changes.
    #[serde(default, skip_serializing_if = "Freeze::is_empty")]
    pub freeze: Freeze,
    /// How the tasks' gradients or losses are combined.
    #[serde(default = "defaults::balance")]
    pub balance: Component,
    /// Dense and sparse optimizers.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Batches, epochs, evaluation.
    #[serde(default)]
    pub train: Train,
    /// When checkpoints are written and how many are kept.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// Trains clients that share parameters, instead of one model on all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federated: Option<Federated>,
    /// Where this run writes; default `runs/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<String>,
    /// CPU threads of each rank; default (`auto`): the machine's cores divided by the ranks on it.
    #[serde(default, deserialize_with = "auto_or_number", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AutoOrNumber")]
    pub threads: Option<usize>,
    /// The same bits on any number of ranks, up to the number of virtual ranks that every run of the job is cut into: `true` for
    /// 8 of them, or their number.
    #[serde(default, skip_serializing_if = "Reproducible::is_off")]
    pub reproducible: Reproducible,
    /// Of the factors of the matrix products of training: `f32`, or `bf16` where the CPU has instructions for it.
    #[serde(default)]
    pub precision: Precision,
    /// Of embedding rows and gradients between ranks in training: `f32`, or `bf16`, which halves their bytes.
    #[serde(default)]
    pub wire: WireFormat,
    /// `fused`, or `reference`: the layers in candle's own operations, for comparison.
    #[serde(default)]
    pub kernels: Kernels,
    /// Memory for the embedding tables of each rank, such as `20 GiB`; default: what the machine, or the
    /// cluster job's control group, has left. A table that needs more ends the run with an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<Bytes>,
}

/// `data:`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Prefix of every relative path below, so that `--set data.root=…` moves a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Globs, folders or files of the training rows.
    pub train: Paths,
    /// Rows for evaluation during training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Paths>,
    /// Rows for the evaluation after training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Paths>,
    /// Number of lanes; default (`auto`): chosen from `global_batch` so that the run can grow to many ranks.
    #[serde(default, deserialize_with = "auto_or_number", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AutoOrNumber")]
    pub lanes: Option<usize>,
    /// Rows of a lane that are permuted among themselves; 1 keeps the order of the files.
    #[serde(default = "defaults::shuffle_window")]
    pub shuffle_window: usize,
    /// Column with a weight per row, applied to every task's loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Column of the row's scenario: the values seen in training are numbered, and metrics reported for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Batches decoded ahead of training.
    #[serde(default = "defaults::prefetch")]
    pub prefetch: usize,
}

/// One entry of `tasks:`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name of the task.
    pub name: String,
    /// The label column; `bpr` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What is predicted.
    #[serde(default)]
    pub kind: TaskKind,
    /// `model: {kind: mf}`: the features, left and right, whose embeddings are multiplied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<[String; 2]>,
    /// `bpr`: what is drawn against each pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negatives: Option<Negatives>,
    /// Full ranking of all right-hand ids in evaluation; on for `bpr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
    /// `binary`: the values of the label column that are 1; every other value is 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positive: Vec<LabelValue>,
    /// `multiclass`: number of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Only rows where this column is true (non-zero) carry the label, or the pair.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub where_column: Option<String>,
    /// Static weight of the task.
    #[serde(default = "defaults::one")]
    pub weight: f64,
    /// Column by which GAUC groups rows, for example the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gauc: Option<String>,
}

/// Kinds of tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A label in {0, 1}; binary cross-entropy on the logit.
    #[default]
    Binary,
    /// A real label; squared error.
    Regression,
    /// A class in 0..classes; softmax cross-entropy.
    Multiclass,
    /// No label: the pair of the row must score above drawn ones (Rendle et al., UAI 2009).
    Bpr,
}

/// `optimizer:`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Optimizer of the dense parameters, for example `{kind: adam, lr: 1.0e-3}`.
    #[serde(default = "defaults::dense")]
    pub dense: Component,
    /// Optimizer of embedding rows, for example `{kind: rowwise_adagrad, lr: 0.02}`.
    #[serde(default = "defaults::sparse")]
    pub sparse: Component,
    /// Learning-rate schedule of both, for example `{kind: cosine, warmup: 500 steps}`.
    #[serde(default = "defaults::schedule")]
    pub schedule: Component,
    /// Clips the global norm of the dense gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { dense: defaults::dense(), sparse: defaults::sparse(), schedule: defaults::schedule(), clip_norm: None }
    }
}

/// `train:`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Rows of one step over all ranks.
    #[serde(default = "defaults::global_batch")]
    pub global_batch: usize,
    /// Passes over the training rows.
    #[serde(default = "defaults::epochs")]
    pub epochs: usize,
    /// Stop after this many steps, even inside an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// When to evaluate on `data.valid`, and when to stop early.
    #[serde(default)]
    pub eval: Eval,
    /// A `step` line is written to `metrics.jsonl` every this many steps.
    #[serde(default = "defaults::log_every")]
    pub log_every: u64,
    /// When the tasks' gradients are compared for the log, with a balancing method that compares none.
    #[serde(default)]
    pub log_conflict: LogConflict,
    /// How long nothing may move on any rank before the run is ended, with the ranks that are late.
    #[serde(default = "defaults::watchdog")]
    pub watchdog: TimeLimit,
    /// What becomes of a step whose losses or gradients are not finite.
    #[serde(default)]
    pub non_finite: NonFinite,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            global_batch: defaults::global_batch(),
            epochs: defaults::epochs(),
            max_steps: None,
            eval: Eval::default(),
            log_every: defaults::log_every(),
            log_conflict: LogConflict::default(),
            watchdog: defaults::watchdog(),
            non_finite: NonFinite::default(),
        }
    }
}

/// What becomes of a step whose losses or gradients are not finite. Either way it changes no parameter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// The run ends, with the row that did it.
    #[default]
    Stop,
    /// The step is left out and counted.
    Skip,
}

/// When a step compares the tasks' gradients though its balancing method does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogConflict {
    /// In the steps that are logged.
    #[default]
    Auto,
    /// In every step, so that the table at the end of the run counts them all.
    EveryStep,
    /// In none.
    Never,
}

/// `checkpoint:`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// `1000 steps`, `1 epoch`; one is always written at the end.
    #[serde(default = "defaults::one_epoch")]
    pub every: Every,
    /// How many of the newest are kept, besides the best one.
    #[serde(default = "defaults::keep")]
    pub keep: usize,
    /// A folder in an object store (`s3://…`), or of this machine, that gets a copy of every checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_to: Option<String>,
    /// Logical shards of every table: a power of two, at least the number of ranks of any later run.
    #[serde(default = "defaults::buckets")]
    pub buckets: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: defaults::one_epoch(), keep: defaults::keep(), copy_to: None, buckets: defaults::buckets() }
    }
}

mod defaults {
    use super::{Component, Every};

    pub fn seed() -> u64 {
        17
    }
    pub fn balance() -> Component {
        Component::named("uniform")
    }
    pub fn dense() -> Component {
        Component::named("adam")
    }
    pub fn sparse() -> Component {
        Component::named("rowwise_adagrad")
    }
    pub fn schedule() -> Component {
        Component::named("constant")
    }
    pub fn shuffle_window() -> usize {
        4096
    }
    pub fn prefetch() -> usize {
        4
    }
    pub fn one() -> f64 {
        1.0
    }
    pub fn global_batch() -> usize {
        4096
    }
    pub fn epochs() -> usize {
        1
    }
    pub fn log_every() -> u64 {
        50
    }
    pub fn watchdog() -> super::TimeLimit {
        super::TimeLimit(Some(std::time::Duration::from_secs(600)))
    }
    pub fn one_epoch() -> Every {
        Every::Epochs(1.0)
    }
    pub fn keep() -> usize {
        3
    }
    pub fn buckets() -> usize {
        1024
    }
}
