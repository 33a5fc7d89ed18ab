//! `train.eval:`, when to evaluate, what is best and when to stop.

use crate::config::Every;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `train.eval:`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// `1 epoch`, `500 steps`.
    #[serde(default = "one_epoch")]
    pub every: Every,
    /// Rows of one evaluation batch over all ranks.
    #[serde(default = "eval_batch")]
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
        Self { every: one_epoch(), global_batch: eval_batch(), stop: None, best: Best::default() }
    }
}

/// Which metric of which task decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// `auc`, `gauc`, `logloss`, `rmse`, `recall@20`, …; default: `auc` if every task is binary, the longest recall of a
    /// `bpr` task, else `loss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// A task's name, or `mean` over tasks.
    #[serde(default = "mean")]
    pub task: String,
}

impl Default for Best {
    fn default() -> Self {
        Self { metric: None, task: mean() }
    }
}

/// `train.eval.stop:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// As in [`Best::metric`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// A task's name, or `mean` over tasks.
    #[serde(default = "mean")]
    pub task: String,
    /// Evaluations without improvement before the run stops.
    pub patience: usize,
}

fn one_epoch() -> Every {
    Every::Epochs(1.0)
}

fn eval_batch() -> usize {
    8192
}

fn mean() -> String {
    "mean".to_string()
}
