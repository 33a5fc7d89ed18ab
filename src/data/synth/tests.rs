//! What a log promises, checked on logs that are written and read back.

use super::options::{HISTORY, USER};
use super::*;
use crate::config;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt8Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::PathBuf;

fn small() -> Options {
    Options { rows: 6000, cardinalities: vec![10, 300, 5000], numeric: 3, ..Options::default() }
}

/// Every file under a folder, by its path in it.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn batches(folder: &Path) -> Vec<RecordBatch> {
    let parquet = contents(folder).into_keys().filter(|p| p.extension().is_some_and(|e| e == "parquet"));
    let open = |path| ParquetRecordBatchReaderBuilder::try_new(File::open(folder.join(path)).unwrap()).unwrap();
    parquet.flat_map(|path| open(path).build().unwrap().map(|b| b.unwrap()).collect::<Vec<_>>()).collect()
}

fn labels(batch: &RecordBatch, task: &str) -> Vec<u8> {
    batch.column_by_name(task).unwrap().as_primitive::<UInt8Type>().values().to_vec()
}

fn ids(batch: &RecordBatch, column: &str) -> Vec<i64> {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn generate_with_threads(out: &Path, options: &Options, threads: usize) -> Summary {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| generate(out, options, false, &|_| ())).unwrap()
}

#[test]
fn same_seed_same_bytes_at_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history: 4, days: 3, ..small() };
    let all: Vec<_> = [(1, 1), (2, 1), (2, 2)]
        .into_iter()
        .enumerate()
        .map(|(i, (threads, seed))| {
            let out = dir.path().join(format!("{i}/log"));
            generate_with_threads(&out, &Options { seed, ..options.clone() }, threads);
            // The job names its folder.
            contents(&out).into_iter().filter(|(path, _)| !path.ends_with("job.yaml")).collect::<BTreeMap<_, _>>()
        })
        .collect();
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0].keys().collect::<Vec<_>>(), all[2].keys().collect::<Vec<_>>());
    assert!(all[0].iter().all(|(path, bytes)| all[2][path] != *bytes));
    assert!(all[0].keys().all(|path| path.extension().is_some_and(|e| e != "part")));
}

#[test]
fn rows_do_not_depend_on_files_or_row_groups() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |name: &str, options: &Options| {
        let out = dir.path().join(name);
        generate(&out, options, false, &|_| ()).unwrap();
        let splits = ["train", "valid", "test"].map(|split| batches(&out.join(split)));
        splits.concat().iter().flat_map(|b| ids(b, "c2").into_iter().zip(labels(b, "click"))).collect::<Vec<_>>()
    };
    let a = rows("a", &small());
    let b = rows("b", &Options { files: 17, row_group_rows: 100, days: 5, ..small() });
    assert_eq!(a.len(), 6000);
    assert_eq!(a, b);
}

#[test]
fn row_groups_have_the_asked_size() {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path(), &Options { row_group_rows: 250, ..small() }, false, &|_| ()).unwrap();
    let file = File::open(dir.path().join("train/part-00000.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let sizes: Vec<i64> = reader.metadata().row_groups().iter().map(|g| g.num_rows()).collect();
    assert_eq!(sizes, [250, 250, 100]);
}

#[test]
fn nested_labels_are_nested_and_have_their_rates() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { rows: 20_000, rates: vec![0.3, 0.5, 0.2], ..small() };
    let summary = generate(dir.path(), &options, false, &|_| ()).unwrap();
    let mut counts = [0_usize; 3];
    for batch in batches(dir.path()) {
        let [click, cart, buy] = ["click", "cart", "buy"].map(|task| labels(&batch, task));
        for i in 0..batch.num_rows() {
            assert!(click[i] >= cart[i] && cart[i] >= buy[i] && click[i] <= 1);
        }
        for (count, column) in counts.iter_mut().zip([click, cart, buy]) {
            *count += column.iter().filter(|&&y| y == 1).count();
        }
    }
    let mut parent = 20_000.0;
    for ((count, rate), task) in counts.iter().zip(&options.rates).zip(&summary.tasks) {
        let measured = *count as f64 / parent;
        // Four standard deviations of the draw, and the error of the calibration sample.
        let tolerance = 4.0 * (rate * (1.0 - rate) / parent).sqrt() + 0.01;
        assert!((measured - rate).abs() < tolerance, "{}: {measured} for {rate}", task.name);
        assert_eq!(task.positive_rate, *count as f64 / 20_000.0);
        parent = *count as f64;
    }
}

