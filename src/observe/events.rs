//! `metrics.jsonl`: what happened in a run, one JSON object a line, for plots and programs.
//!
//! The file is only ever appended to, and each line is written whole, so a reader may follow it while the
//! run goes on. A crash can cut the last line; [`Events::resume`] removes it, together with all that the
//! run is about to do again.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What a line reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Start,
    Step,
    NonFinite,
    Round,
    Eval,
    Checkpoint,
    Resources,
    End,
}

/// The writer of a run's events; only rank 0 has a file.
#[derive(Debug)]
pub struct Events {
    target: Option<(File, PathBuf)>,
}

/// One line as written: the fields of the event's own object follow its name.
#[derive(Serialize)]
struct Line<'a, T> {
    event: Event,
    #[serde(flatten)]
    fields: &'a T,
}

/// What [`Events::resume`] reads of a line.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    step: Option<u64>,
}

impl Events {
    /// A writer that writes nothing: for all ranks but the first.
    pub fn nowhere() -> Self {
        Self { target: None }
    }

    /// Starts the log of a new run at `path`.
    ///
    /// # Errors
    /// If the file cannot be written, or there is one already: another run's.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Error::job("there is a run in this folder already")
                .at("file", path.display())
                .fix("go on with it by --resume, or choose another --run-dir"),
            _ => Error::io("creating", path, &e),
        })?;
        Ok(Self { target: Some((file, path.to_path_buf())) })
    }

    /// Goes on with the log at `path` from a checkpoint taken after `step` steps: lines of later steps are
    /// dropped, because those steps are done again, and so is a line that a crash has cut. A missing file
    /// is begun.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        drop_lines_after(path, step)?;
        let file =
            OpenOptions::new().append(true).create(true).open(path).map_err(|e| Error::io("opening", path, &e))?;
        Ok(Self { target: Some((file, path.to_path_buf())) })
    }

    /// Appends one line: `fields` (a struct or map) after the name of the event. A number that is not
    /// finite becomes `null`, since JSON has no other word for it.
    pub fn write(&mut self, event: Event, fields: &impl Serialize) -> Result<()> {
        let Some((file, path)) = &mut self.target else { return Ok(()) };
        let mut line = serde_json::to_vec(&Line { event, fields })
            .map_err(|e| Error::internal(format!("an event is no JSON object: {e}")))?;
        line.push(b'\n');
        // One write a line, so that a reader or a crash sees whole lines only.
        file.write_all(&line).map_err(|e| Error::io("writing", path, &e))
    }
}

