//! The screen that a progress bar and log lines share.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use std::io::{self, Write};
use tracing_subscriber::fmt::MakeWriter;

/// Standard error, on which lines are written above a progress bar instead of through it. Clones share
/// the screen.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: MultiProgress,
}

impl Terminal {
    /// The standard error of this process.
    pub fn stderr() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()) }
    }

    /// Whether a person looks at it, as opposed to a file.
    pub fn is_interactive(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// Writes one line above the bar. A closed stderr is no reason to stop a training run.
    pub fn line(&self, text: &str) {
        let _ = self.make_writer().write_all(format!("{text}\n").as_bytes());
    }

    pub(super) fn add(&self, bar: ProgressBar) -> ProgressBar {
        self.bars.add(bar)
    }
}

/// Writes whole lines to a [`Terminal`].
#[derive(Debug)]
pub struct LineWriter<'a>(&'a MultiProgress);

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(&self.bars)
    }
}
