//! All metrics of all tasks over one evaluation, and the report of it.

use super::{Curves, LOSSES, Metric, Name, REGISTRY, Rows, Task};
use crate::comm::{Communicator, collectives};
use crate::config::job::TaskKind;
use crate::error::{Error, Result};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// One value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A finite number.
    Real(f64),
    /// A count.
    Count(u64),
    /// There is none, for example AUC with one class: `null` in JSON.
    Undefined,
}

impl Value {
    /// A number, undefined if it is not finite.
    pub(super) fn real(value: f64) -> Self {
        if value.is_finite() { Self::Real(value) } else { Self::Undefined }
    }

    /// The same, with a number changed.
    pub(super) fn map(self, change: impl Fn(f64) -> f64) -> Self {
        match self {
            Self::Real(value) => Self::real(change(value)),
            other => other,
        }
    }

    /// The number, if there is one.
    pub fn get(self) -> Option<f64> {
        match self {
            Self::Real(value) => Some(value),
            Self::Count(count) => Some(count as f64),
            Self::Undefined => None,
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Real(value) => serializer.serialize_f64(*value),
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Undefined => serializer.serialize_none(),
        }
    }
}

/// The metrics of one task. Serialises as one flat map, in order:
/// `{"auc":…, "auc_bound":…, …, "rows":…, "positives":…}`.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskReport {
    /// Name of the task (not in the map).
    pub task: String,
    /// Each metric's name and value: those of its rankings, the others in the order of the registry, then `rows`
    /// and, for binary tasks, `positives`.
    pub values: Vec<(Name, Value)>,
}

impl TaskReport {
    /// The value called `name`; `loss` is the training loss of any kind of task. `None` where it is undefined or
    /// the task has no such metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        let find = |name: &str| self.values.iter().find(|(known, _)| *known == name);
        let entry = if name == "loss" { LOSSES.iter().find_map(|loss| find(loss)) } else { find(name) };
        entry.and_then(|(_, value)| value.get())
    }
}

impl Serialize for TaskReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (name, value) in &self.values {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The number that decides between models: `metric` of `task`, or its mean over the tasks that have it where
/// `task` is `mean`. `None` where it is undefined everywhere.
///
/// # Errors
/// No task has this name: an error of the job.
pub fn score(reports: &[TaskReport], metric: &str, task: &str) -> Result<Option<f64>> {
    if let Some(report) = reports.iter().find(|report| report.task == task) {
        return Ok(report.get(metric));
    }
    if task != "mean" {
        let names: Vec<&str> = reports.iter().map(|report| report.task.as_str()).chain(["mean"]).collect();
        return Err(Error::job(format!("unknown task `{task}`")).fix(crate::config::suggest(task, &names, "tasks")));
    }
    let defined: Vec<f64> = reports.iter().filter_map(|report| report.get(metric)).collect();
    Ok((!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64))
}

/// Gathers the metrics of all tasks over the rows of one rank.
pub struct Evaluator {
    tasks: Vec<Running>,
}

/// One task and what is known of it so far.
struct Running {
    task: Task,
    /// With the names of its values.
    metrics: Vec<(Vec<&'static str>, Box<dyn Metric>)>,
    rows: u64,
    positives: u64,
}

impl Evaluator {
    /// A fresh one. `rows` is the number of rows that will be evaluated over *all* ranks (an upper bound will do,
    /// the same on every rank): it decides the resolution of the AUC.
    pub fn new(tasks: &[Task], rows: u64) -> Self {
        let running = |task: &Task| {
            let built = REGISTRY.iter().filter_map(|definition| {
                let metric = (definition.build)(task, rows)?;
                Some((definition.values.iter().map(|(name, _)| *name).collect(), metric))
            });
            Running { task: task.clone(), metrics: built.collect(), rows: 0, positives: 0 }
        };
        Self { tasks: tasks.iter().map(running).collect() }
    }

