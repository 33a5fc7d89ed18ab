//! `schema.json`: all that turns a row into the inputs of the ONNX model, for those who serve it.
//!
//! ```text
//! columns ──hash, bucket──► ids ──tables──► vectors ──sum, mean──► pooled ┐
//!         ──transform──► numbers ───────────────────────────────► dense  ├──model.onnx──► pred_<task>
//! ```
//!
//! The file says everything in values (means, boundaries, columns); the few rules that are not values are in
//! `rules`, in words.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the layout described here.
pub const FORMAT: u32 = 1;

/// Name of the file in a bundle.
pub const FILE: &str = "schema.json";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleSchema {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of tandem that wrote it.
    pub tandem: String,
    /// Name of the job.
    pub job: String,
    /// Steps that the model was trained for.
    pub step: u64,
    /// The architecture.
    pub model: String,
    /// The rules that are not values.
    pub rules: BTreeMap<String, String>,
    /// The ONNX model.
    pub onnx: Onnx,
    /// Features that become ids, in the order of the job.
    pub ids: Vec<IdFeature>,
    /// Parts of the input `pooled`, in order.
    pub pooled: Vec<Pooled>,
    /// Sequences that reach the model as they are, each with a mask.
    pub sequences: Vec<Sequence>,
    /// Parts of the input `dense`, in order.
    pub dense: Vec<Dense>,
    /// The column of the row's scenario, where the job has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<Scenario>,
    /// Embedding tables.
    pub tables: Vec<Table>,
    /// What is predicted.
    pub tasks: Vec<Task>,
}

/// The ONNX model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Onnx {
    /// The file.
    pub file: String,
    /// Version of the operators.
    pub opset: i64,
    /// Its inputs in order; all begin with the batch.
    pub inputs: Vec<GraphInput>,
    /// The model that holds the tables, if there is one: it reads `ids.<feature>` and `dense`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_contained: Option<SelfContained>,
}

/// The model with the tables inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfContained {
    /// The file.
    pub file: String,
    /// Its inputs in order.
    pub inputs: Vec<GraphInput>,
}

/// An input of an ONNX model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphInput {
    /// Its name.
    pub name: String,
    /// Its shape behind the batch; −1 is any length.
    pub dims: Vec<i64>,
    /// `float32` or `int64`.
    pub dtype: String,
}

/// A feature that becomes ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdFeature {
    /// Its name.
    pub name: String,
    /// The table that its ids are looked up in.
    pub table: String,
    /// Where its ids come from.
    pub source: IdSource,
}

/// Where ids come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum IdSource {
    /// A column of ids, or of lists of ids.
    Ids {
        /// The column.
        column: String,
        /// Most ids that are kept of a list.
        max_len: Option<usize>,
        /// Which end of a longer list is kept: `first` or `last`.
        keep: Keep,
    },
    /// Columns that are hashed together.
    Cross {
        /// The columns, in order.
        columns: Vec<String>,
    },
    /// The bucket of a number.
    Quantile {
        /// The column.
        column: String,
        /// Lower bounds of the buckets after the first: the id is how many of them the number has reached.
        boundaries: Vec<f64>,
        /// The id of a null.
        null_id: u64,
    },
}

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first ids.
    First,
    /// The last ids.
    Last,
}

/// A part of `pooled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pooled {
    /// The feature whose ids are looked up.
    pub feature: String,
    /// First column.
    pub start: usize,
    /// Number of columns: the table's dim.
    pub width: usize,
    /// How the rows of several ids become one.
    pub pooling: Pooling,
    /// Of a side of a pair: the feature of the other side. A row without an id there has none here either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
}

/// How rows are pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their sum.
    Sum,
    /// Their sum divided by the number of ids, unknown ones included.
    Mean,
}

/// A sequence that reaches the model unpooled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// The feature.
    pub feature: String,
    /// Name of the input with the rows: `[batch, max_len, dim]`, oldest first, zeros after the last.
    pub values: String,
    /// Name of the input `[batch, max_len]`: 1 where there is an id, else 0.
    pub mask: String,
    /// Ids that are kept: the last ones.
    pub max_len: usize,
    /// The table's dim.
    pub dim: usize,
}

/// A part of `dense`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dense {
    /// Name of the feature.
    pub name: String,
    /// The column.
    pub column: String,
    /// First number.
    pub start: usize,
    /// How many numbers.
    pub width: usize,
    /// What is done to the number; computed in float64 and rounded to float32.
    pub transform: Transform,
    /// What a null becomes: every number of it.
    pub null: f32,
}

/// What is done to a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Transform {
    /// Nothing. Also of vectors.
    None,
    /// (x − mean) / std.
    Standardize {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// sign(x) · ln(1 + |x|).
    Log1p,
    /// (x − min) / (max − min), cut to 0 … 1; 0 where max = min.
    MinMax {
        /// The smallest value.
        min: f64,
        /// The largest value.
        max: f64,
    },
}

/// What numbers the rows' scenarios.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// The column.
    pub column: String,
    /// The id of each scenario, by its number; a null, or an id that is not here, has the number behind the last.
    pub ids: Vec<u64>,
    /// The same as text.
    pub names: Vec<String>,
}

/// An embedding table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Floats of a row.
    pub dim: usize,
    /// Rows.
    pub rows: u64,
    /// What its numbers are stored as.
    pub dtype: Dtype,
    /// Its files by format.
    pub files: BTreeMap<String, String>,
}

/// How the numbers of a table are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// As they were trained.
    #[default]
    F32,
    /// IEEE half precision.
    Fp16,
    /// A row is `scale` · integers of 8 bits, with `scale` = max |x| / 127.
    Int8,
}

/// What is predicted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// `binary`, `regression`, `multiclass` or `bpr`.
    pub kind: String,
    /// The output with the prediction.
    pub prediction: String,
    /// The output before the activation.
    pub logits: String,
    /// Numbers a row: 1, or the classes.
    pub width: usize,
    /// `sigmoid`, `softmax` or `identity`.
    pub activation: String,
}

/// The rules that a schema's values do not say.
pub fn rules() -> BTreeMap<String, String> {
    [
        ("id.integer", "an integer, boolean (0, 1), date or time is its own id, as 64 bits (negative: two's complement)"),
        ("id.string", "XXH3-64 (seed 0) of the UTF-8 bytes"),
        ("id.null", "a null gives no id, nor does a null in a list; in a cross it is the id 7959387127559487488"),
        ("id.cross", "h = mix(0); for each column in order h = mix(h xor mix(id)); the id is h"),
        (
            "mix",
            "of 64 bits, wrapping: z += 0x9e3779b97f4a7c15; z = (z xor z >> 30) * 0xbf58476d1ce4e5b9; z = (z xor z >> 27) \
             * 0x94d049bb133111eb; z xor z >> 31",
        ),
        ("id.unknown", "an id that its table lacks has a row of zeros, and counts as one id in a mean"),
        ("id.none", "no ids give zeros"),
        ("scenario", "the place of the column's id among `scenario.ids`; of a null or another id, their number"),
        ("column.missing", "a column that the rows do not have is a column of nulls"),
    ]
    .map(|(key, text)| (key.to_string(), text.to_string()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_the_constants_of_the_code() {
        let rules = rules();
        assert!(rules["id.null"].contains(&crate::data::decode::NULL_ID.to_string()));
        // The text's constants, applied by hand.
        let mut z = 5u64.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        assert_eq!(z ^ (z >> 31), crate::random::mix(5));
    }
}
