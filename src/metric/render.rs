//! The metrics of an evaluation as a table for people.

use super::report::headline;
use super::{Report, ScenarioReport, TaskReport, Value};

/// Values that stand in JSON only, so that the table of a binary task fits a terminal; the bound of an AUC that
/// is not exact stands beside it.
const NOT_SHOWN: [&str; 5] = ["auc_bound", "gauc_equal", "gauc_groups", "gauc_skipped", "queries_skipped"];

/// Rows without a scenario, or with one that training has not seen.
const OTHER: &str = "(other)";

/// Headings that are shorter than the name in JSON.
const SHORT: [(&str, &str); 1] = [("normalized_entropy", "ne")];

/// The table of all rows, then, where there are scenarios, one line for each of them.
pub fn render(report: &Report) -> String {
    let tasks = render_tasks(&report.tasks);
    if report.scenarios.is_empty() {
        return tasks;
    }
    format!("{tasks}\n{}", by_scenario(&report.scenarios))
}

/// One line per task, one aligned column per metric. An AUC that is not exact carries its bound
/// (`0.812345 ±2e-7`); a value that does not exist says `undefined`, a metric that does not apply `-`.
pub fn render_tasks(reports: &[TaskReport]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in reports.iter().flat_map(|report| &report.values).map(|(name, _)| name.as_ref()) {
        if !NOT_SHOWN.contains(&name) && !names.contains(&name) {
            names.push(name);
        }
    }
    let mut table =
        vec![std::iter::once("task").chain(names.iter().copied().map(heading)).map(String::from).collect::<Vec<_>>()];
    for report in reports {
        let cells = names.iter().map(|name| cell(report, name));
        table.push(std::iter::once(report.task.clone()).chain(cells).collect());
    }
    aligned(&table)
}

/// One line per scenario: its rows and the first metric of every task. The rest is in JSON.
fn by_scenario(reports: &[ScenarioReport]) -> String {
    let mut head = vec!["scenario".to_string(), "rows".to_string()];
    let tasks = reports.first().map_or(&[][..], |report| &report.tasks);
    let shown: Vec<usize> = (0..tasks.len()).filter(|&task| headline(&tasks[task]).is_some()).collect();
    head.extend(shown.iter().filter_map(|&task| {
        let (name, _) = headline(&tasks[task])?;
        Some(format!("{} {}", tasks[task].task, heading(name)))
    }));
    let mut table = vec![head];
    for ScenarioReport { scenario, rows, tasks } in reports {
        let name = scenario.clone().unwrap_or_else(|| OTHER.to_string());
        let cells = shown.iter().filter_map(|&task| Some(cell(&tasks[task], &headline(&tasks[task])?.0)));
        table.push([name, rows.to_string()].into_iter().chain(cells).collect());
    }
    aligned(&table)
}

/// Rows of cells as lines, the first column to the left and the others to the right.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|i| table.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        line + "\n"
    };
    table.iter().map(line).collect()
}

fn heading(name: &str) -> &str {
    SHORT.iter().find(|(long, _)| *long == name).map_or(name, |(_, short)| short)
}

fn cell(report: &TaskReport, name: &str) -> String {
    let Some((_, value)) = report.values.iter().find(|(known, _)| *known == name) else {
        return "-".to_string();
    };
    let text = match value {
        Value::Undefined => "undefined".to_string(),
        Value::Count(count) => count.to_string(),
        Value::Real(value) if *value != 0.0 && !(1e-3..1e5).contains(&value.abs()) => format!("{value:.4e}"),
        Value::Real(value) => format!("{value:.6}"),
    };
    match report.get("auc_bound") {
        Some(bound) if name == "auc" && bound > 0.0 => format!("{text} ±{bound:.0e}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_gaps_are_said() {
        let reports = [
            TaskReport {
                task: "click".into(),
                values: vec![
                    ("auc".into(), Value::Real(0.8123456)),
                    ("auc_bound".into(), Value::Real(2.4e-7)),
                    ("gauc_groups".into(), Value::Count(3)),
                    ("logloss".into(), Value::Real(0.000012)),
                    ("normalized_entropy".into(), Value::Real(0.5)),
                    ("rows".into(), Value::Count(1200)),
                ],
            },
            TaskReport {
                task: "buy".into(),
                values: vec![
                    ("auc".into(), Value::Undefined),
                    ("auc_bound".into(), Value::Undefined),
                    ("rows".into(), Value::Count(7)),
                ],
            },
        ];
        let want = "task              auc    logloss        ne  rows\n\
                    click  0.812346 ±2e-7  1.2000e-5  0.500000  1200\n\
                    buy         undefined          -         -     7\n";
        assert_eq!(render_tasks(&reports), want);
        assert_eq!(render_tasks(&[]), "task\n");
    }

    #[test]
    fn scenarios_follow_the_whole_in_one_line_each() {
        let task = |task: &str, name: &'static str, value| TaskReport {
            task: task.into(),
            values: vec![(name.into(), value), ("rows".into(), Value::Count(2))],
        };
        let tasks = |auc| vec![task("click", "auc", auc), task("kind", "logloss", Value::Real(0.5))];
        let scenario = |scenario: Option<&str>, rows, auc| ScenarioReport {
            scenario: scenario.map(String::from),
            rows,
            tasks: tasks(auc),
        };
        let whole = Report { tasks: tasks(Value::Real(0.75)), ..Report::default() };
        let scenarios = vec![scenario(Some("18"), 1200, Value::Real(0.8)), scenario(None, 7, Value::Undefined)];
        let report = Report { scenarios, ..whole.clone() };
        let want = "\n\
                    scenario  rows  click auc  kind logloss\n\
                    18        1200   0.800000      0.500000\n\
                    (other)      7  undefined      0.500000\n";
        assert_eq!(render(&report), render(&whole) + want);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["tasks"]["click"]["auc"], 0.75);
        assert_eq!(json["scenarios"][0]["scenario"], "18");
        assert_eq!(json["scenarios"][1]["tasks"]["click"]["auc"], serde_json::Value::Null);
        assert!(serde_json::to_value(&whole).unwrap().get("scenarios").is_none());
    }
}
