//! Bundles of `tandem export` in the systems that serve them.

#![cfg(feature = "serving")]

#[path = "../common/python.rs"]
mod python;

#[path = "../common/mod.rs"]
mod common;

mod delta;
mod examples;
mod log;
mod onnxruntime;
mod systems;
mod verify;

use std::path::Path;
use std::process::{Command, Output};

/// Runs `tandem` to its end.
fn tandem(arguments: &[&str]) -> Output {
    python::run(Command::new(env!("CARGO_BIN_EXE_tandem")).args(arguments)).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `tandem`, which must fail; returns its exit code and what it said.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tandem")).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} should fail");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A folder with a log, and in `run` what a job with this model trained on it.
struct Trained {
    folder: tempfile::TempDir,
}

impl Trained {
    fn new(features: &str, tasks: &str, model: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        log::write(folder.path());
        let trained = Self { folder };
        trained.train("run", features, tasks, model);
        trained
    }

    /// Trains a job in the run folder `run`.
    fn train(&self, run: &str, features: &str, tasks: &str, model: &str) {
        let job = self.path("job.yaml");
        std::fs::write(&job, log::job(self.folder.path(), features, tasks, model)).unwrap();
        tandem(&["train", &job, "--run-dir", &self.path(run), "--quiet"]);
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    /// Exports `run` into `name`.
    fn export(&self, name: &str, more: &[&str]) -> Output {
        tandem(&[&["export", &self.path("run"), "--out", &self.path(name)], more].concat())
    }
}

/// Names below a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
