//! Columns: nulls, numbers that are not finite, columns that say nothing, and rows that cannot be trained on.

use super::Patient;
use super::report::{Finding, error, failure, note, warning};
use crate::data::sample::ColumnCounts;

const NAME: &str = "values";

/// A column with a larger share of nulls is worth a look.
const MANY_NULLS: f64 = 0.9;

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let columns = patient.schema.columns.iter().zip(&patient.sample.columns);
    let mut found: Vec<Finding> =
        columns.flat_map(|(column, counts)| of_column(&column.name, counts, &patient.seen())).collect();
    let reported = |column: Option<&str>| {
        let names = patient.schema.columns.iter().zip(&patient.sample.columns);
        names.into_iter().any(|(known, counts)| counts.not_finite > 0 && column == Some(&known.name))
    };
    let others = patient.sample.errors.iter().filter(|failed| !reported(failed.place("column")));
    found.extend(others.map(|failed| failure(NAME, failed)));
    if found.is_empty() {
        found.push(note(
            NAME,
            format!("{} columns without a fault in {}", patient.schema.columns.len(), patient.seen()),
        ));
    }
    found
}

fn of_column(name: &str, counts: &ColumnCounts, seen: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let rows = counts.values + counts.nulls;
    if let Some((file, group, row)) = &counts.first {
        let share = percent(counts.not_finite, rows);
        let what = format!(
            "column `{name}` has numbers that are not finite in {share} of {seen} (first: file {file}, row group {group}, row {row})"
        );
        found.push(error(NAME, what).fix("write null where a number is unknown"));
    }
    if rows > 0 && counts.values == 0 {
        let what = format!("column `{name}` is null in {seen}");
        found.push(warning(NAME, what).fix("take what reads it out of the job, or look at what wrote the files"));
    } else if counts.nulls as f64 > MANY_NULLS * rows as f64 {
        found.push(note(NAME, format!("column `{name}` is null in {} of {seen}", percent(counts.nulls, rows))));
    }
    if let Some((value, _)) = counts.range.filter(|(low, high)| low == high && counts.values > 1) {
        found.push(note(NAME, format!("column `{name}` is {value} in every row of {seen} that has a value")));
    }
    found
}

/// A share of rows.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    if part > 0 && share < 0.01 { "less than 0.01 %".to_string() } else { format!("{share:.2} %") }
}
