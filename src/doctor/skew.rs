//! Row groups: the unit of reading. Too few starve ranks, too large ones fill memory, too small ones cost time.

use super::report::{Finding, note, warning};
use super::{Patient, amount};

const NAME: &str = "row groups";

/// A row group of more rows is a lot for one lane to hold pages of.
const LARGE_ROWS: u32 = 4_000_000;
/// Row groups of fewer rows cost more to open than to read.
const SMALL_ROWS: u32 = 1000;
/// The largest row group may have so many times the rows of the median.
const SKEW: u32 = 8;

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let ranks = patient.options.ranks;
    let mut rows: Vec<u32> = patient.plan.row_groups.iter().map(|group| group.rows).collect();
    rows.sort_unstable();
    let (Some(&smallest), Some(&largest)) = (rows.first(), rows.last()) else { return Vec::new() };
    let median = rows[rows.len() / 2];
    let bytes = patient.plan.row_groups.iter().map(|group| group.bytes).max().unwrap_or(0);
    let sizes = format!("{smallest} to {largest} rows, median {median}; the largest has {}", amount(bytes));
    let mut found = vec![note(NAME, sizes)];
    if rows.len() < ranks {
        let what = format!("{} row groups for {ranks} ranks: some are read and unpacked by several", rows.len());
        found.push(warning(NAME, what).fix("write row groups of 100,000 to 1,000,000 rows, at least one a rank"));
    }
    if largest > LARGE_ROWS {
        let what = format!("a row group has {largest} rows");
        found.push(
            warning(NAME, what).fix("write row groups of 100,000 to 1,000,000 rows: each lane holds a page a column"),
        );
    }
    if median < SMALL_ROWS && rows.len() > 100 {
        let what = format!("{} row groups of {median} rows (median)", rows.len());
        found.push(warning(NAME, what).fix("write row groups of 100,000 to 1,000,000 rows"));
    }
    if largest / SKEW > median {
        let what = format!("the largest row group has {} times the rows of the median", largest / median.max(1));
        found.push(
            warning(NAME, what)
                .fix("write row groups of about one size: the shuffling mixes rows of those near each other"),
        );
    }
    found
}
