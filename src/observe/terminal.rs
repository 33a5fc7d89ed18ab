//! The screen that a progress bar and log lines share.

use super::json_line::json_line;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde_json::{Map, Value};
use std::io::{self, Write};
use tracing_subscriber::fmt::MakeWriter;

/// How messages are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people; on a terminal with a progress bar.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Standard error, on which lines are written above a progress bar instead of through it. Clones share
/// the screen.
#[derive(Debug, Clone)]
pub struct Terminal {
    bars: MultiProgress,
    format: Format,
}

impl Terminal {
    /// The standard error of this process.
    pub fn stderr(format: Format) -> Self {
        let target = match format {
            Format::Text => ProgressDrawTarget::stderr(),
            Format::Json => ProgressDrawTarget::hidden(),
        };
        Self { bars: MultiProgress::with_draw_target(target), format }
    }

    /// Whether a person looks at it, as opposed to a file.
    pub fn is_interactive(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// How messages are written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes one message above the bar. A closed stderr is no reason to stop a training run.
    pub fn line(&self, text: &str) {
        match self.format {
            Format::Text => self.write(&format!("{text}\n")),
            Format::Json => self.event(text, Map::new()),
        }
    }

    /// Writes one JSON object: a message and what it is about.
    pub fn event(&self, message: &str, fields: Map<String, Value>) {
        self.write(&json_line("INFO", message, fields));
    }

    fn write(&self, text: &str) {
        let _ = self.make_writer().write_all(text.as_bytes());
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
