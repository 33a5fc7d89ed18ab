//! How fast a run trains.

use std::time::Instant;

/// Rows a second between two `step` events, evaluations and checkpoints left out.
pub(super) struct Meter {
    /// Rows of the steps since the last event.
    pub rows: u64,
    seconds: f64,
    since: Instant,
}

impl Meter {
    pub fn new() -> Self {
        Self { rows: 0, seconds: 0.0, since: Instant::now() }
    }

    /// Runs something that is not training.
    pub fn paused<T>(&mut self, other: impl FnOnce() -> T) -> T {
        self.seconds += self.since.elapsed().as_secs_f64();
        let result = other();
        self.since = Instant::now();
        result
    }

    /// The rate since the last lap.
    pub fn lap(&mut self) -> f64 {
        let seconds = self.seconds + self.since.elapsed().as_secs_f64();
        let rate = self.rows as f64 / seconds.max(1e-9);
        *self = Self::new();
        rate
    }
}
