//! One error type for the library: what went wrong, where, and what to do about it.
//!
//! An [`Error`] is read by a person at 3 a.m., so it carries the *place* (file, row group, column,
//! key, rank, step) as labelled values and, wherever there is one, the fix:
//!
//! ```
//! use tandem::error::Error;
//! let error = Error::data("label 2 is neither 0 nor 1")
//!     .at("file", "logs/dt=1/part-0.parquet")
//!     .at("column", "click")
//!     .fix("use `loss: multiclass`, or map the label to 0 and 1");
//! assert_eq!(
//!     error.to_string(),
//!     "label 2 is neither 0 nor 1 (file logs/dt=1/part-0.parquet, column click)\n  \
//!      fix: use `loss: multiclass`, or map the label to 0 and 1"
//! );
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

/// The library's result type.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing failed; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The job file or the command line is wrong: exit code 2.
    Job,
    /// The training or evaluation data is wrong or unreadable.
    Data,
    /// A checkpoint is missing, damaged, or belongs to another job.
    Checkpoint,
    /// The file system refused (not found, full, no permission).
    Io,
    /// Another rank failed, or the transport did.
    Comm,
    /// A numeric failure: a loss or gradient that is not finite.
    Numeric,
    /// A broken invariant of tandem itself.
    Internal,
}

/// An error with its place and its remedy. Build one with the constructor of its kind.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub struct Error {
    kind: Kind,
    what: String,
    place: Vec<(String, String)>,
    fix: Option<String>,
    /// Every rank holds this same error (see [`Error::agreed`]).
    #[serde(default)]
    agreed: bool,
}

impl Error {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), place: Vec::new(), fix: None, agreed: false }
    }

    /// A mistake in the job file or on the command line.
    pub fn job(what: impl Into<String>) -> Self {
        Self::new(Kind::Job, what)
    }

    /// Data that cannot be read or used.
    pub fn data(what: impl Into<String>) -> Self {
        Self::new(Kind::Data, what)
    }

    /// A checkpoint that cannot be used.
    pub fn checkpoint(what: impl Into<String>) -> Self {
        Self::new(Kind::Checkpoint, what)
    }

    /// A refused file operation, for example `Error::io("writing", path, &e)`.
    pub fn io(doing: &str, path: &Path, source: &std::io::Error) -> Self {
        let error = Self::new(Kind::Io, format!("{doing} failed: {source}")).at("file", path.display().to_string());
        match source.kind() {
            ErrorKind::StorageFull => {
                error.fix("free space on this disk, then run it again (training goes on with --resume)")
            }
            ErrorKind::QuotaExceeded => error
                .fix("free space or have the disk quota raised, then run it again (training goes on with --resume)"),
            ErrorKind::FileTooLarge => error
                .fix("raise the limit on file sizes (`ulimit -f`), then run it again (training goes on with --resume)"),
            ErrorKind::PermissionDenied => error.fix("check the owner and mode of this path"),
            ErrorKind::ReadOnlyFilesystem => error.fix("choose a path on a disk that can be written"),
            ErrorKind::NotADirectory => error.fix("a part of this path is a file: check it for a mistake"),
            _ => error,
        }
    }

    /// A failed peer or transport.
    pub fn comm(what: impl Into<String>) -> Self {
        Self::new(Kind::Comm, what)
    }

    /// A number that is not finite where it must be.
    pub fn numeric(what: impl Into<String>) -> Self {
        Self::new(Kind::Numeric, what)
    }

    /// A broken invariant of tandem itself: a bug, worth a report.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Kind::Internal, what)
    }

    /// Adds one labelled place, such as `("row group", 3)`. The first one given is printed first.
    #[must_use]
    pub fn at(mut self, label: &str, value: impl fmt::Display) -> Self {
        self.place.push((label.to_string(), value.to_string()));
        self
    }

    /// Adds one labelled place around those already given: it is printed before them.
    #[must_use]
    pub fn within(mut self, label: &str, value: impl fmt::Display) -> Self {
        self.place.insert(0, (label.to_string(), value.to_string()));
        self
    }

    /// Gives the place called `label` another value.
    #[must_use]
    pub fn moved(mut self, label: &str, value: impl fmt::Display) -> Self {
        let named = self.place.iter_mut().filter(|(name, _)| name == label);
        named.for_each(|(_, place)| *place = value.to_string());
        self
    }

    /// The value of the place called `label`, if it has one.
    pub fn place(&self, label: &str) -> Option<&str> {
        self.place.iter().find(|(name, _)| name == label).map(|(_, value)| value.as_str())
    }

    /// Moves a labelled place that begins with `outer` to where that stands itself: `model.experts` to
    /// `model.head.experts`.
    #[must_use]
    pub fn inside(mut self, label: &str, outer: &str, moved: &str) -> Self {
        for (_, value) in self.place.iter_mut().filter(|(name, _)| name == label) {
            let rest = value.strip_prefix(outer).filter(|rest| rest.is_empty() || rest.starts_with('.'));
            if let Some(rest) = rest {
                *value = format!("{moved}{rest}");
            }
        }
        self
    }

    /// Says what the reader should do.
    #[must_use]
    pub fn fix(mut self, remedy: impl Into<String>) -> Self {
        self.fix = Some(remedy.into());
        self
    }

    /// Says one more thing that the reader can do.
    #[must_use]
    pub fn and_fix(mut self, remedy: impl fmt::Display) -> Self {
        self.fix = Some(match self.fix {
            Some(fix) => format!("{fix}; {remedy}"),
            None => remedy.to_string(),
        });
        self
    }

    /// Says that every rank holds this same error, so that one of them prints it for all.
    #[must_use]
    pub fn agreed(mut self) -> Self {
        self.agreed = true;
        self
    }

    /// Whether every rank holds this same error.
    pub fn is_agreed(&self) -> bool {
        self.agreed
    }

    /// What happened and where, in one line, without what to do.
    pub fn summary(&self) -> String {
        Self { fix: None, ..self.clone() }.to_string()
    }

    /// What the reader should do, if that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.fix.as_deref()
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The process exit code for this error: 2 for a wrong job or usage, 1 for everything else.
    pub fn exit_code(&self) -> i32 {
        if self.kind == Kind::Job { 2 } else { 1 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for (i, (label, value)) in self.place.iter().enumerate() {
            write!(f, "{}{label} {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.place.is_empty() {
            write!(f, ")")?;
        }
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

/// Candle fails on a shape or type mismatch between layers, which a checked job rules out.
impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Self {
        Self::internal(format!("tensor operation failed: {source}"))
    }
}
