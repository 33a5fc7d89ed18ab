//! What tandem writes, read by the programs that people read it with: TensorBoard, pandas, polars, DuckDB.
//!
//! Needs `python3` with `venv`, and pip's index the first time. Where they are missing the tests say so and pass, except in
//! CI (environment variable `CI`), where they fail.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/fixture.rs"]
mod fixture;
#[path = "../common/python.rs"]
mod python;

use common::text_of;
use fixture::Fixture;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readers");

/// What TensorBoard finds in a folder.
fn tensorboard(python: &Path, folder: &Path) -> Value {
    let script = Path::new(FOLDER).join("check_tensorboard.py");
    let output = python::run(Command::new(python).arg(script).arg(folder)).unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text_of(&output)))
}

/// The events of one kind in the log of a run.
fn events(fixture: &Fixture, kind: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(fixture.path("run/metrics.jsonl")).expect("a log");
    let all = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    all.filter(|event| event["event"] == kind).collect()
}

#[test]
fn tensorboard_reads_what_the_log_says_also_after_a_resume() {
    let Some(python) = python::python(FOLDER) else { return };
    let fixture = Fixture::new();
    for more in [&["--set", "train.max_steps=4"][..], &["--set", "train.epochs=2", "--resume"]] {
        let output = fixture.train(&[&["--tensorboard"], more].concat());
        assert!(output.status.success(), "{}", text_of(&output));
    }
    let found = tensorboard(&python, &fixture.path("run/tensorboard"));
    let steps = events(&fixture, "step");
    assert!(steps.len() > 4, "{steps:?}");
    let of_log = |value: &dyn Fn(&Value) -> f64| -> Vec<(u64, f32)> {
        steps.iter().map(|step| (step["step"].as_u64().unwrap(), value(step) as f32)).collect()
    };
    let of_board = |tag: &str| -> Vec<(u64, f32)> {
        let points = found["scalars"][tag].as_array().unwrap_or_else(|| panic!("no {tag} in {found}"));
        points.iter().map(|point| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap() as f32)).collect()
    };
    assert_eq!(of_board("loss/click"), of_log(&|step| step["losses"]["click"].as_f64().unwrap()));
    assert_eq!(of_board("table_rows/user"), of_log(&|step| step["table_rows"]["user"].as_f64().unwrap()));
    let cosines = of_log(&|step| step["cosines"][0][1].as_f64().unwrap());
    assert_eq!(of_board("cosine/click-buy"), cosines);
    let aucs: Vec<f32> =
        events(&fixture, "eval").iter().map(|e| e["tasks"]["buy"]["auc"].as_f64().unwrap() as f32).collect();
    assert_eq!(of_board("valid_auc/buy").iter().map(|point| point.1).collect::<Vec<_>>(), aucs);
    let predictions = &found["histograms"]["valid_predictions/click"][0];
    assert_eq!(predictions[1].as_f64(), Some(40.0), "as many as the split has rows: {predictions}");
    let image = &found["images"]["conflict/cosines"][0];
    assert_eq!((image[1].as_u64(), image[2].as_u64(), image[3].as_str()), (Some(64), Some(64), Some("89504e47")));
    assert!(found["texts"]["job"].as_str().is_some_and(|text| text.contains("kind: shared_bottom")), "{found}");
}

/// The blocks of one language in a document, one below the other.
fn blocks(document: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).expect("a document");
    let (mut inside, mut found) = (false, String::new());
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(info) => inside = info == language,
            None if inside => found += &format!("{line}\n"),
            None => {}
        }
    }
    found
}

#[test]
fn one_line_of_pandas_polars_or_duckdb_opens_what_tandem_writes() {
    let Some(python) = python::python(FOLDER) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = format!(
        "cd {}\ntandem() {{ \"$TANDEM\" \"$@\"; }}\nset -e\n{}",
        folder.path().display(),
        blocks("docs/python.md", "sh").replace("tandem train ", "tandem train --set train.max_steps=3 ")
    );
    let output = fixture::shell(&script);
    assert!(output.status.success(), "{}", text_of(&output));
    let script = blocks("docs/python.md", "python");
    assert!(script.matches("assert ").count() >= 4, "{script}");
    let mut command = Command::new(python);
    python::run(command.current_dir(folder.path()).args(["-c", &script])).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_schema_takes_the_jobs_of_the_repository_and_no_misspelt_key() {
    let Some(python) = python::python(FOLDER) else { return };
    let schema = fixture::tandem(&["schema"]).stdout;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("schema.json");
    std::fs::write(&path, schema).expect("a schema");
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs");
    let script = Path::new(FOLDER).join("check_schema.py");
    let output = python::run(Command::new(python).arg(script).arg(path).arg(jobs));
    let output = output.unwrap_or_else(|error| panic!("{error}"));
    assert!(text_of(&output).contains("jobs, and each key misspelt"), "{}", text_of(&output));
}
