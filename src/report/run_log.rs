//! What a run folder says: its events by kind, and its job.

use crate::error::{Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The log of one run.
#[derive(Debug, Default)]
pub(super) struct RunLog {
    /// What tells it from the other runs of the page.
    pub name: String,
    pub folder: PathBuf,
    /// The newest `start` event; null if there is none.
    pub start: Value,
    pub steps: Vec<Value>,
    pub evals: Vec<Value>,
    /// Of a federated run.
    pub rounds: Vec<Value>,
    /// The newest `resources` event; null if there is none.
    pub resources: Value,
    /// The newest `end` event, unless the run went on after it; else null.
    pub end: Value,
    /// The job as YAML; empty if the folder has none.
    pub job_text: String,
    /// The same, read.
    pub job: serde_yaml::Value,
}

impl RunLog {
    /// Reads `metrics.jsonl` and `job.yaml` of a run folder. A last line that is not whole yet is left out.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let file = File::open(&path).map_err(|e| {
            Error::io("reading the log of a run", &path, &e).fix("give the folder of a run of `tandem train`")
        })?;
        let job_text = std::fs::read_to_string(folder.join("job.yaml")).unwrap_or_default();
        let mut run = Self {
            name: last_part(folder),
            folder: folder.to_path_buf(),
            job: serde_yaml::from_str(&job_text).unwrap_or_default(),
            job_text,
            ..Self::default()
        };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|e| Error::io("reading", &path, &e))?;
            if let Ok(event) = serde_json::from_str::<Value>(&line) {
                run.take(event);
            }
        }
        Ok(run)
    }

    fn take(&mut self, event: Value) {
        match event["event"].as_str() {
            Some("start") => (self.start, self.end) = (event, Value::Null),
            Some("step") => self.steps.push(event),
            Some("round") => self.rounds.push(event),
            Some("eval") => self.evals.push(event),
            Some("resources") => self.resources = event,
            Some("end") => self.end = event,
            _ => {}
        }
    }

    /// Names of the tasks, in the order of the job.
    pub fn tasks(&self) -> Vec<String> {
        let of_job = self.job["tasks"].as_sequence().into_iter().flatten();
        let named: Vec<String> = of_job.filter_map(|task| Some(task["name"].as_str()?.to_string())).collect();
        if named.is_empty() { self.tasks_of_log() } else { named }
    }

    fn tasks_of_log(&self) -> Vec<String> {
        let first = self.steps.first().map(|step| &step["losses"]);
        let first = first.or(self.evals.first().map(|eval| &eval["tasks"]));
        first.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// The last evaluation of a split.
    pub fn last_eval(&self, split: &str) -> Option<&Value> {
        self.evals.iter().rev().find(|eval| eval["split"] == split)
    }

    /// The evaluation that stands for the run: on `test`, else the last on `valid`.
    pub fn final_eval(&self) -> Option<&Value> {
        self.last_eval("test").or(self.last_eval("valid"))
    }
}

/// Gives runs of one name more of their paths.
pub(super) fn name_apart(runs: &mut [RunLog]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = run.folder.display().to_string();
        }
    }
}

fn last_part(folder: &Path) -> String {
    let whole = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    whole.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}
