//! The job as written in YAML: what serde can read. What it must also satisfy is in [`super::check`].

mod relation;

pub use relation::{Negatives, Ranking};

use super::units::auto_or_number;
use super::{Bytes, Component, Every};
use crate::comm::WireFormat;
use crate::nn::{Kernels, Precision};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::collections::BTreeMap;
use std::fmt;

/// One job: everything `tandem train` needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Where this run writes; default `runs/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_dir: Option<String>,
    /// CPU threads of each rank; default (`auto`): the machine's cores divided by the ranks on it.
    #[serde(default, deserialize_with = "auto_or_number", skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    pub lanes: Option<usize>,
    /// Rows of a lane that are permuted among themselves; 1 keeps the order of the files.
    #[serde(default = "defaults::shuffle_window")]
    pub shuffle_window: usize,
    /// Column with a weight per row, applied to every task's loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Batches decoded ahead of training.
    #[serde(default = "defaults::prefetch")]
    pub prefetch: usize,
}

/// One path or several.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Paths {
    /// A single glob, folder or file.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl Default for Paths {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Paths {
    /// The patterns in order.
    pub fn patterns(&self) -> &[String] {
        match self {
            Self::One(pattern) => std::slice::from_ref(pattern),
            Self::Many(patterns) => patterns,
        }
    }
}

// By hand, because serde's own reading of untagged enums cannot say what it expected.
impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> de::Visitor<'de> for OneOrMany {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Paths, E> {
                Ok(Paths::One(path.to_string()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut entries: A) -> Result<Paths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = entries.next_element()? {
                    paths.push(path);
                }
                Ok(Paths::Many(paths))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// One entry of `features:`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Name of the feature, and of its column unless `column` says otherwise.
    pub name: String,
    /// What the column holds.
    pub kind: FeatureKind,
    /// The Parquet column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// `cross`: the columns that are hashed together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Embedding table; features that name the same table share its rows. Default: the feature's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Embedding dimension; needed by one feature of each table, or by `tables:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// How several ids of a row become one vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// `sequence`: how many of the last ids are kept. `categorical` on a list: at most this many first ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_len: Option<usize>,
    /// `sequence` with attention pooling: the feature whose embedding attends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `numeric`: the transform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
    /// `numeric` with `transform: quantile`: number of buckets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<usize>,
    /// `vector`: its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
}

/// Kinds of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureKind {
    /// One number a row.
    Numeric,
    /// One id, or a list of ids, a row.
    Categorical,
    /// A list of ids in order of time.
    Sequence,
    /// The combination of several columns as one id.
    Cross,
    /// A list of floats of fixed length.
    Vector,
}

/// How the embedding rows of one feature of one row become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their sum.
    Sum,
    /// Their mean; zero when there are none.
    Mean,
    /// Scaled dot-product attention with the `target` feature's vector as query (`sequence` only).
    Attention,
    /// Not pooled: kept as a sequence for models that want it (`sequence` only).
    None,
}

/// Transforms of numeric features. Statistics come from one pass over the training rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// As it is.
    None,
    /// (x − mean) / standard deviation.
    Standardize,
    /// sign(x) · ln(1 + |x|).
    Log1p,
    /// (x − min) / (max − min), clamped to [0, 1].
    MinMax,
    /// The index of its quantile bucket, looked up as an id in an embedding table.
    Quantile,
}

/// One entry of `tables:`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Floats in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Initial rows, for example `{kind: normal, std: 0.01}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Component>,
    /// Sparse optimizer of this table; default `optimizer.sparse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<Component>,
    /// When an id gets a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
    /// When a row is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<Eviction>,
}

/// `admission:`; an id that is not admitted reads as zeros and is not trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Admit once the id has been seen in this many training rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_count: Option<u32>,
    /// Admit at each step that sees the id with this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

/// `eviction:`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eviction {
    /// At most this many rows in the table over all ranks, kept bucket by bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<usize>,
    /// Which rows go first when there are too many.
    #[serde(default)]
    pub policy: EvictionPolicy,
    /// Drop rows that no training row touched for this many steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_steps: Option<u64>,
}

/// Which rows a full table drops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvictionPolicy {
    /// Least recently used.
    #[default]
    Lru,
    /// Least frequently used.
    Lfu,
}

/// One entry of `tasks:`.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
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
}

impl Default for Train {
    fn default() -> Self {
        Self {
            global_batch: defaults::global_batch(),
            epochs: defaults::epochs(),
            max_steps: None,
            eval: Eval::default(),
            log_every: defaults::log_every(),
        }
    }
}

/// `train.eval:`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// `1 epoch`, `500 steps`.
    #[serde(default = "defaults::one_epoch")]
    pub every: Every,
    /// Rows of one evaluation batch over all ranks.
    #[serde(default = "defaults::eval_batch")]
    pub global_batch: usize,
    /// Early stopping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Which metric makes a checkpoint the best one.
    #[serde(default)]
    pub best: Best,
}

impl Default for Eval {
    fn default() -> Self {
        Self { every: defaults::one_epoch(), global_batch: defaults::eval_batch(), stop: None, best: Best::default() }
    }
}

/// Which metric of which task decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// `auc`, `gauc`, `logloss`, `rmse`, `recall@20`, …; default: `auc` if every task is binary, the longest recall of a
    /// `bpr` task, else `loss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// A task's name, or `mean` over tasks.
    #[serde(default = "defaults::mean")]
    pub task: String,
}

impl Default for Best {
    fn default() -> Self {
        Self { metric: None, task: defaults::mean() }
    }
}

/// `train.eval.stop:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// As in [`Best::metric`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// A task's name, or `mean` over tasks.
    #[serde(default = "defaults::mean")]
    pub task: String,
    /// Evaluations without improvement before the run stops.
    pub patience: usize,
}

/// `checkpoint:`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// `1000 steps`, `1 epoch`; one is always written at the end.
    #[serde(default = "defaults::one_epoch")]
    pub every: Every,
    /// How many of the newest are kept, besides the best one.
    #[serde(default = "defaults::keep")]
    pub keep: usize,
    /// Logical shards of every table: a power of two, at least the number of ranks of any later run.
    #[serde(default = "defaults::buckets")]
    pub buckets: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: defaults::one_epoch(), keep: defaults::keep(), buckets: defaults::buckets() }
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
    pub fn eval_batch() -> usize {
        8192
    }
    pub fn epochs() -> usize {
        1
    }
    pub fn log_every() -> u64 {
        50
    }
    pub fn one_epoch() -> Every {
        Every::Epochs(1.0)
    }
    pub fn mean() -> String {
        "mean".to_string()
    }
    pub fn keep() -> usize {
        3
    }
    pub fn buckets() -> usize {
        1024
    }
}
