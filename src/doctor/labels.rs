//! Labels: a task without any, or with one class only, costs time and learns nothing.

use super::Patient;
use super::report::{Finding, note, warning};
use super::values::percent;
use crate::config::job::TaskKind;
use crate::data::sample::LabelCounts;
use crate::data::schema::TaskColumns;

const NAME: &str = "labels";

/// Rarer positives than this leave most steps without one.
const RARE: f64 = 1e-4;

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let rows = patient.sample.decoded;
    if rows == 0 {
        let what = "no row that was looked at can be trained on, so nothing is known of labels and ids";
        return vec![warning(NAME, what).fix("mend what is said of the values first")];
    }
    let tasks = patient.schema.tasks.iter().zip(&patient.sample.labels);
    tasks.map(|(task, counts)| of_task(task, counts, rows, &patient.seen())).collect()
}

fn of_task(task: &TaskColumns, counts: &LabelCounts, rows: u64, seen: &str) -> Finding {
    let name = &task.name;
    if counts.labelled == 0 {
        return warning(NAME, format!("task `{name}` has no labelled row in {seen}"))
            .fix("is its label column all null, or its `where` never true?");
    }
    let labelled = format!("task `{name}`: {} of the rows are labelled", percent(counts.labelled, rows));
    let of = |label: i64| counts.values.get(&label).copied().unwrap_or(0);
    match task.kind {
        TaskKind::Binary => {
            let positives = of(1);
            let rate = format!("{labelled}, {} of those positive", percent(positives, counts.labelled));
            match positives {
                0 => warning(NAME, format!("{rate}: there is one class"))
                    .fix("look at the label column, or read more rows with --rows"),
                all if all == counts.labelled => warning(NAME, format!("{rate}: there is one class"))
                    .fix("a log of positives alone needs negatives: rows with label 0"),
                some if (some as f64) < RARE * counts.labelled as f64 => warning(NAME, rate)
                    .fix("most batches have no positive: raise `train.global_batch`, or thin out the negatives"),
                _ => note(NAME, rate),
            }
        }
        TaskKind::Multiclass => {
            let missing = (0..task.classes as i64).filter(|&class| of(class) == 0).count();
            match missing {
                0 => note(NAME, format!("{labelled}, in {} classes", task.classes)),
                _ => note(NAME, format!("{labelled}; {missing} of {} classes are in no row of {seen}", task.classes)),
            }
        }
        TaskKind::Regression => match counts.range {
            Some((low, high)) if low == high => warning(NAME, format!("{labelled}, all of them {low}"))
                .fix("there is nothing to learn: look at the label column"),
            Some((low, high)) if low.abs().max(high.abs()) > 1e6 => {
                warning(NAME, format!("{labelled}, from {low} to {high}"))
                    .fix("squared errors of such labels drown the other tasks: write their logarithm, or scale them")
            }
            Some((low, high)) => note(NAME, format!("{labelled}, from {low} to {high}")),
            None => note(NAME, labelled),
        },
        TaskKind::Bpr => note(NAME, labelled),
    }
}