#[test]
fn independent_labels_have_their_rates_and_no_order() {
    let options = Options { labels: Labels::Independent, rates: vec![0.1, 0.5], tasks: two(), ..small() };
    let world = World::new(&options.check().unwrap()).unwrap();
    let mut row = Row::default();
    let (mut counts, mut unordered) = ([0.0; 2], 0);
    for index in 0..20_000 {
        world.draw(index, &mut row);
        counts.iter_mut().zip(&row.labels).for_each(|(n, &y)| *n += f64::from(y) / 20_000.0);
        unordered += u32::from(row.labels[1] > row.labels[0]);
    }
    assert!((counts[0] - 0.1).abs() < 0.015 && (counts[1] - 0.5).abs() < 0.025, "{counts:?}");
    assert!(unordered > 1000);
}

fn two() -> Vec<String> {
    ["like", "share"].map(String::from).to_vec()
}

/// The correlation of the true logits over rows that were not used to set it.
fn measured_cosines(options: &Options) -> Vec<f64> {
    let world = World::new(&options.check().unwrap()).unwrap();
    let mut row = Row::default();
    let mut logits = Vec::new();
    for index in 0..15_000 {
        world.draw(index, &mut row);
        logits.extend_from_slice(&row.logits);
    }
    correlation::correlations(&logits, options.tasks.len())
}

#[test]
fn the_dial_sets_the_angle_of_two_tasks() {
    for angle in [0.0, 60.0, 90.0, 135.0, 180.0_f64] {
        let measured = measured_cosines(&Options { tasks: two(), angle_degrees: angle, ..small() })[1];
        assert!((measured - angle.to_radians().cos()).abs() < 0.03, "{angle}: {measured}");
    }
}

#[test]
fn the_dial_sets_every_pair_also_at_the_widest_angle() {
    let names = |k: usize| (0..k).map(|i| format!("t{i}")).collect();
    for (k, angle) in [(3, 120.0), (4, 109.471_220_6), (4, 30.0)] {
        let measured = measured_cosines(&Options { tasks: names(k), angle_degrees: angle, ..small() });
        let wanted = correlation::equal(k, angle.to_radians().cos());
        assert!(measured.iter().zip(&wanted).all(|(m, w)| (m - w).abs() < 0.03), "K {k}: {measured:?}");
    }
}

#[test]
fn the_signal_sets_the_spread_of_the_logits() {
    let options = Options { signal: 2.0, labels: Labels::Independent, ..small() };
    let world = World::new(&options.check().unwrap()).unwrap();
    let mut row = Row::default();
    let mut logits = Vec::new();
    for index in 0..10_000 {
        world.draw(index, &mut row);
        logits.extend_from_slice(&row.logits);
    }
    let (_, covariance) = correlation::moments(&logits, 3);
    assert!([0, 4, 8].into_iter().all(|i| (covariance[i].sqrt() - 2.0).abs() < 0.1), "{covariance:?}");
}

#[test]
fn the_best_auc_is_that_of_the_true_probability() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { rows: 40_000, ..small() };
    let summary = generate(dir.path(), &options, false, &|_| ()).unwrap();
    for task in &summary.tasks {
        let (best, drawn) = (task.bayes_auc.unwrap(), task.drawn_auc.unwrap());
        let n = summary.splits.test as f64;
        let error = auc_error(best, n * task.positive_rate, n * (1.0 - task.positive_rate));
        assert!((best - drawn).abs() < 3.0 * error, "{}: expected {best}, drawn {drawn} ± {error}", task.name);
        assert!(best > 0.7 && best < 0.95, "{}: {best}", task.name);
        assert!(task.bayes_logloss.unwrap() < binary_entropy(task.positive_rate));
    }
    assert!(summary.tasks[0].given_parent.is_none());
    let parents: Vec<_> = summary.tasks[1..].iter().map(|t| t.given_parent.clone().unwrap()).collect();
    assert_eq!(parents.iter().map(|p| p.parent.as_str()).collect::<Vec<_>>(), ["click", "cart"]);
    assert!(parents.iter().all(|p| p.bayes_auc.unwrap() > 0.7));
}