    /// Takes in rows of task number `task`: `rows × outputs` logits (the prediction itself for regression), and a
    /// label and a weight per row; rows of weight 0 are left out. `groups` has a key per row if the task is
    /// grouped, else it is ignored.
    ///
    /// # Errors
    /// A logit that is not finite, or a label that the task cannot have; names the task.
    pub fn add(&mut self, task: usize, logits: &[f32], labels: &[f32], weights: &[f32], groups: &[u64]) -> Result<()> {
        let Some(running) = self.tasks.get_mut(task) else {
            return Err(Error::internal(format!("there is no task number {task}")));
        };
        let outputs = running.task.outputs;
        let groups = if running.task.grouped { groups } else { &[] };
        let rows = weights.len();
        if logits.len() != rows * outputs || labels.len() != rows || running.task.grouped && groups.len() != rows {
            return Err(
                Error::internal("logits, labels, weights and groups differ in rows").at("task", &running.task.name)
            );
        }
        if weights.iter().all(|&w| w != 0.0) {
            return running.add(&Rows { outputs, logits, labels, groups });
        }
        let labelled: Vec<usize> = (0..rows).filter(|&row| weights[row] != 0.0).collect();
        let chosen = |values: &[f32], width: usize| -> Vec<f32> {
            labelled.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect()
        };
        let (logits, labels) = (chosen(logits, outputs), chosen(labels, 1));
        let groups: Vec<u64> = labelled.iter().filter_map(|&row| groups.get(row).copied()).collect();
        running.add(&Rows { outputs, logits: &logits, labels: &labels, groups: &groups })
    }

    /// The metrics of every task over all ranks' rows; the same bits on every rank, at any number of ranks.
    /// Collective.
    pub fn finish(self, comm: &dyn Communicator) -> Result<Vec<TaskReport>> {
        self.tasks.into_iter().map(|running| running.finish(comm, None)).collect()
    }

    /// The same, and what is drawn of each task of which there is anything. Collective.
    pub fn finish_drawn(self, comm: &dyn Communicator) -> Result<(Vec<TaskReport>, BTreeMap<String, Curves>)> {
        let mut curves = BTreeMap::new();
        let mut reports = Vec::new();
        for running in self.tasks {
            let mut drawn = Curves::default();
            let report = running.finish(comm, Some(&mut drawn))?;
            if !drawn.is_empty() {
                curves.insert(report.task.clone(), drawn);
            }
            reports.push(report);
        }
        Ok((reports, curves))
    }
}

impl Running {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        let at = |error: Error| error.at("task", &self.task.name);
        if let Some(bad) = rows.logits.iter().find(|logit| !logit.is_finite()) {
            return Err(at(Error::numeric(format!("a prediction is {bad}"))
                .fix("lower the learning rates, or look for extreme values in the features")));
        }
        for (_, metric) in &mut self.metrics {
            metric.add(rows).map_err(at)?;
        }
        self.rows += rows.labels.len() as u64;
        self.positives += rows.labels.iter().filter(|&&label| label == 1.0).count() as u64;
        Ok(())
    }

