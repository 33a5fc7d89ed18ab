//! What an evaluation says: metrics by task, of all rows and of each scenario's.

use super::{Curves, Name, TaskReport, Value};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The metrics of one evaluation. Serialises as `{"tasks": {task: …}, "scenarios": […], "curves": {task: …}}`,
/// without those of which there are none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Of all rows.
    #[serde(serialize_with = "by_task")]
    pub tasks: Vec<TaskReport>,
    /// Of the rows of each scenario, by its number; "other" comes last, and only if it has rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scenarios: Vec<ScenarioReport>,
    /// What is drawn of the binary tasks, of all rows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub curves: BTreeMap<String, Curves>,
}

/// The metrics of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScenarioReport {
    /// Its value; `null` for "other": rows without a value, or with one that training has not seen.
    pub scenario: Option<String>,
    /// Rows, labelled or not.
    pub rows: u64,
    /// By task.
    #[serde(serialize_with = "by_task")]
    pub tasks: Vec<TaskReport>,
}

/// Serialises reports as `{task: …}`.
pub fn by_task<S: Serializer>(reports: &[TaskReport], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(reports.len()))?;
    for report in reports {
        map.serialize_entry(&report.task, report)?;
    }
    map.end()
}

/// Task, name and value of the first metric of each task that has one.
pub fn headlines(reports: &[TaskReport]) -> Vec<(String, String, f64)> {
    let of_task = |report: &TaskReport| {
        let (name, value) = headline(report)?;
        Some((report.task.clone(), name.to_string(), value.get()?))
    };
    reports.iter().filter_map(of_task).collect()
}

/// The one value that stands for a task where there is no room for all: that of its first metric.
pub(super) fn headline(report: &TaskReport) -> Option<&(Name, Value)> {
    report.values.first().filter(|(name, _)| name != "rows")
}
