//! Log lines on stderr, through `tracing`.
//!
//! Rank 0 speaks for all: the other ranks log one level less, and name themselves in every line.

use super::json_line::{json_line, set_rank, step};
use super::terminal::{Format, Terminal};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Compact, Format as LineFormat, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Sets up logging for this process. `verbosity` is the number of `-v` less the number of `-q`;
/// `RUST_LOG`, where it is set, says exactly what to log instead.
///
/// # Errors
/// If logging was set up before in this process.
pub fn init(terminal: &Terminal, rank: usize, size: usize, verbosity: i8) -> Result<()> {
    set_rank(rank);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives(rank, verbosity)));
    // https://no-color.org
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = terminal.is_interactive() && !plain;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(terminal.clone());
    let set = match terminal.format() {
        Format::Text => builder.event_format(RankFormat::new(rank, size, ansi)).try_init(),
        Format::Json => builder.event_format(JsonFormat).try_init(),
    };
    set.map_err(|e| Error::internal(format!("logging cannot be set up: {e}")))
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

/// `rank 3 step 120 2026-01-31T12:00:00Z WARN message`, without the rank where there is only one, and without the step
/// before the first.
struct RankFormat {
    prefix: String,
    line: LineFormat<Compact>,
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
        if let Some(step) = step() {
            write!(writer, "step {step} ")?;
        }
        self.line.format_event(context, writer, event)
    }
}

/// What [`json_line`] makes of an event and its fields.
struct JsonFormat;

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.shift_remove("message").unwrap_or_default();
        fields.0.insert("target".to_string(), event.metadata().target().into());
        writer.write_str(&json_line(event.metadata().level().as_str(), message.as_str().unwrap_or(""), fields.0))
    }
}

/// The fields of an event as JSON.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_string(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_string(), format!("{value:?}").into());
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
    fn json_lines_have_level_message_and_fields() {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .event_format(JsonFormat)
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(rows = 7, task = "click", "odd \"{}\"", 1));
        let text = String::from_utf8(lines.0.lock().expect("no writer panics").clone()).expect("log lines are text");
        let line: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("WARN"), Some("odd \"1\"")));
        assert_eq!((line["rows"].as_i64(), line["task"].as_str()), (Some(7), Some("click")));
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')) && line["rank"].is_u64(), "{line}");
    }

    #[test]
    fn verbosity_moves_the_level() {
        assert!(logged(0, 1, 1).contains("fine"));
        assert!(!logged(0, 1, -1).contains("usual"));
        assert_eq!(logged(0, 1, -2), "");
        assert!(!logged(0, 1, 0).contains("rank"));
    }
}
