//! Metrics over all ranks' rows, per task.
//!
//! Every metric is the same at any number of ranks, to the last bit: pairs and counts are integers, and sums of
//! real numbers are exact (`sum.rs`), so neither the order of the rows nor their rank matters. Rows
//! whose weight is 0 carry no label and are left out; beyond that metrics are *unweighted*.
//!
//! A metric is one file and a line in `REGISTRY`. A value that does not exist (AUC with one class) is
//! [`Value::Undefined`]: printed as such, `null` in JSON, never NaN.

mod accuracy;
mod auc;
mod calibration;
mod curves;
mod evaluator;
mod gauc;
mod logloss;
mod pairs;
mod ranking;
mod regression;
mod render;
mod report;
mod scenarios;
mod sum;

pub use curves::{Bucket, Curves};
pub use evaluator::{Evaluator, TaskReport, Value, score};
pub use ranking::Ranking;
pub use render::{render, render_tasks};
pub use report::{Report, ScenarioReport, by_task, headlines};
pub use scenarios::ByScenario;

use crate::comm::Communicator;
use crate::config::job::TaskKind;
use crate::config::suggest;
use crate::error::{Error, Result};
use std::borrow::Cow;

/// Name of a value: fixed, or with a number of the job in it.
pub type Name = Cow<'static, str>;

/// One task, as its metrics see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What it predicts.
    pub kind: TaskKind,
    /// Logits a row: 1, or the number of classes.
    pub outputs: usize,
    /// Whether rows come with group keys, for GAUC.
    pub grouped: bool,
    /// Lengths of the rankings that it is evaluated by.
    pub ranked_at: Vec<usize>,
}

/// Some labelled rows of one task.
struct Rows<'a> {
    /// Logits a row.
    outputs: usize,
    /// `rows × outputs`, all finite.
    logits: &'a [f32],
    /// One a row.
    labels: &'a [f32],
    /// One a row; empty for a task that is not grouped.
    groups: &'a [u64],
}

/// A metric of one task that is being gathered on one rank.
trait Metric {
    /// Takes some rows in.
    ///
    /// # Errors
    /// A label that the task cannot have.
    fn add(&mut self, rows: &Rows) -> Result<()>;

    /// The values over all ranks, in the order of the definition's names. Collective.
    fn finish(self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>>;

    /// The same, with what is drawn of the metric put into `curves`. Collective.
    fn finish_drawn(self: Box<Self>, comm: &dyn Communicator, _curves: &mut Curves) -> Result<Vec<Value>> {
        self.finish(comm)
    }
}

/// Which values of a metric are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
    /// It describes; it cannot choose the best of two models.
    Neither,
}

/// A metric and the values that it reports.
struct Definition {
    values: &'static [(&'static str, Better)],
    /// A fresh one for a task, for at most so many rows over all ranks; none where it does not apply.
    build: fn(&Task, u64) -> Option<Box<dyn Metric>>,
}

/// Every metric, in the order of the report.
const REGISTRY: &[Definition] = &[
    auc::DEFINITION,
    gauc::DEFINITION,
    logloss::DEFINITION,
    calibration::DEFINITION,
    accuracy::DEFINITION,
    regression::DEFINITION,
];

/// What `loss` stands for, by the kind of the task: the metrics that its training loss is.
const LOSSES: [&str; 2] = ["logloss", "mse"];

/// Whether a higher value of the metric called `name` is the better one. `loss` is the training loss of any
/// task, whatever its kind.
///
/// # Errors
/// No metric has this name, or it has no better direction: an error of the job.
pub fn higher_is_better(name: &str) -> Result<bool> {
    let values = || REGISTRY.iter().flat_map(|definition| definition.values);
    let better = match name {
        "loss" => Some(Better::Lower),
        _ if ranking::is_name(name) => Some(Better::Higher),
        _ => values().find(|(known, _)| *known == name).map(|(_, better)| *better),
    };
    match better {
        Some(Better::Higher) => Ok(true),
        Some(Better::Lower) => Ok(false),
        other => {
            let mut known: Vec<&str> = vec!["loss"];
            for (value, better) in values() {
                if *better != Better::Neither && !known.contains(value) {
                    known.push(value);
                }
            }
            let what = match other {
                Some(_) => format!("`{name}` cannot choose the best model: neither high nor low is better"),
                None => format!("unknown metric `{name}`"),
            };
            Err(Error::job(what).fix(suggest(name, &known, "metrics")))
        }
    }
}

/// Names of the values that a task can be judged by. `loss` is among them, except where it depends on what is drawn.
pub fn scores_of(task: &Task) -> Vec<Name> {
    let applies = |definition: &&Definition| (definition.build)(task, 1).is_some();
    let values = REGISTRY.iter().filter(applies).flat_map(|definition| definition.values);
    let fixed = values.filter(|(_, better)| *better != Better::Neither).map(|(name, _)| *name);
    let loss = (task.kind != TaskKind::Bpr).then_some("loss");
    ranking::names(&task.ranked_at).chain(fixed.chain(loss).map(Cow::Borrowed)).collect()
}

/// A quotient, undefined for an empty or vanishing denominator.
fn quotient(numerator: f64, denominator: f64) -> Value {
    if denominator == 0.0 { Value::Undefined } else { Value::real(numerator / denominator) }
}

/// The logistic function in float64, without overflow.
fn sigmoid(logit: f32) -> f64 {
    let x = f64::from(logit);
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// Whether a binary label is positive.
///
/// # Errors
/// A label other than 0 and 1.
fn is_positive(label: f32) -> Result<bool> {
    match label {
        1.0 => Ok(true),
        0.0 => Ok(false),
        _ => Err(Error::data(format!("label {label} is neither 0 nor 1"))
            .fix("use `kind: multiclass` or `kind: regression`, or map the label to 0 and 1")),
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_known_and_mistakes_answered() {
        for name in ["auc", "gauc", "accuracy", "recall@20", "ndcg@5"] {
            assert!(higher_is_better(name).unwrap(), "{name}");
        }
        for name in ["loss", "logloss", "normalized_entropy", "ece", "rmse", "mae"] {
            assert!(!higher_is_better(name).unwrap(), "{name}");
        }
        let error = higher_is_better("guac").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("did you mean `gauc`"), "{error}");
        assert!(higher_is_better("calibration").unwrap_err().to_string().contains("neither"));
    }

    #[test]
    fn the_logistic_function_has_no_overflow() {
        assert_eq!((sigmoid(0.0), sigmoid(f32::MAX), sigmoid(f32::MIN)), (0.5, 1.0, 0.0));
        assert!((sigmoid(-2.0) + sigmoid(2.0) - 1.0).abs() < 1e-15);
    }
}
