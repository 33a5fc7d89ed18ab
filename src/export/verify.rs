//! Scoring a bundle's golden rows by the bundle alone, as a serving system would.
//!
//! Nothing here is shared with what trains and predicts: ids are hashed, numbers transformed and rows pooled by the
//! words of `schema.json`, and the model is run by `tract`. What both sides would get wrong alike would not be found
//! otherwise.

mod graph;
mod limits;
mod lookup;
mod operators;
mod rows;

use super::bundle::Manifest;
use super::golden;
use super::schema::{self, BundleSchema, GraphInput};
use crate::checkpoint::inside;
use crate::error::{Error, Result};
use crate::guard;
use graph::Model;
use lookup::Vectors;
use rows::Ids;
use std::collections::BTreeMap;
use std::path::Path;

/// How far a prediction may be from what the trained model gives; of values beyond ±1 relative to them.
pub const TOLERANCE: f64 = 1e-5;

/// What a bundle gives for its golden rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Golden rows.
    pub rows: usize,
    /// The largest difference of each of the model's inputs, by its name.
    pub inputs: Vec<(String, f64)>,
    /// The largest difference of each task's predictions.
    pub tasks: Vec<(String, f64)>,
    /// The same of the model that holds the tables; empty where there is none.
    pub self_contained: Vec<(String, f64)>,
}

impl Report {
    /// An error that names the task or input whose difference is too large.
    pub fn check(&self) -> Result<()> {
        let all = self.inputs.iter().chain(&self.tasks).chain(&self.self_contained);
        // A difference that is not a number is one too many.
        match all.into_iter().find(|(_, difference)| difference.is_nan() || *difference > TOLERANCE) {
            None => Ok(()),
            Some((name, difference)) => Err(Error::numeric(format!(
                "`{name}` differs by {difference:.3e} from what the trained model gives, more than {TOLERANCE:e}"
            ))
            .fix("do not serve this bundle; if it was not changed since it was exported, this is a bug of tandem")),
        }
    }
}

/// Reads the bundle `dir` and scores its golden rows.
///
/// # Errors
/// A file that is missing or was changed. A difference is no error here: see [`Report::check`].
pub fn verify(dir: &Path) -> Result<Report> {
    // What a checked schema and model can still make a library do to a hostile file is no bug of the caller.
    guard::run(|| verified(dir)).unwrap_or_else(|panic| {
        Err(Error::checkpoint(format!("the bundle cannot be read: {panic}"))
            .at("path", dir.display())
            .fix("export it again"))
    })
}

fn verified(dir: &Path) -> Result<Report> {
    let manifest = Manifest::read_checked(dir)?;
    if manifest.since.is_some() {
        return Err(Error::checkpoint("a delta cannot be verified alone")
            .at("path", dir.display())
            .fix("apply it to its base with `tandem apply`, which verifies the result"));
    }
    let schema = read_schema(dir)?;
    let golden = golden::read(&inside(dir, golden::FILE)?)?;
    let rows = golden.num_rows();
    limits::check_rows(&schema, rows).map_err(|what| unusable(dir, &what))?;
    let ids = schema.ids.iter().map(|feature| rows::ids(feature, &golden)).collect::<Result<Vec<_>>>()?;
    let ids: BTreeMap<&str, Ids> = schema.ids.iter().map(|feature| feature.name.as_str()).zip(ids).collect();
    let vectors = Vectors::read(dir, &schema, &ids)?;

    let mut inputs = vectors.inputs(&schema, &ids, rows)?;
    inputs.insert("dense".to_string(), rows::dense(&schema.dense, &golden)?);
    if let Some(scenario) = &schema.scenario {
        inputs.insert("scenario".to_string(), rows::scenarios(scenario, &golden)?);
    }
    let compare = |name: &str, found: &[f32]| -> Result<f64> {
        let expected = golden::numbers(&golden, name);
        let expected = expected.ok_or_else(|| Error::data(format!("the golden rows have no `{name}`")))?;
        Ok(difference(found, &expected))
    };
    let of_inputs = schema.onnx.inputs.iter();
    let of_inputs = of_inputs.map(|input| Ok((input.name.clone(), compare(&input.name, input_of(&inputs, input)?)?)));
    let of_inputs = of_inputs.collect::<Result<_>>()?;
    let score = |file: &str, graph_inputs: &[GraphInput]| -> Result<Vec<(String, f64)>> {
        let model = Model::read(&inside(dir, file)?, graph_inputs, &ids, rows)?;
        let outputs = model.run(|input| input_of(&inputs, input).map(<[f32]>::to_vec))?;
        if outputs.len() != 2 * schema.tasks.len() {
            let what = format!("a model with {} outputs for {} tasks", outputs.len(), schema.tasks.len());
            return Err(unusable(dir, &what));
        }
        let predictions = schema.tasks.iter().zip(outputs.chunks(2));
        let of_task = |(task, both): (&schema::Task, &[Vec<f32>])| {
            // Each task has its prediction, then its logits.
            Ok((task.name.clone(), compare(&task.prediction, &both[0])?.max(scaled(compare(&task.logits, &both[1])?))))
        };
        predictions.map(of_task).collect()
    };
    let tasks = score(&schema.onnx.file, &schema.onnx.inputs)?;
    let self_contained = match &schema.onnx.self_contained {
        Some(model) => score(&model.file, &model.inputs)?,
        None => Vec::new(),
    };
    Ok(Report { rows, inputs: of_inputs, tasks, self_contained })
}

/// Reads a bundle's schema.
pub fn read_schema(dir: &Path) -> Result<BundleSchema> {
    let path = inside(dir, schema::FILE)?;
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("reading", &path, &e))?;
    let schema = serde_json::from_str(&text).map_err(|e| unusable(dir, &e.to_string()))?;
    limits::check(&schema).map_err(|what| unusable(dir, &what))?;
    Ok(schema)
}

fn unusable(dir: &Path, what: &str) -> Error {
    let path = dir.join(schema::FILE);
    Error::checkpoint(format!("the schema cannot be read: {what}")).at("file", path.display()).fix("export it again")
}

fn input_of<'a>(inputs: &'a BTreeMap<String, Vec<f32>>, input: &GraphInput) -> Result<&'a [f32]> {
    let found = inputs.get(&input.name).map(Vec::as_slice);
    found.ok_or_else(|| Error::data(format!("the schema does not say what the input `{}` is", input.name)))
}

/// Logits may be ten times as far off as predictions: a sigmoid's slope is at most a quarter, and sums are long.
fn scaled(difference: f64) -> f64 {
    difference / 10.0
}

/// The largest |a − b|, relative to b where that is beyond ±1; infinite for other lengths.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let pairs = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let differences = pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0));
    // `max` would lose a NaN.
    differences.fold(0.0, |max: f64, d| if d.is_nan() || d > max { d } else { max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_absolute_below_one_and_relative_above() {
        assert_eq!(difference(&[0.5, 200.0], &[0.25, 100.0]), 1.0);
        assert_eq!(difference(&[], &[]), 0.0);
        assert_eq!(difference(&[1.0], &[]), f64::INFINITY);
        assert!(difference(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
    }

    #[test]
    fn a_report_fails_by_the_first_that_is_too_far_off() {
        let report = |task: f64| Report {
            rows: 1,
            inputs: vec![("pooled".into(), 0.0)],
            tasks: vec![("click".into(), task)],
            self_contained: Vec::new(),
        };
        report(1e-5).check().unwrap();
        for bad in [1.1e-5, f64::NAN, f64::INFINITY] {
            assert!(report(bad).check().unwrap_err().to_string().contains("`click` differs"));
        }
    }
}
