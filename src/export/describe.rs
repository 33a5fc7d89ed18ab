//! The schema of a bundle, from the job and what it was resolved to.

use super::onnx::{self, Input, Last, Output};
use super::schema::{
    BundleSchema, Dense, FORMAT, GraphInput, IdFeature, IdSource, Keep, Onnx, Pooled, Pooling, Scenario, Sequence,
    Table, Task, Transform, rules,
};
use crate::config::job::{self, Job, TaskKind};
use crate::data::schema::{self as data, Schema};
use crate::data::statistics::Statistics;
use crate::embedding::{BagKind, BagSpec, Pool};
use crate::error::{Error, Result};
use crate::model::{InputSpec, in_set};

/// Name of the input with the pooled embeddings.
pub const POOLED: &str = "pooled";

/// Name of the input with the numbers.
pub const DENSE: &str = "dense";

/// What is exported.
#[derive(Clone, Copy)]
pub struct Described<'a> {
    /// The job of the checkpoint.
    pub job: &'a Job,
    /// What its columns become.
    pub schema: &'a Schema,
    /// Statistics of its numeric features.
    pub statistics: &'a Statistics,
    /// What its model is fed.
    pub spec: &'a InputSpec,
    /// Where the embeddings of that come from, one a column of ids.
    pub bags: &'a [&'a BagSpec],
    /// Steps it was trained for.
    pub step: u64,
}

/// All inputs that a model can read.
pub fn inputs(spec: &InputSpec) -> Vec<Input> {
    let float = |name: String, dims: Vec<usize>| Input { name, dims, is_integer: false };
    let mut inputs = vec![float(POOLED.to_string(), vec![spec.fields.iter().map(|field| field.width).sum()])];
    for sequence in &spec.sequences {
        inputs.push(float(sequence_input(&sequence.name), vec![sequence.max_len, sequence.dim]));
        inputs.push(float(mask_input(&sequence.name), vec![sequence.max_len]));
    }
    inputs.push(float(DENSE.to_string(), vec![spec.dense_width]));
    inputs.push(Input { name: onnx::SCENARIO.to_string(), dims: Vec::new(), is_integer: true });
    inputs
}

/// Name of the input with the rows of a sequence.
pub fn sequence_input(feature: &str) -> String {
    format!("sequence.{feature}")
}

/// Name of the input that says which elements of a sequence are there.
pub fn mask_input(feature: &str) -> String {
    format!("mask.{feature}")
}

/// What the tasks give.
pub fn outputs(job: &Job) -> Vec<Output> {
    let output = |task: &job::Task| {
        let (width, last) = match task.kind {
            TaskKind::Binary => (1, Last::Sigmoid),
            TaskKind::Regression | TaskKind::Bpr => (1, Last::Identity),
            TaskKind::Multiclass => (task.classes.unwrap_or(2), Last::Softmax),
        };
        Output { task: task.name.clone(), width, last }
    };
    job.tasks.iter().map(output).collect()
}

/// The inputs as the schema lists them.
pub fn graph_inputs(inputs: &[Input]) -> Vec<GraphInput> {
    let input = |input: &Input| GraphInput {
        name: input.name.clone(),
        dims: input.dims.iter().map(|&dim| dim as i64).collect(),
        dtype: if input.is_integer { "int64" } else { "float32" }.to_string(),
    };
    inputs.iter().map(input).collect()
}