/// Standard error of an AUC (Hanley & McNeil 1982).
fn auc_error(auc: f64, positives: f64, negatives: f64) -> f64 {
    let (q1, q2) = (auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc));
    let variance = auc * (1.0 - auc) + (positives - 1.0) * (q1 - auc * auc) + (negatives - 1.0) * (q2 - auc * auc);
    (variance / (positives * negatives)).sqrt()
}

fn binary_entropy(p: f64) -> f64 {
    -p * p.ln() - (1.0 - p) * (1.0 - p).ln()
}

/// A worse score than the truth must not reach the best AUC: this one forgets one column.
#[test]
fn the_best_auc_is_above_that_of_a_blurred_truth() {
    let world = World::new(&small().check().unwrap()).unwrap();
    let mut row = Row::default();
    let (mut best, mut blurred) = (Vec::new(), Vec::new());
    for index in 0..8000 {
        world.draw(index, &mut row);
        let p = world.probabilities(&row.logits).next().unwrap();
        let judged = |score| Judged { score, positive: p, negative: 1.0 - p };
        best.push(judged(p));
        blurred.push(judged(row.logits[0] + f64::from(row.numeric[0])));
    }
    assert!(auc(&mut best).unwrap() > auc(&mut blurred).unwrap() + 0.01);
}

#[test]
fn ids_are_skewed_and_reach_far() {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path(), &small(), false, &|_| ()).unwrap();
    let mut counts: HashMap<i64, usize> = HashMap::new();
    for batch in batches(dir.path()) {
        ids(&batch, "c2").into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
    }
    let mut sizes: Vec<usize> = counts.values().copied().collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let top: usize = sizes[..10].iter().sum();
    assert!(top > 6000 / 4, "ten ids of 5000 hold {top} rows of 6000");
    assert!(sizes.len() > 500, "{} distinct ids", sizes.len());
    assert!(counts.keys().any(|id| *id > 1 << 39));
}

#[test]
fn histories_hold_ids_of_the_last_categorical_column() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history: 5, cardinalities: vec![10, 20], ..small() };
    generate(dir.path(), &options, false, &|_| ()).unwrap();
    let all = batches(dir.path());
    let known: std::collections::HashSet<i64> = all.iter().flat_map(|b| ids(b, "c1")).collect();
    let mut lengths = [0; 6];
    for batch in &all {
        let lists = batch.column_by_name(HISTORY).unwrap().as_list::<i32>();
        for list in lists.iter().flatten() {
            lengths[list.len()] += 1;
            assert!(list.as_primitive::<Int64Type>().values().iter().all(|id| known.contains(id)));
        }
    }
    assert!(lengths.iter().all(|n| *n > 800), "{lengths:?}");
}

#[test]
fn the_job_beside_the_log_is_a_job() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo 1: \"x\"");
    let options = Options { history: 5, ..small() };
    let summary = generate(&out, &options, false, &|_| ()).unwrap();
    let job = config::load(&out.join("job.yaml"), &[]).unwrap().job;
    assert_eq!(job.data.root.as_deref(), out.to_str());
    assert_eq!(job.name, "synth");
    assert_eq!(job.model.kind, "mmoe");
    assert_eq!(job.tasks.iter().filter_map(|t| t.label.clone()).collect::<Vec<_>>(), options.tasks);
    let columns = batches(&out)[0].schema();
    for feature in &job.features {
        assert!(columns.column_with_name(feature.column()).is_some(), "{}", feature.name);
    }
    assert_eq!(job.features.len() + options.tasks.len(), columns.fields().len());
    assert!(job.features.iter().any(|f| f.name == USER && f.dim == Some(8)));
    assert_eq!(summary.suggested_features.len(), job.features.len());
}

