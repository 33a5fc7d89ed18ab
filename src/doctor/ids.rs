//! Distinct ids of each embedding table, over the whole log, from those of a sample.
//!
//! Of n occurrences in the sample f₁ ids were seen once and f₂ twice; the log has N. At least d + f₁(f₁−1) / 2(f₂+1) ids exist
//! (Chao, 1984, its bias-corrected form). The next occurrence is a new id with probability about f₁/n (Good, 1953), which falls from
//! there on, so that d + (N−n)·f₁/n bounds the distinct ids of the log from above, in expectation.

use super::Patient;
use super::report::{Finding, note, warning};
use crate::config::job::Job;
use crate::data::plan::Plan;
use crate::data::sample::Sample;
use crate::train::sizes::{Sizes, TableSize};
use serde::Serialize;

const NAME: &str = "ids";

/// Distinct ids of a table, and what its rows take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableIds {
    /// Name of the table.
    pub name: String,
    /// Floats of a row.
    pub dim: usize,
    /// Distinct ids in the sample.
    pub seen: u64,
    /// Rows that the table will have at least,
    pub low: u64,
    /// and at most.
    pub high: u64,
    /// Bytes of a row in memory.
    pub row_bytes: usize,
    /// Bytes of a row in a checkpoint.
    pub row_disk_bytes: usize,
}

/// The tables of the model.
pub(super) fn estimate(job: &Job, sizes: &Sizes, sample: &Sample, plan: &Plan) -> Vec<TableIds> {
    sizes.tables.iter().map(|table| of_table(job, table, sample, plan)).collect()
}

fn of_table(job: &Job, table: &TableSize, sample: &Sample, plan: &Plan) -> TableIds {
    let counts = sample.ids.get(&table.of);
    let counts = || counts.into_iter().flatten().map(|(_, &count)| u64::from(count));
    let times = |times: u64| counts().filter(|&count| count == times).count() as f64;
    let (seen, occurrences) = (counts().count() as u64, counts().sum::<u64>() as f64);
    let (once, twice) = (times(1), times(2));
    let unseen = plan.rows.saturating_sub(sample.decoded) as f64 / sample.decoded.max(1) as f64 * occurrences;
    let (low, high) = match sample.decoded == plan.rows || occurrences == 0.0 {
        true => (seen, seen),
        false => {
            let high = seen as f64 + unseen * once / occurrences;
            let low = (seen as f64 + once * (once - 1.0).max(0.0) / (2.0 * (twice + 1.0))).min(high);
            (low as u64, high.ceil() as u64)
        }
    };
    let limit =
        job.tables.get(&table.of).and_then(|options| options.eviction?.max_rows).map_or(u64::MAX, |rows| rows as u64);
    TableIds {
        name: table.name.clone(),
        dim: table.dim,
        seen,
        low: low.min(limit),
        high: high.min(limit),
        row_bytes: table.row.memory,
        row_disk_bytes: table.row.disk,
    }
}

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    patient.tables.iter().flat_map(|table| of(patient, table)).collect()
}

fn of(patient: &Patient, table: &TableIds) -> Vec<Finding> {
    let TableIds { name, dim, seen, low, high, .. } = table;
    let rows = if low == high { format!("{low}") } else { format!("{low} to {high}") };
    let mut found =
        vec![note(NAME, format!("table `{name}`: {rows} rows of {dim} floats ({seen} ids in {})", patient.seen()))];
    let Some(size) = patient.sizes.tables.iter().find(|size| size.name == *name) else { return found };
    let limited = patient.job.tables.get(&size.of).is_some_and(|t| t.admission.is_some() || t.eviction.is_some());
    let counts = patient.sample.ids.get(&size.of);
    let once = counts.into_iter().flatten().filter(|(_, count)| **count == 1).count() as u64;
    if !limited && *seen > 10_000 && once * 10 > seen * 9 {
        let what = format!("{once} of {seen} ids of table `{name}` were seen once: their rows are hardly trained");
        found.push(
            warning(NAME, what).fix(format!("set `tables.{}.admission.min_count`, or hash a coarser value", size.of)),
        );
    }
    if *seen == 0 && patient.sample.decoded > 0 {
        let what = format!("table `{name}` has no id in {}", patient.seen());
        found.push(warning(NAME, what).fix("are the columns that read it all null?"));
    }
    found
}