impl Described<'_> {
    /// The schema. `used` are the inputs of the model in `file`.
    pub fn bundle_schema(&self, file: &str, used: &[Input], tables: Vec<Table>) -> Result<BundleSchema> {
        let reads = |name: &str| used.iter().any(|input| input.name == name);
        let mut sequences = self.sequences()?;
        sequences.retain(|sequence| reads(&sequence.values));
        Ok(BundleSchema {
            format: FORMAT,
            tandem: env!("CARGO_PKG_VERSION").to_string(),
            job: self.job.name.clone(),
            step: self.step,
            model: self.job.model.kind.clone(),
            rules: rules(),
            onnx: Onnx { file: file.to_string(), opset: onnx::OPSET, inputs: graph_inputs(used), self_contained: None },
            ids: self.id_features()?,
            pooled: if reads(POOLED) { self.pooled()? } else { Vec::new() },
            sequences,
            dense: self.schema.dense_features.iter().map(|feature| self.dense(feature)).collect::<Result<_>>()?,
            scenario: if reads(onnx::SCENARIO) { self.scenario()? } else { None },
            tables,
            tasks: outputs(self.job)
                .iter()
                .zip(&self.job.tasks)
                .map(|(output, task)| described(output, task))
                .collect(),
        })
    }

    fn column(&self, index: usize) -> String {
        self.schema.columns[index].name.clone()
    }

    /// The features of every set of tables.
    fn id_features(&self) -> Result<Vec<IdFeature>> {
        let alone = [String::new()];
        let sets = if self.spec.sets.is_empty() { &alone[..] } else { &self.spec.sets };
        let all = sets.iter().flat_map(|set| self.schema.id_features.iter().map(move |feature| (feature, set)));
        all.map(|(feature, set)| self.id_feature(feature, set)).collect()
    }

    fn id_feature(&self, feature: &data::IdFeature, set: &str) -> Result<IdFeature> {
        let source = match &feature.source {
            data::IdSource::Ids { column, last } => IdSource::Ids {
                column: self.column(*column),
                max_len: feature.max_len,
                keep: if *last { Keep::Last } else { Keep::First },
            },
            data::IdSource::Cross { columns } => {
                IdSource::Cross { columns: columns.iter().map(|&column| self.column(column)).collect() }
            }
            data::IdSource::Quantile { column, .. } => {
                let numeric = self.statistics.get(&feature.name)?;
                IdSource::Quantile {
                    column: self.column(*column),
                    boundaries: numeric.boundaries.clone(),
                    null_id: numeric.null_bucket(),
                }
            }
        };
        Ok(IdFeature { name: in_set(&feature.name, set), table: in_set(&feature.table, set), source })
    }

    fn pooled(&self) -> Result<Vec<Pooled>> {
        let mut pooled = Vec::new();
        let mut fields = self.spec.fields.iter();
        for bag in self.bags {
            let BagKind::Pooled(pool) = bag.kind else { continue };
            let Some(field) = fields.next() else {
                return Err(Error::internal("more pooled embeddings than the model has fields"));
            };
            let pooling = match pool {
                Pool::Sum => Pooling::Sum,
                Pool::Mean => Pooling::Mean,
            };
            let feature = bag.name.clone();
            let with = self.other_side(pooled.len());
            pooled.push(Pooled { feature, start: field.start, width: field.width, pooling, with });
        }
        Ok(pooled)
    }

    /// The feature that a field is paired with, by the field's number.
    fn other_side(&self, field: usize) -> Option<String> {
        let other = self.spec.pairs.iter().find_map(|pair| match field {
            left if left == pair.left => Some(pair.right),
            right if right == pair.right => Some(pair.left),
            _ => None,
        });
        Some(self.spec.fields.get(other?)?.name.clone())
    }

    fn sequences(&self) -> Result<Vec<Sequence>> {
        let mut sequences = Vec::new();
        let mut specs = self.spec.sequences.iter();
        for bag in self.bags.iter().filter(|bag| matches!(bag.kind, BagKind::Sequence { .. })) {
            let Some(spec) = specs.next() else {
                return Err(Error::internal("more sequences than the model has"));
            };
            let (values, mask) = (sequence_input(&spec.name), mask_input(&spec.name));
            let feature = bag.name.clone();
            sequences.push(Sequence { feature, values, mask, max_len: spec.max_len, dim: spec.dim });
        }
        Ok(sequences)
    }

    fn scenario(&self) -> Result<Option<Scenario>> {
        let Some((column, scenarios)) = self.schema.scenario.zip(self.statistics.scenarios()) else { return Ok(None) };
        let mut ids: Vec<(u32, u64)> = scenarios.numbers().into_iter().map(|(id, number)| (number, id)).collect();
        ids.sort_unstable();
        let ids = ids.into_iter().map(|(_, id)| id).collect();
        Ok(Some(Scenario { column: self.column(column), ids, names: scenarios.names().to_vec() }))
    }

    fn dense(&self, feature: &data::DenseFeature) -> Result<Dense> {
        let (transform, null) = match feature.transform {
            None => (Transform::None, 0.0),
            Some(transform) => {
                let numeric = self.statistics.get(&feature.name)?;
                let (mean, std, min, max) = (numeric.mean, numeric.std, numeric.min, numeric.max);
                let described = match transform {
                    job::Transform::None => Transform::None,
                    job::Transform::Standardize => Transform::Standardize { mean, std },
                    job::Transform::Log1p => Transform::Log1p,
                    job::Transform::MinMax => Transform::MinMax { min, max },
                    job::Transform::Quantile => return Err(Error::internal("a quantile among the numbers")),
                };
                (described, numeric.fill(transform))
            }
        };
        let (name, column) = (feature.name.clone(), self.column(feature.column));
        Ok(Dense { name, column, start: feature.start, width: feature.width, transform, null })
    }
}

fn described(output: &Output, task: &job::Task) -> Task {
    let kind = match task.kind {
        TaskKind::Binary => "binary",
        TaskKind::Regression => "regression",
        TaskKind::Multiclass => "multiclass",
        TaskKind::Bpr => "bpr",
    };
    let activation = match output.last {
        Last::Identity => "identity",
        Last::Sigmoid => "sigmoid",
        Last::Softmax => "softmax",
    };
    Task {
        name: task.name.clone(),
        kind: kind.to_string(),
        prediction: format!("pred_{}", task.name),
        logits: format!("logits_{}", task.name),
        width: output.width,
        activation: activation.to_string(),
    }
}