#[test]
fn the_summary_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Summary::read(dir.path()).unwrap_err().to_string().contains("tandem synth"));
    let options = Options { split: [3, 0, 1], ..small() };
    let summary = generate(dir.path(), &options, false, &|_| ()).unwrap();
    let read = Summary::read(dir.path()).unwrap();
    assert_eq!(read.to_json().unwrap(), summary.to_json().unwrap());
    assert_eq!(read.splits, Splits { train: 4200, valid: 0, test: 1800 });
    assert_eq!(read.options.users, 60);
    // What is resolved can be asked for, and is the same log.
    assert_eq!(read.options.check().unwrap().options(), &read.options);
    assert!(!dir.path().join("valid").exists());
}

#[test]
fn a_log_without_numbers_or_without_ids_is_a_log() {
    for options in [Options { numeric: 0, ..small() }, Options { cardinalities: Vec::new(), ..small() }] {
        let dir = tempfile::tempdir().unwrap();
        let summary = generate(dir.path(), &Options { rows: 1000, ..options }, false, &|_| ()).unwrap();
        assert_eq!(summary.options.interaction, 0.0);
        assert!(summary.tasks[0].bayes_auc.unwrap() > 0.6);
    }
}

#[test]
fn wrong_options_name_themselves_and_the_fix() {
    let names = |text: &str| text.split(',').map(String::from).collect::<Vec<_>>();
    let cases: Vec<(Options, &str, &str)> = vec![
        (Options { angle_degrees: 150.0, ..small() }, "--angle", "120.0000"),
        (Options { angle_degrees: 181.0, tasks: two(), ..small() }, "--angle", "conflict"),
        (Options { angle_degrees: f64::NAN, ..small() }, "--angle", "fix"),
        (Options { rows: 5, ..small() }, "--rows", "fewer --files"),
        (Options { files: 0, ..small() }, "--files", "fix"),
        (Options { files: 2, ..small() }, "--files", "give --files 10"),
        (Options { rates: vec![0.2, 1.0, 0.5], ..small() }, "--rates", "0.2,0.3,0.4"),
        (Options { rates: vec![0.2], ..small() }, "--rates", "as many"),
        (Options { tasks: Vec::new(), ..small() }, "--tasks", "fix"),
        (Options { tasks: names("a,a"), ..small() }, "--tasks a", "fix"),
        (Options { tasks: names("n0"), ..small() }, "--tasks n0", "fix"),
        (Options { tasks: names("user_id"), ..small() }, "--tasks user_id", "fix"),
        (Options { tasks: names("a b"), ..small() }, "--tasks a b", "fix"),
        (Options { split: [1, 1, 0], ..small() }, "--split", "80,10,10"),
        (Options { days: 11, ..small() }, "--days", "give --files 11"),
        (Options { signal: 0.0, ..small() }, "--signal", "1.5"),
        (Options { interaction: 1.0, ..small() }, "--interaction", "0.1"),
        (Options { zipf: -1.0, ..small() }, "--zipf", "fix"),
        (Options { cardinalities: vec![10, 0], ..small() }, "--cardinalities", "fix"),
        (Options { cardinalities: vec![1 << 41], ..small() }, "--cardinalities", "fix"),
        (Options { history: 3, cardinalities: Vec::new(), ..small() }, "--history", "--categorical"),
        (Options { row_group_rows: 0, ..small() }, "--row-group-rows", "65536"),
    ];
    for (options, option, fix) in cases {
        let error = options.check().map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        let text = error.to_string();
        assert!(text.contains(option) && text.contains(fix) && text.contains("fix: "), "{text}");
    }
}

#[test]
fn progress_counts_every_row_and_failures_leave_no_summary() {
    let dir = tempfile::tempdir().unwrap();
    let rows = std::sync::atomic::AtomicU64::new(0);
    let count = |n| {
        rows.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
    };
    generate(dir.path(), &small(), false, &count).unwrap();
    assert_eq!(rows.into_inner(), 6000);
    // A folder where a file should be: the write fails, and the old summary is gone with the old rows.
    let broken = |split: &Path| fs::create_dir_all(split.join("part-00000.parquet.part")).unwrap();
    let checked = small().check().unwrap();
    folder::prepare(dir.path(), false).unwrap();
    broken(&dir.path().join("train"));
    let world = World::new(&checked).unwrap();
    let error = write::files(dir.path(), &world, &checked, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("part-00000.parquet.part"), "{error}");
    assert!(Summary::read(dir.path()).is_err());
}
