//! Logs with planted faults: each is found, with its severity and what to do.

use super::*;
use crate::config;
use crate::data::store::Local;
use crate::data::testing::{TestFile, ints};
use arrow::array::{ArrayRef, Float64Array};
use std::path::Path;
use tempfile::TempDir;

const JOB: &str = "
name: patient
data: {train: train, valid: valid}
features:
  - {name: user, kind: categorical, dim: 4}
  - {name: age, kind: numeric}
tasks:
  - {name: click, label: click}
  - {name: stars, label: stars, kind: regression}
model: {kind: shared_bottom, bottom: [8], tower: [4]}
train: {global_batch: 20, epochs: 2}
checkpoint: {every: 10 steps}
";

const ROWS: i64 = 400;

type Columns = Vec<(&'static str, ArrayRef)>;

/// Without a fault.
fn columns(rows: std::ops::Range<i64>) -> Columns {
    let age = rows.clone().map(|row| (row % 9 != 0).then_some(20.0 + (row % 50) as f64));
    vec![
        ("user", ints(rows.clone().map(|row| row * 13 % 31))),
        ("age", Arc::new(age.collect::<Float64Array>())),
        ("click", ints(rows.clone().map(|row| i64::from(row % 3 == 0)))),
        ("stars", ints(rows.map(|row| row % 5))),
    ]
}

fn with(mut columns: Columns, name: &'static str, array: ArrayRef) -> Columns {
    columns.iter_mut().filter(|(known, _)| *known == name).for_each(|column| column.1 = array.clone());
    columns
}

fn numbers(of: impl Fn(i64) -> Option<f64>) -> ArrayRef {
    Arc::new((0..ROWS).map(of).collect::<Float64Array>())
}

/// A log of these columns in row groups of 100.
fn log(columns: Columns) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    TestFile::new(&columns).row_group_rows(100).write(&folder.path().join("train/a.parquet"));
    TestFile::new(&self::columns(1000..1040)).write(&folder.path().join("valid/a.parquet"));
    folder
}

fn options(ranks: usize, folder: &Path) -> Options {
    Options { ranks, ranks_per_node: 1, rows: 1_000_000, run_dir: folder.join("runs/patient") }
}

fn report(folder: &Path, overrides: &[&str], options: &Options) -> Report {
    let root = format!("data.root={}", folder.display());
    let overrides: Vec<String> = std::iter::once(root).chain(overrides.iter().map(ToString::to_string)).collect();
    let job = config::from_text(JOB, Path::new("job.yaml"), &overrides).unwrap_or_else(|error| panic!("{error}")).job;
    examine(job, Arc::new(Local), options).unwrap_or_else(|error| panic!("{error}"))
}

/// That there is a finding of this severity and check that says `what` and how to mend it.
fn assert_found(report: &Report, severity: Severity, check: &str, what: &str) {
    let found = report.findings.iter().any(|finding| {
        finding.severity == severity && finding.check == check && finding.what.contains(what) && finding.fix.is_some()
    });
    assert!(found, "no {severity:?} of {check} with {what:?} in {:#?}", report.findings);
}

#[test]
fn a_sound_job_has_notes_only() {
    let folder = log(columns(0..ROWS));
    let report = report(folder.path(), &["threads=1"], &options(1, folder.path()));
    // How many cores idle is a matter of the machine that runs this.
    let worse: Vec<_> = report.findings.iter().filter(|f| f.severity > Severity::Note && f.check != "launch").collect();
    assert!(worse.is_empty(), "{worse:#?}");
    assert_eq!((report.rows, report.sampled_rows), (400, 400));
    let user = &report.tables[0];
    assert_eq!((user.name.as_str(), user.seen, user.low, user.high, user.dim), ("user", 31, 31, 31, 4));
    let checks: Vec<_> = report.findings.iter().map(|finding| finding.check).collect();
    for check in ["files", "row groups", "batch", "values", "labels", "ids", "memory", "disk", "launch"] {
        assert!(checks.contains(&check), "{check} is silent: {checks:?}");
    }
}

#[test]
fn faults_of_the_data_are_found_each_by_its_check() {
    let good = || columns(0..ROWS);
    let age = |of: fn(i64) -> Option<f64>| with(good(), "age", numbers(of));
    let click = |of: fn(i64) -> i64| with(good(), "click", ints((0..ROWS).map(of)));
    let stars = |of: fn(i64) -> Option<f64>| with(good(), "stars", numbers(of));
    use Severity::{Error, Warning};
    for (columns, severity, check, what) in [
        (age(|row| Some(if row == 250 { f64::NAN } else { 1.5 * row as f64 })), Error, "values", "row group 2, row 50"),
        (age(|row| Some(if row == 3 { f64::INFINITY } else { row as f64 })), Error, "values", "not finite"),
        (age(|_| None), Warning, "values", "column `age` is null"),
        (click(|row| row % 3), Error, "values", "neither 0 nor 1"),
        (click(|_| 1), Warning, "labels", "there is one class"),
        (click(|_| 0), Warning, "labels", "there is one class"),
        (stars(|_| Some(3.0)), Warning, "labels", "all of them 3"),
        (stars(|_| None), Warning, "labels", "no labelled row"),
        (stars(|row| Some(row as f64 * 1e7)), Warning, "labels", "from 0 to"),
    ] {
        let folder = log(columns);
        assert_found(&report(folder.path(), &[], &options(1, folder.path())), severity, check, what);
    }
}

