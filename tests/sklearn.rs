//! The metrics of `tandem eval` are those of scikit-learn on what `tandem predict` writes.
//!
//! Needs `python3` with `venv`, and pip's index the first time. Where they are missing the tests say so and
//! pass, except in CI (environment variable `CI`), where they fail.

#[path = "common/python.rs"]
mod python;

use arrow::array::{ArrayRef, Float32Array, Int64Array, RecordBatch, UInt8Array};
use parquet::arrow::ArrowWriter;
use python::{python, run};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tandem::random;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sklearn");
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");

fn tandem(arguments: &[&str]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_tandem")).args(arguments)).unwrap()
}

/// A trained job and what was asked of it.
struct Case {
    folder: tempfile::TempDir,
    python: PathBuf,
    /// Options of the script.
    options: Vec<&'static str>,
}

impl Case {
    fn new(options: &[&'static str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self { python: python(FOLDER)?, folder, options: options.to_vec() })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    /// Trains `job`, then evaluates and predicts `test`.
    fn train(&self, job: &str, settings: &[&str], test: &str) {
        let (run_dir, predictions) = (self.path("run"), self.path("predictions"));
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        tandem(&[&["train", job, "--run-dir", &run_dir], settings.as_slice()].concat());
        tandem(&["predict", &run_dir, "--data", test, "--out", &predictions]);
        fs::write(self.path("eval.json"), tandem(&["eval", &run_dir, "--data", test, "--json"]).stdout).unwrap();
    }

    fn compare(&self) -> Result<Output, String> {
        let script = Path::new(FOLDER).join("check_metrics.py");
        let files = [self.path("predictions"), self.path("eval.json")];
        run(Command::new(&self.python).arg(script).args(files).args(&self.options))
    }

    /// Spoils metrics of one task by more than is allowed: every time the script must notice.
    fn assert_notices(&self, task: &str, metrics: &[&str]) {
        let good: serde_json::Value = serde_json::from_slice(&fs::read(self.path("eval.json")).unwrap()).unwrap();
        for metric in metrics {
            let mut bad = good.clone();
            let value = &mut bad["tasks"][task][metric];
            *value = (value.as_f64().unwrap() + 0.01).into();
            fs::write(self.path("eval.json"), bad.to_string()).unwrap();
            let complaint = self.compare().unwrap_err();
            assert!(complaint.contains(&format!("{task}: {metric} is")), "{complaint}");
        }
    }
}

#[test]
fn binary_metrics_are_those_of_scikit_learn() {
    let Some(case) = Case::new(&["--group", "user_id"]) else { return };
    let (log, test) = (case.path("log"), case.path("log/test/*.parquet"));
    let sizes = ["--rows", "20000", "--users", "100", "--numeric", "3", "--cardinalities", "10,300"];
    tandem(&[["synth", log.as_str()].as_slice(), sizes.as_slice()].concat());
    case.train(&case.path("log/job.yaml"), &["train.epochs=1"], &test);
    case.compare().unwrap();
    case.assert_notices("click", &["auc", "gauc", "logloss", "normalized_entropy", "calibration"]);
}

const OTHER_KINDS: &str = "
name: other_kinds
data: {train: log.parquet}
features:
  - {name: x, kind: numeric}
  - {name: item, kind: categorical, dim: 4}
tasks:
  - {name: click, label: click}
  - {name: buy, label: buy, where: click}
  - {name: stars, label: stars, kind: regression}
  - {name: color, label: color, kind: multiclass, classes: 4}
model: {kind: shared_bottom, bottom: [16], tower: []}
train: {global_batch: 250, epochs: 2, eval: {best: {metric: loss}}}
";

/// A log with a label of every kind; `stars` and `buy` have nulls.
fn write_log(path: &str) {
    let rows = 0..2000u64;
    let draw = |row: u64, what: u64| random::unit(5, &[row, what]) as f32;
    let x: Vec<f32> = rows.clone().map(|row| 4.0 * draw(row, 0) - 2.0).collect();
    let item: Vec<i64> = rows.clone().map(|row| (30.0 * draw(row, 1)) as i64).collect();
    let click: Vec<u8> = rows.clone().map(|row| u8::from(4.0 * draw(row, 2) - 2.0 < x[row as usize])).collect();
    let buy = rows.clone().map(|row| (row % 7 > 0).then(|| u8::from(draw(row, 3) < 0.3)));
    let stars = rows.clone().map(|row| (row % 5 > 0).then(|| x[row as usize] + draw(row, 4)));
    let color = rows.clone().map(|row| (item[row as usize] as u64 + u64::from(draw(row, 5) < 0.2)) % 4);
    let columns: [(&str, ArrayRef); 6] = [
        ("buy", Arc::new(buy.collect::<UInt8Array>())),
        ("stars", Arc::new(stars.collect::<Float32Array>())),
        ("color", Arc::new(Int64Array::from_iter_values(color.map(|class| class as i64)))),
        ("x", Arc::new(Float32Array::from(x.clone()))),
        ("item", Arc::new(Int64Array::from(item.clone()))),
        ("click", Arc::new(UInt8Array::from(click))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn masked_regression_and_multiclass_metrics_are_those_of_scikit_learn() {
    let Some(case) = Case::new(&["--where", "buy=click", "--regression", "stars"]) else { return };
    let (log, job) = (case.path("log.parquet"), case.path("job.yaml"));
    write_log(&log);
    fs::write(&job, OTHER_KINDS).unwrap();
    case.train(&job, &[&format!("data.train={log}")], &log);
    case.compare().unwrap();
    case.assert_notices("buy", &["auc", "logloss"]);
    case.assert_notices("stars", &["mae", "rmse", "mse"]);
    case.assert_notices("color", &["accuracy", "logloss"]);
}

#[test]
fn metrics_on_real_rows_are_those_of_scikit_learn() {
    let test = format!("{SHARED}/retailrocket/test");
    if !Path::new(&test).is_dir() {
        eprintln!("SKIPPED: there is no {test}");
        return;
    }
    let labels = ["--label", "click=label_click", "--label", "cart=label_cart", "--label", "buy=label_buy"];
    let Some(case) = Case::new(&[&["--group", "user_id"], labels.as_slice()].concat()) else { return };
    let job = concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/retailrocket_mmoe.yaml");
    let root = format!("data.root={SHARED}");
    let short = ["train.max_steps=20", "train.eval.every=never", "model.expert=[32]", "data.test=null", root.as_str()];
    case.train(job, &short, &test);
    case.compare().unwrap();
}
