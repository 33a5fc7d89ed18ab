//! Ends a run that stands still, and says who keeps it waiting.
//!
//! A thread of each rank looks at the rank's [`pulse`] ten times in the given limit. The rank that is late cannot be
//! asked over MPI, whose calls belong to the main threads, and it may be stopped altogether. So every rank writes
//! where it is into its line of one file in the run folder, `RUN_DIR/watchdog`, which all nodes share as they share
//! the checkpoints: at 1024 ranks and the usual limit 17 lines a second, of 512 bytes. Nobody reads the file but a
//! rank whose own pulse has stood still for half the limit.
//!
//! After the whole limit it judges (`verdict.rs`): if any rank has moved within the limit, the others
//! wait for it rightly, however long it takes; so slow evaluations, checkpoints and first passes over the data are no
//! false alarm, as long as something moves in them. Otherwise the late ranks are those that gave no sign of life
//! (stopped, or their node gone), else those that wait for nobody (stuck in a read or a loop), else those that made the
//! fewest collective calls. One rank speaks for all and ends its process with its own exit code, upon which the launcher
//! ends the others.
//!
//! It watches from before MPI is started (with [`START_LIMIT`], alone) until the process ends, since `MPI_Init` and
//! `MPI_Finalize` wait for other ranks too. Commands without a run folder (`eval`, `predict`) are watched by each rank
//! alone throughout: a rank that stands still outside of collective calls speaks first, since the others wait for it.
//!
//! Time is counted in looks, not by the clock: a job that was suspended as a whole has not stood still. The file is
//! read and written by a second thread, so that a run folder that does not answer cannot silence the watchdog.

mod board;
mod verdict;

use crate::error::Error;
use crate::pulse::{self, Pulse};
use board::{Board, Record};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use sysinfo::System;
use verdict::{Seen, judge};

/// Looks in one limit.
const LOOKS: u32 = 10;

/// The limit until the job's own is known.
pub const START_LIMIT: Duration = Duration::from_secs(600);

/// Name of the file in the run folder.
pub const FILE: &str = "watchdog";

/// A rank, of how many.
pub type Place = (usize, usize);

/// The way to a watchdog, which watches until the process ends.
#[derive(Clone)]
pub struct Watchdog(Sender<Option<Watch>>);

impl Watchdog {
    /// Watches this process. Where the job stands still, `end` is called on the rank that speaks, with what to print;
    /// it should not return.
    pub fn start(end: impl FnOnce(Place, Error) + Send + 'static) -> std::io::Result<Self> {
        let (sender, orders) = mpsc::channel();
        let watch = Watch { place: (0, 1), looks_apart: START_LIMIT / LOOKS, host: String::new(), desk: None };
        std::thread::Builder::new().name("watchdog".to_string()).spawn(move || {
            if let Some((place, error)) = watch.obey(&orders) {
                end(place, error);
            }
        })?;
        Ok(Self(sender))
    }

    /// Watches with the job's own limit from now on, together with the other ranks where they share a run folder; with
    /// no limit no more.
    pub fn aim(&self, limit: Option<Duration>, run_dir: Option<&Path>, place: Place) -> std::io::Result<()> {
        let watch = match limit {
            None => None,
            Some(limit) => {
                let desk = run_dir.map(|run_dir| Desk::open(Board::new(run_dir.join(FILE), place.0, place.1)));
                let host = System::host_name().unwrap_or_default();
                Some(Watch { place, looks_apart: limit / LOOKS, host, desk: desk.transpose()? })
            }
        };
        // Its thread ends only by ending the process.
        let _ = self.0.send(watch);
        Ok(())
    }
}

struct Watch {
    place: Place,
    looks_apart: Duration,
    host: String,
    /// Absent while nothing is known of other ranks.
    desk: Option<Desk>,
}

impl Watch {
    /// Looks until it is told to stop, or the job stands still.
    fn obey(mut self, orders: &Receiver<Option<Watch>>) -> Option<(Place, Error)> {
        let mut last = Pulse::default();
        let mut still = 0;
        let mut look = 0;
        loop {
            let pulse = pulse::now();
            still = if pulse.beats == last.beats { still + 1 } else { 0 };
            look += 1;
            last = pulse;
            if let Some(error) = self.look(look, still, &last) {
                return Some((self.place, error));
            }
            match orders.recv_timeout(self.looks_apart) {
                Ok(watch) => (self, still) = (watch?, 0),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(self.looks_apart),
            }
        }
    }

    /// Writes down what this rank does, and says whether the job stands still and this rank is the one to tell.
    fn look(&self, look: u64, still: u32, pulse: &Pulse) -> Option<Error> {
        let rank = self.place.0;
        let record = Record { rank, host: self.host.clone(), look, still, pulse: pulse.clone() };
        let seen = self.desk.as_ref().map(|desk| desk.exchange(record.clone()));
        if still < LOOKS {
            return None;
        }
        let verdict = judge(&record, seen.as_deref(), self.looks_apart)?;
        // Whose turn it is may be unable to speak.
        (verdict.speaks || still >= LOOKS + LOOKS / 2).then_some(verdict.error)
    }
}

/// The thread that reads and writes the board.
struct Desk {
    records: SyncSender<Record>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Desk {
    fn open(board: Board) -> std::io::Result<Self> {
        let (records, waiting) = mpsc::sync_channel::<Record>(1);
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let shared = seen.clone();
        // It may hang on a dead disk, so nobody waits for it.
        std::thread::Builder::new().name("watchdog-file".to_string()).spawn(move || {
            for record in waiting {
                board.write(&record);
                let now = if record.still >= LOOKS / 2 { board.read() } else { Vec::new() };
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                *seen = verdict::compare(std::mem::take(&mut *seen), now);
            }
        })?;
        Ok(Self { records, seen })
    }

    /// Has the record written, and says what was read before; nothing, where the last look is not yet done with.
    fn exchange(&self, record: Record) -> Vec<Seen> {
        let late = self.records.try_send(record).is_err();
        if late { Vec::new() } else { self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }
}
