//! Which rows go into which file.

use crate::error::{Error, Result};
use std::ops::Range;
use std::path::PathBuf;

/// The splits in order of time, by the names of their folders.
pub const SPLITS: [&str; 3] = ["train", "valid", "test"];
/// Index of the test split in [`SPLITS`].
pub const TEST: usize = 2;

/// One Parquet file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// Index into [`SPLITS`].
    pub split: usize,
    /// Path under the output folder.
    pub path: PathBuf,
    /// Rows of the log that it holds.
    pub rows: Range<u64>,
}

/// Cuts `rows` into `files` of equal size (to one row) and the files into splits with these shares and into days, all in
/// order.
///
/// # Errors
/// Too few files for the splits or the days.
pub fn plan(rows: u64, files: usize, days: usize, split: [u32; 3]) -> Result<Vec<FilePlan>> {
    let counts = files_per_split(files, split)?;
    if days > files {
        return Err(Error::job("a day needs at least one file")
            .at("--days", days)
            .at("--files", files)
            .fix(format!("give --files {days} or more")));
    }
    let mut plans = Vec::with_capacity(files);
    let split_of_file = counts.iter().enumerate().flat_map(|(split, &n)| std::iter::repeat_n(split, n));
    for (i, split) in split_of_file.enumerate() {
        let mut path = PathBuf::from(SPLITS[split]);
        if days > 0 {
            path.push(format!("dt={}", date(i * days / files)));
        }
        path.push(format!("part-{i:05}.parquet"));
        let cut = |i: usize| (u128::from(rows) * i as u128 / files as u128) as u64;
        plans.push(FilePlan { split, path, rows: cut(i)..cut(i + 1) });
    }
    Ok(plans)
}

/// Files of train, valid and test, near the asked shares; a split with a share has at least one file.
fn files_per_split(files: usize, [train, valid, test]: [u32; 3]) -> Result<[usize; 3]> {
    let shown = format!("{train},{valid},{test}");
    if train == 0 || test == 0 {
        return Err(Error::job("train and test must have a share: the best AUC is that of the test rows")
            .at("--split", shown)
            .fix("give --split 80,10,10"));
    }
    let total = f64::from(train) + f64::from(valid) + f64::from(test);
    let share = |part: u32| {
        let count = (files as f64 * f64::from(part) / total).round() as usize;
        if part == 0 { 0 } else { count.max(1) }
    };
    let held_out = share(valid) + share(test);
    if held_out >= files {
        return Err(Error::job("there are too few files for these splits")
            .at("--files", files)
            .at("--split", shown)
            .fix(format!("give --files {} or more, or another --split", (held_out + 1).max(10))));
    }
    Ok([files - held_out, share(valid), share(test)])
}

/// The calendar date `day` days after 2024-01-01, as `YYYY-MM-DD` (proleptic Gregorian; H. Hinnant,
/// "chrono-compatible low-level date algorithms", `civil_from_days`).
fn date(day: usize) -> String {
    // Days since 0000-03-01, of which 2024-01-01 is the 739 191st.
    let z = 739_191 + day;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + usize::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_cross_months_and_leap_years() {
        let days = [(0, "2024-01-01"), (31, "2024-02-01"), (59, "2024-02-29"), (60, "2024-03-01")];
        for (day, expected) in days.into_iter().chain([(365, "2024-12-31"), (366, "2025-01-01"), (425, "2025-03-01")]) {
            assert_eq!(date(day), expected);
        }
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_file(rows in 100..10_000_u64, files in 3..100_usize, days in 0..3_usize) {
            let plans = plan(rows, files, days, [80, 10, 10]).unwrap();
            prop_assert_eq!(plans.len(), files);
            prop_assert_eq!(plans[0].rows.start, 0);
            prop_assert_eq!(plans[files - 1].rows.end, rows);
            prop_assert!(plans.windows(2).all(|w| w[0].rows.end == w[1].rows.start && w[0].split <= w[1].split));
            let sizes = plans.iter().map(|p| p.rows.end - p.rows.start);
            prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
            prop_assert!((0..3).all(|split| plans.iter().any(|p| p.split == split)));
        }
    }

    #[test]
    fn days_are_folders_in_order_of_time() {
        let plans = plan(1000, 10, 5, [80, 10, 10]).unwrap();
        assert_eq!(plans[0].path, PathBuf::from("train/dt=2024-01-01/part-00000.parquet"));
        assert_eq!(plans[8].path, PathBuf::from("valid/dt=2024-01-05/part-00008.parquet"));
        assert_eq!(plans[9].path, PathBuf::from("test/dt=2024-01-05/part-00009.parquet"));
    }
}
