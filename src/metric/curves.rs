//! What is drawn of a binary task beside its numbers: ROC curve, calibration, and how the groups' AUCs are spread.
//!
//! All of bounded size, whatever the rows, and like the numbers the same at any number of ranks.

use serde::Serialize;

/// Bins of [`Curves::gauc`].
pub(super) const GAUC_BINS: usize = 20;

/// A point of the ROC curve is kept wherever one of the two rates passes another of so many equal steps.
pub(super) const ROC_STEPS: u64 = 32;

/// The curves of one task on the rows of one evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Curves {
    /// False and true positive rate from (0, 0) to (1, 1), at most 66 points; empty where there is one class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roc: Vec<[f64; 2]>,
    /// Each bucket of half a logit that has rows, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<Bucket>,
    /// Groups whose AUC lies in each of 20 equal bins of [0, 1]; empty without `gauc`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gauc: Vec<u64>,
}

/// The rows whose prediction lies in one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bucket {
    /// Their mean prediction.
    pub predicted: f64,
    /// Their share of positives.
    pub observed: f64,
    /// How many they are.
    pub rows: u64,
}

impl Curves {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