    fn finish(self, comm: &dyn Communicator, mut curves: Option<&mut Curves>) -> Result<TaskReport> {
        let mut values = Vec::new();
        for (names, metric) in self.metrics {
            let found = match &mut curves {
                Some(curves) => metric.finish_drawn(comm, curves)?,
                None => metric.finish(comm)?,
            };
            values.extend(names.into_iter().map(Name::Borrowed).zip(found));
        }
        let mut counts = [self.rows, self.positives];
        collectives::all_reduce_sum(comm, &mut counts)?;
        values.push(("rows".into(), Value::Count(counts[0])));
        if self.task.kind == TaskKind::Binary {
            values.push(("positives".into(), Value::Count(counts[1])));
        }
        Ok(TaskReport { task: self.task.name, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use crate::metric::testing::dealt;

    fn task(name: &str, kind: TaskKind, outputs: usize) -> Task {
        Task { name: name.to_string(), kind, outputs, grouped: name == "click", ranked_at: Vec::new() }
    }

    fn tasks() -> Vec<Task> {
        vec![
            task("click", TaskKind::Binary, 1),
            task("buy", TaskKind::Binary, 1),
            task("stars", TaskKind::Regression, 1),
            task("kind", TaskKind::Multiclass, 3),
        ]
    }

    /// Evaluates 200 rows over some ranks; `buy` has labels where `click` is 1.
    fn evaluate(ranks: usize) -> (Vec<TaskReport>, BTreeMap<String, Curves>) {
        let rows: Vec<u64> = (0..200).collect();
        let reports = threads::ranks(ranks, |comm| {
            let mut evaluator = Evaluator::new(&tasks(), 200);
            for row in dealt(&rows, comm) {
                let draw = |what: u64| crate::random::unit(9, &[row, what]) as f32;
                let clicked = f32::from(u8::from(draw(0) < 0.4));
                evaluator.add(0, &[draw(1) + clicked], &[clicked], &[2.0], &[row % 7]).unwrap();
                evaluator.add(1, &[draw(2)], &[f32::from(u8::from(draw(3) < 0.3))], &[clicked], &[]).unwrap();
                evaluator.add(2, &[draw(4)], &[draw(5)], &[1.0], &[]).unwrap();
                evaluator.add(3, &[draw(6), draw(7), draw(8)], &[(row % 3) as f32], &[1.0], &[]).unwrap();
            }
            evaluator.finish_drawn(comm).unwrap()
        });
        assert!(reports.iter().all(|r| *r == reports[0]));
        reports[0].clone()
    }

    #[test]
    fn all_ranks_and_all_numbers_of_ranks_report_the_same_bits() {
        let one = evaluate(1);
        for ranks in 2..=4 {
            assert_eq!(evaluate(ranks), one);
        }
        let (one, curves) = one;
        assert_eq!(curves.keys().collect::<Vec<_>>(), ["buy", "click"], "only binary tasks have curves");
        let (click, buy) = (&curves["click"], &curves["buy"]);
        assert_eq!(click.calibration.iter().map(|bucket| bucket.rows).sum::<u64>(), 200);
        assert_eq!(Some(click.gauc.iter().sum::<u64>() as f64), one[0].get("gauc_groups"));
        assert!(buy.gauc.is_empty() && buy.roc.len() > 2);
        assert_eq!(one[0].get("rows"), Some(200.0));
        assert_eq!(one[1].get("rows"), one[0].get("positives"));
        assert!(one[0].get("gauc").is_some() && one[1].get("gauc").is_none());
        assert_eq!(one[2].get("loss"), one[2].get("mse"));
        assert_eq!(one[3].get("loss"), one[3].get("logloss"));
    }

    #[test]
    fn reports_are_flat_objects_without_nan() {
        let mut evaluator = Evaluator::new(&[task("buy", TaskKind::Binary, 1)], 1);
        evaluator.add(0, &[0.0, 9.0], &[0.0, 7.0], &[1.0, 0.0], &[]).unwrap();
        let report = evaluator.finish(&crate::comm::solo::Solo).unwrap();
        assert_eq!(
            serde_json::to_string(&report[0]).unwrap(),
            "{\"auc\":null,\"auc_bound\":null,\"logloss\":0.6931471805599453,\"normalized_entropy\":null,\
             \"calibration\":null,\"ece\":0.5,\"rows\":1,\"positives\":0}"
        );
    }

    #[test]
    fn a_batch_in_one_piece_is_the_same_as_row_by_row() {
        let (mut whole, mut single) = (Evaluator::new(&tasks(), 9), Evaluator::new(&tasks(), 9));
        let (labels, weights) = ([0.0, 1.0, 2.0, 0.0], [1.0, 0.0, 0.5, 1.0]);
        let logits: Vec<f32> = (0..12).map(|i| i as f32 * 0.3 % 1.0).collect();
        whole.add(3, &logits, &labels, &weights, &[]).unwrap();
        for row in 0..4 {
            single.add(3, &logits[row * 3..row * 3 + 3], &labels[row..=row], &weights[row..=row], &[]).unwrap();
        }
        let finish = |evaluator: Evaluator| evaluator.finish(&crate::comm::solo::Solo).unwrap();
        assert_eq!(finish(whole), finish(single));
    }

    #[test]
    fn bad_rows_name_the_task() {
        let mut evaluator = Evaluator::new(&tasks(), 9);
        for (result, words) in [
            (evaluator.add(1, &[f32::NAN], &[0.0], &[1.0], &[]), "NaN"),
            (evaluator.add(1, &[0.0], &[2.0], &[1.0], &[]), "neither 0 nor 1"),
        ] {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(words) && message.contains("task buy"), "{message}");
        }
        assert!(evaluator.add(0, &[0.0], &[1.0], &[1.0], &[]).is_err(), "a grouped task without groups");
    }

    #[test]
    fn the_deciding_number_is_of_one_task_or_the_mean() {
        let report = |task: &str, value| TaskReport { task: task.to_string(), values: vec![("auc".into(), value)] };
        let reports = [report("a", Value::Real(0.6)), report("b", Value::Real(0.8)), report("c", Value::Undefined)];
        assert_eq!(score(&reports, "auc", "b").unwrap(), Some(0.8));
        assert_eq!(score(&reports, "auc", "mean").unwrap(), Some(0.7));
        assert_eq!(score(&reports, "auc", "c").unwrap(), None);
        assert_eq!(score(&reports, "rmse", "mean").unwrap(), None);
        assert_eq!(score(&reports, "auc", "d").unwrap_err().exit_code(), 2);
    }
}
