//! `features:`, the input columns and what they become.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One entry of `features:`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