#[test]
fn faults_of_the_files_are_what_a_run_would_end_with() {
    let folder = log(columns(0..ROWS));
    let path = folder.path().join("train/b.parquet");
    std::fs::write(&path, "not parquet").unwrap();
    let damaged = report(folder.path(), &[], &options(1, folder.path()));
    assert_found(&damaged, Severity::Error, "files", "not a whole Parquet file");
    assert_eq!((damaged.rows, damaged.worst()), (0, Severity::Error));
    std::fs::remove_file(&path).unwrap();

    let missing = report(folder.path(), &["data.valid=nowhere"], &options(1, folder.path()));
    assert_found(&missing, Severity::Error, "files", "data.valid: no file matches");
    let leaking = report(folder.path(), &["data.valid=train"], &options(1, folder.path()));
    assert_found(&leaking, Severity::Warning, "files", "rows that are trained on");

    // The middle of a column's pages: the footer is whole, the rows are not.
    let path = folder.path().join("train/a.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle..middle + 200].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    assert_found(&report(folder.path(), &[], &options(1, folder.path())), Severity::Error, "values", "a.parquet");
}

#[test]
fn arithmetic_of_ranks_and_batches_is_done_before_they_start() {
    let folder = log(columns(0..ROWS));
    let of = |ranks: usize, overrides: &[&str]| report(folder.path(), overrides, &options(ranks, folder.path()));
    assert_found(&of(21, &[]), Severity::Error, "batch", "21 ranks cannot share 20 lanes");
    assert_found(&of(9, &["reproducible=true"]), Severity::Error, "batch", "9 ranks cannot share 8 virtual ranks");
    assert_found(&of(2, &["reproducible=21"]), Severity::Error, "batch", "21 virtual ranks cannot share 20 lanes");
    assert_found(&of(3, &["data.lanes=5"]), Severity::Warning, "batch", "have 1 or 2 lanes each");
    assert_found(&of(4, &[]), Severity::Warning, "batch", "5 rows a rank and step");
    assert_found(&of(1, &["train.global_batch=400"]), Severity::Warning, "batch", "2 steps in all");
    assert_found(&of(1, &["checkpoint.every=1000 steps"]), Severity::Warning, "batch", "no checkpoint before the end");
    assert_found(&of(4, &["checkpoint.buckets=2"]), Severity::Error, "batch", "2 buckets of the tables for 4 ranks");
    assert_found(&of(5, &[]), Severity::Warning, "row groups", "4 row groups for 5 ranks");
}

#[test]
fn memory_and_disk_are_those_of_the_planned_ranks() {
    let folder = log(columns(0..ROWS));
    let of = |ranks: usize, overrides: &[&str]| report(folder.path(), overrides, &options(ranks, folder.path()));
    assert_found(&of(1, &["memory_limit=1 KiB"]), Severity::Error, "memory", "`memory_limit` is 1.0 KiB");
    assert_eq!(of(4, &["memory_limit=1 KiB", "train.global_batch=400"]).worst(), Severity::Warning);
    let text = |ranks: usize| {
        let report = of(ranks, &[]);
        report.findings.into_iter().find(|finding| finding.check == "memory").unwrap().what
    };
    assert_ne!(text(1), text(2));
    let dense = |overrides: &[&str]| {
        let report = of(2, overrides);
        let what = report.findings.into_iter().find(|finding| finding.check == "memory").unwrap().what;
        what.split(", ").nth(1).map(str::to_string)
    };
    assert_ne!(dense(&[]), dense(&["reproducible=true"]), "each virtual rank has a dense part");
}

/// Of a log of which a part is read, the ids that are not seen are bounded.
#[test]
fn the_bounds_on_ids_hold_for_a_log_that_is_read_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let users: Vec<i64> = (0..40_000u64).map(|row| (2000.0 * crate::random::unit(3, &[row]).powi(3)) as i64).collect();
    let mut columns = self::columns(0..40_000);
    columns[0].1 = ints(users.iter().copied());
    TestFile::new(&columns).row_group_rows(500).write(&folder.path().join("train/a.parquet"));
    TestFile::new(&self::columns(0..40)).write(&folder.path().join("valid/a.parquet"));
    let all = users.iter().collect::<std::collections::HashSet<_>>().len() as u64;
    let report = report(folder.path(), &[], &Options { rows: 6400, ..options(1, folder.path()) });
    let TableIds { seen, low, high, .. } = report.tables[0];
    assert_eq!(report.sampled_rows, 6400);
    assert!(seen < low && low <= all + all / 10 && all <= high, "{seen}, {low} to {high}, of {all}");
    assert_found(&report, Severity::Note, "sample", "looked at 6400 of 40000 rows, in 64 of 80 row groups");
}
