//! Log lines on stderr, through `tracing`.
//!
//! Rank 0 speaks for all: the other ranks log one level less, and name themselves in every line.

use super::terminal::Terminal;
use crate::error::{Error, Result};
use std::fmt;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Sets up logging for this process. `verbosity` is the number of `-v` less the number of `-q`;
/// `RUST_LOG`, where it is set, says exactly what to log instead.
///
/// # Errors
/// If logging was set up before in this process.
pub fn init(terminal: &Terminal, rank: usize, size: usize, verbosity: i8) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives(rank, verbosity)));
    let ansi = terminal.is_interactive();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .event_format(RankFormat::new(rank, size, ansi))
        .with_writer(terminal.clone())
        .try_init()
        .map_err(|e| Error::internal(format!("logging cannot be set up: {e}")))
}

/// What a rank logs at a verbosity, in the language of [`EnvFilter`].
fn directives(rank: usize, verbosity: i8) -> &'static str {
    match i16::from(verbosity) - i16::from(rank > 0) {
        ..=-2 => "error",
        -1 => "warn",
        0 => "warn,tandem=info",
        1 => "info,tandem=debug",
        2.. => "debug,tandem=trace",
    }
}

/// `rank 3 2026-01-31T12:00:00Z WARN message`, without the rank where there is only one.
struct RankFormat {
    prefix: String,
    line: Format<Compact>,
}

impl RankFormat {
    fn new(rank: usize, size: usize, ansi: bool) -> Self {
        let prefix = if size > 1 { format!("rank {rank} ") } else { String::new() };
        Self { prefix, line: tracing_subscriber::fmt::format().with_target(false).with_ansi(ansi).compact() }
    }
}

impl<S, N> FormatEvent<S, N> for RankFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str(&self.prefix)?;
        self.line.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no writer panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What rank `rank` of `size` logs of one debug, one info and one warning line.
    fn logged(rank: usize, size: usize, verbosity: i8) -> String {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives(rank, verbosity)))
            .with_ansi(false)
            .event_format(RankFormat::new(rank, size, false))
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "tandem::test", "fine");
            tracing::info!(target: "tandem::test", step = 7, "usual");
            tracing::warn!(target: "tandem::test", "odd");
        });
        String::from_utf8(lines.0.lock().expect("no writer panics").clone()).expect("log lines are text")
    }

    #[test]
    fn other_ranks_are_named_and_log_less() {
        let first = logged(0, 4, 0);
        assert!(first.contains("usual step=7") && first.contains("odd") && !first.contains("fine"), "{first}");
        assert!(first.lines().all(|line| line.starts_with("rank 0 ")), "{first}");
        let third = logged(3, 4, 0);
        assert!(!third.contains("usual") && third.contains("odd") && third.starts_with("rank 3 "), "{third}");
    }

    #[test]
    fn verbosity_moves_the_level() {
        assert!(logged(0, 1, 1).contains("fine"));
        assert!(!logged(0, 1, -1).contains("usual"));
        assert_eq!(logged(0, 1, -2), "");
        assert!(!logged(0, 1, 0).contains("rank"));
    }
}
