//! What the ranks of a [`threads`](super) world share: their inboxes, and who has stopped.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Which collective a letter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    ExchangeCounts,
    AllToAll,
    AllGather,
    Barrier,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::ExchangeCounts => "exchange_counts",
            Op::AllToAll => "all_to_all",
            Op::AllGather => "all_gather",
            Op::Barrier => "barrier",
        })
    }
}

/// What one rank sends one rank in its collective call number `call`.
pub(super) struct Letter {
    pub call: u64,
    pub op: Op,
    pub bytes: Arc<[u8]>,
}

/// The shared state of all ranks.
pub(super) struct World {
    state: Mutex<State>,
    changed: Condvar,
    size: usize,
}

struct State {
    /// By receiver: letters not yet taken, by (sender, call).
    inboxes: Vec<HashMap<(usize, u64), Letter>>,
    /// By rank, once it has stopped: how many collective calls it took part in.
    stopped_after: Vec<Option<u64>>,
    /// The first failure: what the ranks that wait for a stopped rank are told.
    failure: Option<String>,
    /// By (number of calls after the split, color).
    groups: HashMap<(u64, u32), Arc<World>>,
}

impl World {
    pub(super) fn new(size: usize) -> Self {
        let inboxes = (0..size).map(|_| HashMap::new()).collect();
        let state = State { inboxes, stopped_after: vec![None; size], failure: None, groups: HashMap::new() };
        Self { state: Mutex::new(state), changed: Condvar::new(), size }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The world of a group of `size` ranks, one and the same for all that name it by `key`.
    pub(super) fn group(&self, key: (u64, u32), size: usize) -> Arc<World> {
        Arc::clone(self.lock().groups.entry(key).or_insert_with(|| Arc::new(World::new(size))))
    }

    /// Puts a letter into the inbox of `to`.
    pub(super) fn post(&self, from: usize, to: usize, letter: Letter) {
        self.lock().inboxes[to].insert((from, letter.call), letter);
        self.changed.notify_all();
    }

    /// Waits for the letter of `from` in the receiver's call number `call`, which is an `op`.
    ///
    /// A rank posts all letters of a call before it takes any. So a call that every rank reaches completes
    /// on every rank, even if some stop right after it; and one that some rank never reaches fails at once.
    pub(super) fn take(&self, to: usize, from: usize, call: u64, op: Op) -> Result<Arc<[u8]>> {
        let mut state = self.lock();
        loop {
            if let Some(letter) = state.inboxes[to].remove(&(from, call)) {
                if letter.op == op {
                    return Ok(letter.bytes);
                }
                drop(state);
                let theirs = letter.op;
                return Err(self.fail(format!(
                    "mismatched collective call {call}: rank {to} called {op}, rank {from} called {theirs}"
                )));
            }
            if let Some(absent) = state.stopped_after.iter().position(|calls| calls.is_some_and(|n| n <= call)) {
                drop(state);
                return Err(self.fail(format!(
                    "rank {absent} has ended, but rank {to} waits for it in collective call {call}, {op}"
                )));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records a failure, unless there was one before; returns the first one as an error.
    pub(super) fn fail(&self, what: String) -> Error {
        Error::comm(self.lock().failure.get_or_insert(what).as_str())
    }

    /// Says that `rank` takes part in no more than its first `calls` collective calls.
    pub(super) fn stop(&self, rank: usize, calls: u64) {
        self.lock().stopped_after[rank] = Some(calls);
        self.changed.notify_all();
    }

    /// No code panics while it holds the lock, so a poisoned lock still guards a whole state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
