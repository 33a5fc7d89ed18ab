//! Tasks that are relations between two features of a row: what is drawn against a pair, and how it is ranked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `tasks[].negatives:`, of a `bpr` task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Negatives {
    /// Right-hand ids that are drawn for each pair. Default 1.
    pub count: usize,
    /// An id is drawn in proportion to (training rows that hold it)^popularity. Default 0: all alike.
    pub popularity: f64,
    /// Most distinct training pairs that a rank may hold, of 4 bytes each. Default 250 million.
    pub max_pairs: u64,
}

impl Default for Negatives {
    fn default() -> Self {
        Self { count: 1, popularity: 0.0, max_pairs: 250_000_000 }
    }
}

/// `tasks[].ranking:`, full ranking of all right-hand ids for each left one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ranking {
    /// Lengths k of recall@k and ndcg@k. Default `[10, 20]`; `[]` ranks nothing.
    pub at: Vec<usize>,
}

impl Default for Ranking {
    fn default() -> Self {
        Self { at: vec![10, 20] }
    }
}