/// Rewrites the file without the lines after `step`, aside and renamed, so that a crash loses nothing.
fn drop_lines_after(path: &Path, step: u64) -> Result<()> {
    let source = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("reading", path, &e)),
    };
    let aside = path.with_extension("jsonl.partial");
    let mut kept = BufWriter::new(File::create(&aside).map_err(|e| Error::io("creating", &aside, &e))?);
    let mut lines = BufReader::new(source);
    let mut line = Vec::new();
    let mut number = 0u64;
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(|e| Error::io("reading", path, &e))? == 0 {
            break;
        }
        number += 1;
        match serde_json::from_slice::<Head>(&line) {
            Ok(head) if head.step.is_none_or(|at| at <= step) => {
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                let written = kept.write_all(text).and_then(|()| kept.write_all(b"\n"));
                written.map_err(|e| Error::io("writing", &aside, &e))?;
            }
            Ok(_) => {}
            Err(_) => tracing::warn!("dropped line {number} of {}: it was cut by a crash", path.display()),
        }
    }
    let file = kept.into_inner().map_err(|e| Error::io("writing", &aside, e.error()))?;
    file.sync_all().map_err(|e| Error::io("writing", &aside, &e))?;
    std::fs::rename(&aside, path).map_err(|e| Error::io("renaming", &aside, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).expect("the log is there").lines().map(str::to_string).collect()
    }

    /// A log of five steps with an evaluation after the fourth and a last line that a crash cut.
    fn crashed(path: &Path) {
        let mut events = Events::create(path).expect("a new log");
        events.write(Event::Start, &json!({"ranks": 2})).expect("written");
        for step in 1..=4 {
            events.write(Event::Step, &json!({"step": step, "losses": {"click": 0.5}})).expect("written");
        }
        events.write(Event::Eval, &json!({"step": 4, "split": "valid"})).expect("written");
        drop(events);
        let mut file = OpenOptions::new().append(true).open(path).expect("the log is there");
        file.write_all(b"{\"event\":\"step\",\"step\":5,\"los").expect("written");
    }

    #[test]
    fn a_line_is_an_object_that_begins_with_its_event() {
        #[derive(Serialize)]
        struct Fields {
            step: u64,
            loss: f64,
        }
        let folder = folder();
        let path = folder.path().join("metrics.jsonl");
        let mut events = Events::create(&path).expect("a new log");
        events.write(Event::Step, &Fields { step: 3, loss: 0.25 }).expect("written");
        events.write(Event::Step, &Fields { step: 4, loss: f64::NAN }).expect("written");
        // Written at once, not when the writer is dropped.
        assert_eq!(
            lines(&path),
            [r#"{"event":"step","step":3,"loss":0.25}"#, r#"{"event":"step","step":4,"loss":null}"#]
        );
    }

    #[test]
    fn resume_drops_the_cut_line_and_what_is_done_again() {
        let folder = folder();
        let path = folder.path().join("metrics.jsonl");
        crashed(&path);
        let mut events = Events::resume(&path, 3).expect("a log to go on with");
        events.write(Event::Step, &json!({"step": 4})).expect("written");
        let kept = lines(&path);
        assert_eq!(kept.len(), 5, "{kept:?}");
        assert!(kept[0].contains("start") && kept[3].contains("\"step\":3"), "{kept:?}");
        assert_eq!(kept[4], r#"{"event":"step","step":4}"#);
        let files = std::fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(files, 1, "nothing is left aside");
    }

    #[test]
    fn resume_after_the_last_line_drops_only_the_cut_one() {
        let folder = folder();
        let path = folder.path().join("metrics.jsonl");
        crashed(&path);
        Events::resume(&path, 4).expect("a log to go on with");
        assert_eq!(lines(&path).len(), 6);
        assert!(lines(&path)[5].contains("eval"));
    }

    #[test]
    fn resume_keeps_a_whole_line_that_lacks_only_its_end() {
        let folder = folder();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, r#"{"event":"step","step":1}"#).expect("written");
        let mut events = Events::resume(&path, 1).expect("a log to go on with");
        events.write(Event::End, &json!({"step": 1})).expect("written");
        assert_eq!(lines(&path), [r#"{"event":"step","step":1}"#, r#"{"event":"end","step":1}"#]);
    }

    #[test]
    fn resume_begins_a_missing_log() {
        let folder = folder();
        let path = folder.path().join("metrics.jsonl");
        Events::resume(&path, 9).expect("a new log");
        assert!(lines(&path).is_empty());
    }

    #[test]
    fn another_runs_log_is_not_overwritten() {
        let folder = folder();
        let path = folder.path().join("metrics.jsonl");
        crashed(&path);
        let error = Events::create(&path).expect_err("there is a log already").to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("--resume"), "{error}");
        assert_eq!(lines(&path).len(), 7);
    }

    #[test]
    fn errors_name_the_file() {
        let folder = folder();
        let path = folder.path().join("missing").join("metrics.jsonl");
        for error in [Events::create(&path).err(), Events::resume(&path, 0).err()] {
            let text = error.map(|e| e.to_string()).unwrap_or_default();
            assert!(text.contains("missing/metrics.jsonl"), "{text}");
        }
    }

    #[test]
    fn other_ranks_write_nothing() {
        assert!(Events::nowhere().write(Event::End, &json!({"step": 1})).is_ok());
    }
}
