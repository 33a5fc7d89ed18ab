//! `tables:`, the options of one embedding table.

use crate::config::Component;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One entry of `tables:`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvictionPolicy {
    /// Least recently used.
    #[default]
    Lru,
    /// Least frequently used.
    Lfu,
}
