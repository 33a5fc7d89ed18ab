//! The metrics of `tandem eval` are those of scikit-learn on what `tandem predict` writes.
//!
//! Needs `python3` with `venv`, and pip's index the first time. Where they are missing the test says so and
//! passes, except in CI (environment variable `CI`), where it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sklearn");

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr)))
}

/// The Python of a virtual environment with scikit-learn, made once per target folder.
fn python() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sklearn-venv");
    let (python, ready) = (venv.join("bin/python"), venv.join("ready"));
    let requirements = Path::new(FOLDER).join("requirements.txt");
    let wanted = fs::read(&requirements).map_err(|e| e.to_string())?;
    // Written last: an environment that was cut short, or has other packages, is made anew.
    if fs::read(&ready).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements))?;
    fs::write(&ready, wanted).map_err(|e| e.to_string())?;
    Ok(python)
}

fn tandem(arguments: &[&str]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_tandem")).args(arguments)).unwrap()
}

fn check(python: &Path, predictions: &str, eval: &Path) -> Result<Output, String> {
    let script = Path::new(FOLDER).join("check_metrics.py");
    run(Command::new(python).arg(script).arg(predictions).arg(eval).args(["--group", "user_id"]))
}

#[test]
fn metrics_are_those_of_scikit_learn() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped, there is no Python with scikit-learn: {reason}");
            return;
        }
        Err(reason) => panic!("there is no Python with scikit-learn: {reason}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (log, run_dir, predictions, test) = (path("log"), path("run"), path("predictions"), path("log/test/*.parquet"));
    let sizes = ["--rows", "20000", "--users", "100", "--numeric", "3", "--cardinalities", "10,300"];
    tandem(&[["synth", log.as_str()].as_slice(), sizes.as_slice()].concat());
    tandem(&["train", &path("log/job.yaml"), "--run-dir", &run_dir, "--set", "train.epochs=1"]);
    tandem(&["predict", &run_dir, "--data", &test, "--out", &predictions]);
    let eval = dir.path().join("eval.json");
    fs::write(&eval, tandem(&["eval", &run_dir, "--data", &test, "--json"]).stdout).unwrap();
    check(&python, &predictions, &eval).unwrap();
    the_check_can_fail(&python, &predictions, &eval);
}

/// Spoils each metric of one task by more than is allowed: every time the script must notice.
fn the_check_can_fail(python: &Path, predictions: &str, eval: &Path) {
    let good: serde_json::Value = serde_json::from_slice(&fs::read(eval).unwrap()).unwrap();
    for metric in ["auc", "gauc", "logloss", "normalized_entropy", "calibration"] {
        let mut bad = good.clone();
        let value = &mut bad["tasks"]["click"][metric];
        *value = (value.as_f64().unwrap() + 0.01).into();
        fs::write(eval, bad.to_string()).unwrap();
        let complaint = check(python, predictions, eval).unwrap_err();
        assert!(complaint.contains(&format!("click: {metric} is")), "{complaint}");
    }
}
