//! Runs beside each other: their metrics, and the keys in which their jobs differ.

use super::run_log::RunLog;
use crate::metric::higher_is_better;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The metrics of one split.
#[derive(Debug, Serialize)]
pub(super) struct Metrics {
    split: &'static str,
    /// The step of each run's evaluation; null without one.
    steps: Vec<Value>,
    /// Names of the columns.
    names: Vec<String>,
    tasks: Vec<Task>,
}

/// One task: a line of cells for each run, a cell for each name.
#[derive(Debug, Serialize)]
struct Task {
    name: String,
    runs: Vec<Vec<Cell>>,
}

/// One value.
#[derive(Debug, Clone, Serialize)]
struct Cell {
    value: Value,
    /// Whether it counts something.
    counts: bool,
    /// Whether it is better than that of some other run, and none is better.
    best: bool,
}

/// The last metrics of all runs, by split.
pub(super) fn metrics(runs: &[RunLog]) -> Vec<Metrics> {
    let splits = ["test", "valid"].into_iter();
    splits.map(|split| of_split(runs, split)).filter(|metrics| !metrics.tasks.is_empty()).collect()
}

fn of_split(runs: &[RunLog], split: &'static str) -> Metrics {
    let evals: Vec<Option<&Value>> = runs.iter().map(|run| run.last_eval(split)).collect();
    let (mut tasks, mut names): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (run, eval) in runs.iter().zip(&evals) {
        for task in run.tasks() {
            let Some(metrics) = eval.and_then(|eval| eval["tasks"][&task].as_object()) else { continue };
            // The bound of an exact AUC says nothing.
            let says =
                |(name, value): &(&String, &Value)| *name != "auc_bound" || value.as_f64().is_some_and(|v| v > 0.0);
            for (name, _) in metrics.iter().filter(says).filter(|(name, _)| !names.contains(name)).collect::<Vec<_>>() {
                names.push(name.clone());
            }
            if !tasks.contains(&task) {
                tasks.push(task);
            }
        }
    }
    let of_task = |name: String| {
        let columns: Vec<Vec<Cell>> = names.iter().map(|metric| column(&evals, &name, metric)).collect();
        let line = |run: usize| columns.iter().map(|cells| cells[run].clone()).collect();
        Task { name, runs: (0..runs.len()).map(line).collect() }
    };
    let tasks = tasks.into_iter().map(of_task).collect();
    let steps = evals.iter().map(|eval| eval.map_or(Value::Null, |eval| eval["step"].clone())).collect();
    Metrics { split, steps, tasks, names }
}

/// One metric of a task in all runs.
fn column(evals: &[Option<&Value>], task: &str, metric: &str) -> Vec<Cell> {
    let value = |eval: &Option<&Value>| eval.map_or(Value::Null, |eval| eval["tasks"][task][metric].clone());
    let values: Vec<Value> = evals.iter().map(value).collect();
    let counts = values.iter().any(Value::is_u64) && higher_is_better(metric).is_err();
    let best = best(metric, &values);
    values.into_iter().enumerate().map(|(run, value)| Cell { value, counts, best: best == Some(run) }).collect()
}

fn best(metric: &str, values: &[Value]) -> Option<usize> {
    let higher = higher_is_better(metric).ok()?;
    let known: Vec<(usize, f64)> = values.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_f64()?))).collect();
    let best = known.iter().copied().reduce(|a, b| if (b.1 > a.1) == higher && b.1 != a.1 { b } else { a })?;
    known.iter().any(|(_, value)| *value != best.1).then_some(best.0)
}

/// A key of the job that runs have different values of.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Difference {
    key: String,
    /// Of each run; empty where the job has no such key.
    values: Vec<String>,
}

/// Where the resolved jobs of several runs differ; their names and folders do so anyway.
pub(super) fn jobs(runs: &[RunLog]) -> Vec<Difference> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        flatten("", &run.job, &mut |key, value| {
            keys.entry(key).or_insert_with(|| vec![String::new(); runs.len()])[number] = value;
        });
    }
    keys.retain(|key, values| !["name", "run_dir"].contains(&key.as_str()) && values.iter().any(|v| *v != values[0]));
    keys.into_iter().map(|(key, values)| Difference { key, values }).collect()
}

