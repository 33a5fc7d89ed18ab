//! Accounting of a backend's traffic.

use super::Traffic;
use crate::error::Result;
use crate::pulse;
use std::cell::Cell;
use std::time::Instant;

/// Adds up a rank's [`Traffic`]. A cell, because communicators are shared by reference on one thread.
#[derive(Debug, Default)]
pub(super) struct Meter(Cell<Traffic>);

impl Meter {
    /// Runs one collective call that sends `sent_bytes` to other ranks, and books it.
    pub(super) fn call<T>(&self, sent_bytes: usize, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let waiting = pulse::waiting();
        let result = body();
        drop(waiting);
        let mut traffic = self.0.get();
        traffic.sent_bytes += sent_bytes as u64;
        traffic.calls += 1;
        traffic.seconds += start.elapsed().as_secs_f64();
        self.0.set(traffic);
        result
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.0.get()
    }
}
