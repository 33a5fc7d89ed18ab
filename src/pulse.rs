//! What this process is doing right now, for a watchdog on a thread of its own.
//!
//! One a process, since a rank that stands still cannot be asked: stages, collective calls and reads write it down as
//! they come, which takes a lock that nobody else wants. Where ranks are threads of one process (tests) it is of all
//! of them, and nobody reads it.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a rank was doing when it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// Counts everything that is written here: a rank whose beats stand still does so itself.
    pub beats: u64,
    /// Steps that were taken.
    pub step: u64,
    /// Part of the work.
    pub stage: String,
    /// Inside a collective call: waiting for other ranks.
    pub waits: bool,
    /// Collective calls so far, the present one included.
    pub calls: u64,
    /// The file that has been read or written for the longest time, and the row group in it.
    pub file: Option<(String, Option<u32>)>,
}

struct State {
    pulse: Pulse,
    stage: &'static str,
    /// Files being read or written, the earliest first, by the number of their [`Touch`].
    files: Vec<(u64, String, Option<u32>)>,
}

static STATE: Mutex<State> = Mutex::new(State {
    pulse: Pulse { beats: 0, step: 0, stage: String::new(), waits: false, calls: 0, file: None },
    stage: "start",
    files: Vec::new(),
});

fn beat() -> MutexGuard<'static, State> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.pulse.beats += 1;
    state
}

/// Enters a part of the work.
pub fn enter(stage: &'static str) {
    beat().stage = stage;
}

/// Says how many steps were taken.
pub fn step(step: u64) {
    beat().pulse.step = step;
}

/// A collective call, until it is dropped.
#[derive(Debug)]
pub struct Waiting(());

/// Says that other ranks are waited for, until the result is dropped.
#[must_use]
pub fn waiting() -> Waiting {
    let mut state = beat();
    state.pulse.waits = true;
    state.pulse.calls += 1;
    Waiting(())
}

impl Drop for Waiting {
    fn drop(&mut self) {
        beat().pulse.waits = false;
    }
}

/// A file being read or written, until it is dropped.
#[derive(Debug)]
pub struct Touch(u64);

/// Says which file, and row group in it, is read or written until the result is dropped.
#[must_use]
pub fn touch(file: &str, row_group: Option<u32>) -> Touch {
    let mut state = beat();
    let number = state.pulse.beats;
    state.files.push((number, file.to_string(), row_group));
    Touch(number)
}

impl Drop for Touch {
    fn drop(&mut self) {
        let number = self.0;
        beat().files.retain(|(other, ..)| *other != number);
    }
}

/// What this process does now.
pub fn now() -> Pulse {
    let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = state.files.first().map(|(_, file, row_group)| (file.clone(), *row_group));
    Pulse { stage: state.stage.to_string(), file, ..state.pulse.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state is of the whole process, and other tests write to it: only what nobody else says is looked at.
    #[test]
    fn the_file_that_was_opened_first_is_the_one_to_name() {
        let before = now().beats;
        let first = touch("pulse-a", Some(7));
        let second = touch("pulse-b", None);
        let open = || -> Vec<String> {
            let state = STATE.lock().unwrap();
            let ours = state.files.iter().filter(|(_, file, _)| file.starts_with("pulse-"));
            ours.map(|(_, file, _)| file.clone()).collect()
        };
        assert_eq!(open(), ["pulse-a", "pulse-b"]);
        drop(first);
        assert_eq!(open(), ["pulse-b"]);
        drop(second);
        assert!(open().is_empty());
        assert!(now().beats >= before + 4);
    }
}