/// Gives every value that is no mapping and no list of mappings, with its path.
fn flatten(path: &str, value: &serde_yaml::Value, take: &mut impl FnMut(String, String)) {
    use serde_yaml::Value as Yaml;
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match value {
        Yaml::Mapping(entries) => {
            for (key, value) in entries {
                flatten(&below(key.as_str().unwrap_or("?")), value, take);
            }
        }
        // Tasks and features are known by their names: one more should not make the rest look different.
        Yaml::Sequence(items) if items.iter().any(Yaml::is_mapping) => {
            for (number, item) in items.iter().enumerate() {
                let name = item["name"].as_str().map_or_else(|| number.to_string(), String::from);
                flatten(&below(&name), item, take);
            }
        }
        _ => take(path.to_string(), one_line(value)),
    }
}

/// A value as it stands in YAML, on one line.
pub(super) fn one_line(value: &serde_yaml::Value) -> String {
    serde_json::to_string(value).map_or_else(|_| String::new(), |text| text.replace('"', ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(job: &str, evals: Vec<Value>) -> RunLog {
        RunLog { job: serde_yaml::from_str(job).unwrap(), evals, ..RunLog::default() }
    }

    #[test]
    fn jobs_differ_by_key_whatever_their_order() {
        let a = run(
            "{name: a, tasks: [{name: x, weight: 1}, {name: y, weight: 2}], model: {kind: mmoe, tower: [8, 4]}}",
            vec![],
        );
        let b = run(
            "{name: b, tasks: [{name: y, weight: 2}], model: {kind: ple, tower: [8, 4]}, train: {epochs: 3}}",
            vec![],
        );
        let found: Vec<(String, Vec<String>)> = jobs(&[a, b]).into_iter().map(|d| (d.key, d.values)).collect();
        let want = [
            ("model.kind", ["mmoe", "ple"]),
            ("tasks.x.name", ["x", ""]),
            ("tasks.x.weight", ["1", ""]),
            ("train.epochs", ["", "3"]),
        ];
        assert_eq!(found, want.map(|(key, values)| (key.to_string(), values.map(String::from).to_vec())));
    }

    #[test]
    fn the_best_run_is_the_one_that_the_metric_says() {
        assert_eq!(best("auc", &[json!(0.7), json!(0.8), Value::Null]), Some(1));
        assert_eq!(best("logloss", &[json!(0.7), json!(0.8)]), Some(0));
        assert_eq!(best("auc", &[json!(0.7), json!(0.7)]), None);
        assert_eq!(best("positives", &[json!(3), json!(4)]), None);
    }

    #[test]
    fn metrics_stand_by_split_with_a_value_a_run() {
        let eval = |split: &str, auc: f64| json!({"split": split, "step": 5, "tasks": {"x": {"auc": auc, "auc_bound": 0.0, "rows": 9}}});
        let job = "{tasks: [{name: x}]}";
        let runs = [
            run(job, vec![eval("valid", 0.5), eval("valid", 0.6)]),
            run(job, vec![eval("valid", 0.7), eval("test", 0.8)]),
        ];
        let found = metrics(&runs);
        assert_eq!(found.iter().map(|metrics| metrics.split).collect::<Vec<_>>(), ["test", "valid"]);
        assert_eq!((found[0].steps[0].clone(), found[0].steps[1].clone()), (Value::Null, json!(5)));
        assert_eq!(
            (&found[0].tasks[0].runs[0][0].value, &found[0].tasks[0].runs[1][0].value),
            (&Value::Null, &json!(0.8))
        );
        assert_eq!(found[1].names, ["auc", "rows"]);
        let [first, second] = &found[1].tasks[0].runs[..] else { panic!("{found:?}") };
        assert_eq!((first[0].best, second[0].best, first[1].counts, first[1].best), (false, true, true, false));
    }
}
