//! What docs/serving.md shows, run.

use super::onnxruntime::FOLDER;
use super::*;
use crate::python::{python, run};
use std::process::Stdio;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A model of the log that the document speaks of, as a bundle, with the predictions for its test rows.
struct Demo {
    folder: tempfile::TempDir,
}

impl Demo {
    fn new() -> Self {
        let demo = Self { folder: tempfile::tempdir().unwrap() };
        let (log, run) = (demo.path("demo"), demo.path("run"));
        tandem(&["synth", &log, "--rows", "3000", "--users", "50", "--numeric", "3", "--cardinalities", "10,200"]);
        tandem(&["train", &format!("{log}/job.yaml"), "--run-dir", &run, "--set", "train.epochs=1", "--quiet"]);
        tandem(&["export", &run, "--out", &demo.path("bundle")]);
        tandem(&["predict", &run, "--data", &format!("{log}/test"), "--out", &demo.path("scored")]);
        demo
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    /// The first file of predictions.
    fn scored(&self) -> String {
        let parts = names(Path::new(&self.path("scored")));
        self.path(&format!("scored/{}", parts.iter().find(|name| name.ends_with(".parquet")).unwrap()))
    }
}

/// Runs Python code with arguments.
fn script(python: &Path, code: &str, arguments: &[&str]) -> String {
    let output = run(Command::new(python).args(["-c", code]).args(arguments)).unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8(output.stdout).unwrap()
}

fn assert_same(said: &str, expected: &str, count: usize) {
    let numbers = |text: &str| -> Vec<f64> { text.lines().map(|line| line.parse().unwrap()).collect() };
    let (said, expected) = (numbers(said), numbers(expected));
    assert_eq!((said.len(), expected.len()), (count, count));
    for (said, expected) in said.iter().zip(&expected) {
        assert!((said - expected).abs() <= 1e-5, "{said} {expected}");
    }
}

const PREDICTIONS: &str = "
import sys, pyarrow.parquet as pq
for row in pq.read_table(sys.argv[1]).to_pylist()[: int(sys.argv[2])]: print(row['pred_click'])
";

#[test]
fn the_python_of_the_document_gives_what_predict_gives() {
    let Some(python) = python(FOLDER) else { return };
    let document = std::fs::read_to_string(Path::new(ROOT).join("docs/serving.md")).unwrap();
    let code =
        document.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of Python");
    assert!(code.lines().count() <= 32, "the document promises a few lines");
    let demo = Demo::new();
    let scored = demo.scored();
    let said = script(&python, code, &[&demo.path("bundle"), &scored]);
    let count = said.lines().count();
    assert!(count > 100, "{said}");
    assert_same(&said, &script(&python, PREDICTIONS, &[&scored, "1000000"]), count);
}

#[test]
fn the_rust_of_the_document_gives_what_predict_gives() {
    let Some(python) = python(FOLDER) else { return };
    let demo = Demo::new();
    let scored = demo.scored();
    const ROWS: &str = "
import json, sys, pyarrow.parquet as pq
for row in pq.read_table(sys.argv[1]).to_pylist()[:100]: print(json.dumps(row, default=str))
";
    let rows = demo.path("rows.json");
    std::fs::write(&rows, script(&python, ROWS, &[&scored])).unwrap();
    let mut serve = Command::new(crate::common::example("serve"));
    serve.arg(demo.path("bundle")).stdin(std::fs::File::open(&rows).unwrap()).stderr(Stdio::inherit());
    let said = String::from_utf8(run(&mut serve).unwrap().stdout).unwrap();
    assert_same(&said, &script(&python, PREDICTIONS, &[&scored, "100"]), 100);
}
