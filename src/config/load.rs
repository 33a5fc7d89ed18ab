//! Reads a job file, applies `--set` overrides, and gives errors their file and line.

use super::locate::{Locator, Origin, child, element};
use super::{Checked, Job, explain, overrides};
use crate::error::{Error, Kind, Result};
use serde_yaml::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A longer file is not a job: most likely the data was named in its place.
const MAX_JOB_BYTES: u64 = 4 << 20;

/// A job that was read and checked, and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The job.
    pub job: Checked,
    /// For errors that are found later: see [`Source::locate`].
    pub source: Source,
}

/// Where a job came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The job file.
    pub path: PathBuf,
    /// Overrides, as given: `train.epochs=2`.
    pub overrides: Vec<String>,
    locator: Locator,
}

/// Reads and checks the job at `path` with `overrides` (`a.b=value`, where the value is YAML).
///
/// # Errors
/// A file that cannot be read or is not YAML, a key that is unknown, missing, given twice or of a wrong
/// type, and whatever [`super::check`] finds. The error names the file and line, or the override.
pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded> {
    let text = read_text(path).map_err(|error| error.within("file", path.display()))?;
    from_text(&text, path, overrides)
}

/// As [`load`], for a job whose `text` was read from `path` (which is only named in errors).
pub fn from_text(text: &str, path: &Path, overrides: &[String]) -> Result<Loaded> {
    let root = parse_yaml(text).map_err(|error| error.within("file", path.display()))?;
    // This second reader is only for line numbers: what it cannot read has none.
    let locator = Locator::read(text).unwrap_or_default();
    let mut source = Source { path: path.to_path_buf(), overrides: overrides.to_vec(), locator };
    match source.read_job(root) {
        Ok(job) => Ok(Loaded { job, source }),
        Err(error) => Err(source.locate(error)),
    }
}

impl Source {
    fn read_job(&mut self, mut root: Value) -> Result<Checked> {
        if !root.is_mapping() {
            return Err(Error::job("a job is a mapping of keys (`name: …`, `data: …`), and this file is not")
                .within("file", self.path.display()));
        }
        for (i, text) in self.overrides.iter().enumerate() {
            overrides::apply(&mut root, text, i, &mut self.locator)?;
        }
        refuse_other_keys(&root, "")?;
        let job: Job = explain::read(root, "")?;
        Checked::new(job)
    }

    /// Adds the file and line, or the override, to an error about a `key` of the job. Other errors stay
    /// as they are.
    #[must_use]
    pub fn locate(&self, error: Error) -> Error {
        if error.kind() != Kind::Job || ["file", "line", "--set"].iter().any(|label| error.place(label).is_some()) {
            return error;
        }
        let Some(key) = error.place("key") else { return error };
        match self.locator.locate(key) {
            Some(Origin::Override(i)) => match self.overrides.get(i) {
                Some(text) => error.within("--set", text),
                None => error,
            },
            Some(Origin::Line(line)) => error.within("line", line).within("file", self.path.display()),
            None => error.within("file", self.path.display()),
        }
    }
}

fn read_text(path: &Path) -> Result<String> {
    let refused = |source: std::io::Error| {
        let error = Error::job(format!("the job file cannot be read: {source}"));
        match source.kind() {
            std::io::ErrorKind::NotFound => error.fix("check the path; `jobs/` holds examples"),
            std::io::ErrorKind::IsADirectory => error.fix("name the YAML file, not its folder"),
            _ => error,
        }
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(refused)?;
    file.take(MAX_JOB_BYTES + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > MAX_JOB_BYTES {
        let limit_mib = MAX_JOB_BYTES >> 20;
        return Err(Error::job(format!("this is no job file: it is longer than {limit_mib} MiB"))
            .fix("name the job's YAML file, not the data"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        Error::job("this is no job file: it is not UTF-8 text").at("line", line).fix("save the job as UTF-8")
    })
}

/// Reads the one YAML document of `text`, with its merge keys (`<<`) applied.
fn parse_yaml(text: &str) -> Result<Value> {
    let mut root: Value = serde_yaml::from_str(text).map_err(|error| syntax_error(text, &error))?;
    if root.is_null() {
        return Err(Error::job("the job file is empty").fix("`jobs/` holds examples"));
    }
    root.apply_merge().map_err(|error| Error::job(format!("a merge key (`<<`) cannot be applied: {error}")))?;
    Ok(root)
}

fn syntax_error(text: &str, error: &serde_yaml::Error) -> Error {
    let message = error.to_string();
    // Of a key that is given twice, the first reader tells the mapping and the second the key.
    if message.contains("duplicate entry")
        && let Err(scan) = Locator::read(text)
    {
        return duplicate_key(text, scan.marker().line(), scan.marker().col());
    }
    if message.contains("more than one document") {
        return Error::job("the file holds more than one YAML document").fix("keep one job a file: remove `---`");
    }
    let what = message.split(" at line ").next().unwrap_or(&message);
    let error_ = Error::job(format!("this is not YAML: {what}"));
    match error.location() {
        Some(place) => error_.at("line", place.line()).at("column", place.column()),
        None => error_,
    }
}

/// `line` counts from 1, `column` from 0.
fn duplicate_key(text: &str, line: usize, column: usize) -> Error {
    let rest: String = text.lines().nth(line.saturating_sub(1)).unwrap_or("").chars().skip(column).collect();
    let key = rest.split(':').next().unwrap_or("").trim().trim_matches(['"', '\'']);
    Error::job(format!("the key `{key}` is given twice")).at("line", line).at("key", key).fix("remove one of the two")
}

/// serde would read a key that is a number as the index of a field.
fn refuse_other_keys(value: &Value, path: &str) -> Result<()> {
    match value {
        Value::Mapping(mapping) => mapping.iter().try_for_each(|(key, value)| match key.as_str() {
            Some(name) => refuse_other_keys(value, &child(path, name)),
            None => {
                let written = serde_yaml::to_string(key).unwrap_or_default();
                let error = Error::job(format!("the key `{}` is not text", written.trim()));
                Err(error.at("key", path).fix("put the key in quotes, if it is meant"))
            }
        }),
        Value::Sequence(entries) => {
            entries.iter().enumerate().try_for_each(|(i, entry)| refuse_other_keys(entry, &element(path, i)))
        }
        Value::Tagged(tagged) => {
            let error = Error::job(format!("the tag `{}` means nothing here", tagged.tag)).at("key", path);
            Err(error.fix("remove it, or put the value in quotes"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
