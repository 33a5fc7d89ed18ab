//! What was found, and how bad it is.

use super::ids::TableIds;
use crate::error::Error;
use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    #[default]
    Note,
    /// The run would waste time or learn badly.
    Warning,
    /// The run would fail.
    Error,
}

impl Severity {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check that found it.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, and where.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// The same with what to do about it.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// Good to know.
pub(super) fn note(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { check, severity: Severity::Note, what: what.into(), fix: None }
}

/// Something that wastes time or teaches badly.
pub(super) fn warning(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, ..note(check, what) }
}

/// Something that a run would fail on.
pub(super) fn error(check: &'static str, what: impl Into<String>) -> Finding {
    Finding { severity: Severity::Error, ..note(check, what) }
}

/// The error that a run would end with.
pub(super) fn failure(check: &'static str, failed: &Error) -> Finding {
    let found = error(check, failed.summary());
    match failed.remedy() {
        Some(fix) => found.fix(fix),
        None => found,
    }
}

/// All that was found about a job.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Name of the job.
    pub job: String,
    /// Ranks that it was examined for.
    pub ranks: usize,
    /// Training rows; 0 where they cannot be read.
    pub rows: u64,
    /// Those that were looked at.
    pub sampled_rows: u64,
    /// What was found, in the order of the checks.
    pub findings: Vec<Finding>,
    /// The embedding tables.
    pub tables: Vec<TableIds>,
}

impl Report {
    /// The worst that was found.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or_default()
    }
}
