//! The metrics of an evaluation as a table for people.

use super::{TaskReport, Value};

/// Values that stand in JSON only, so that the table of a binary task fits a terminal; the bound of an AUC that
/// is not exact stands beside it.
const NOT_SHOWN: [&str; 5] = ["auc_bound", "gauc_equal", "gauc_groups", "gauc_skipped", "queries_skipped"];

/// Headings that are shorter than the name in JSON.
const SHORT: [(&str, &str); 1] = [("normalized_entropy", "ne")];

/// One line per task, one aligned column per metric. An AUC that is not exact carries its bound
/// (`0.812345 ±2e-7`); a value that does not exist says `undefined`, a metric that does not apply `-`.
pub fn render(reports: &[TaskReport]) -> String {
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
    let widths: Vec<usize> =
        (0..=names.len()).map(|i| table.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
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
        assert_eq!(render(&reports), want);
        assert_eq!(render(&[]), "task\n");
    }
}
