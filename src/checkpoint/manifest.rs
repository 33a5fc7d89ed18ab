//! `manifest.json`: what a checkpoint holds, and what a resumed run needs beside the tensors.
//!
//! ```text
//! {
//!   "checksum": "0123456789abcdef",      XXH3-64 of everything behind these digits
//!   "format": 1,
//!   …
//! ```

use super::files::{FileEntry, checksum};
use super::inside::inside;
use crate::data::lanes::Cursor;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the layout described in [`crate::checkpoint`].
pub const FORMAT: u32 = 2;

/// The best evaluation so far, and how long ago it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Step of the last evaluation.
    #[serde(default)]
    pub evaluated: Option<u64>,
    /// Step and value of the best evaluation.
    pub best: Option<(u64, f64)>,
    /// Best value of the early-stopping metric.
    pub stop_best: Option<f64>,
    /// Evaluations since then.
    pub stale: usize,
    /// Steps that were left out because their numbers were not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One dense parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterEntry {
    /// Its name, such as `experts.0.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether no step changes it; then it has no moments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
}

/// One embedding table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// Its name.
    pub name: String,
    /// Floats in a row.
    pub dim: usize,
    /// The optimizer's state of a row: names and floats, in the order in which they are stored.
    pub state: Vec<(String, usize)>,
    /// Rows over all buckets.
    pub rows: u64,
    /// Whether no step changes it; then its rows have no state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
}

/// The manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of tandem that wrote it.
    pub tandem: String,
    /// Steps taken since the start of training.
    pub step: u64,
    /// Position in the data.
    pub cursor: Cursor,
    /// Best evaluation and early stopping.
    pub progress: Progress,
    /// Logical shards of every table.
    pub buckets: usize,
    /// The resolved job, as YAML.
    pub job: String,
    /// Fingerprint of the training rows (files' row groups and row counts).
    pub data: String,
    /// Statistics of the numeric features.
    pub statistics: serde_json::Value,
    /// State of the balancing method.
    pub balance: Vec<f64>,
    /// Dense parameters in order of registration.
    pub parameters: Vec<ParameterEntry>,
    /// Updates made by the dense optimizer, and the names of its moments.
    pub optimizer: (u64, Vec<String>),
    /// Embedding tables.
    pub tables: Vec<TableEntry>,
    /// Every file beside the manifest.
    pub files: Vec<FileEntry>,
}

/// Name of the manifest inside a checkpoint folder.
pub const MANIFEST: &str = "manifest.json";

/// How the text begins; the checksum's digits follow.
const HEAD: &str = "{\n  \"checksum\": \"";

/// Digits of a checksum.
const DIGITS: usize = 16;

impl Manifest {
    /// Reads and checks the manifest of the checkpoint folder `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = inside(dir, MANIFEST)?;
        let text = std::fs::read(&path).map_err(|e| {
            Error::checkpoint(format!("no readable manifest: {e}"))
                .at("file", path.display())
                .fix("name a folder `…/checkpoints/step-NNNNNNNN`, or a run folder that has one")
        })?;
        let damaged = |what: String| {
            Error::checkpoint(what)
                .at("file", path.display())
                .fix(format!("move {} away to go on from the checkpoint before it", dir.display()))
        };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| damaged(format!("the manifest is damaged: {e}")))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(Error::checkpoint(format!(
                "the checkpoint has format {}, this tandem reads format {FORMAT}",
                format.map_or("unknown".to_string(), |f| f.to_string())
            ))
            .at("file", path.display())
            .fix("read it with the version of tandem that wrote it"));
        }
        if !is_sealed(&text) {
            return Err(damaged("the manifest is damaged: its checksum is wrong".to_string()));
        }
        let manifest: Self =
            serde_json::from_value(value).map_err(|e| damaged(format!("the manifest is damaged: {e}")))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// The text of `manifest.json`.
    pub fn to_text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::internal(format!("the manifest cannot be written: {e}")))?;
        let rest = format!("\",{}", text.strip_prefix('{').unwrap_or_default());
        Ok(format!("{HEAD}{}{rest}", checksum(rest.as_bytes())))
    }

    /// Floats of the dense parameters.
    pub fn dense_floats(&self) -> usize {
        let floats = |p: &ParameterEntry| p.shape.iter().fold(1usize, |floats, &n| floats.saturating_mul(n));
        self.parameters.iter().map(floats).fold(0, usize::saturating_add)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// The totals must agree with the files, and no file may stand outside the folder.
    fn check(&self) -> std::result::Result<(), String> {
        for file in &self.files {
            if file.name.contains(['/', '\\']) || file.name.starts_with('.') {
                return Err(format!("the manifest names the file `{}`, outside its folder", file.name));
            }
        }
        for (i, table) in self.tables.iter().enumerate() {
            let found = self.files.iter().filter_map(|f| f.rows.get(i)).fold(0u64, |sum, &n| sum.saturating_add(n));
            if found != table.rows {
                return Err(format!("table `{}` has {} rows, its files hold {found}", table.name, table.rows));
            }
        }
        let mut next = 0;
        for (first, last) in self.files.iter().filter_map(|f| f.buckets) {
            if first != next || last < first {
                return Err(format!("buckets {next} to {first} have no file"));
            }
            next = last.saturating_add(1);
        }
        if next != self.buckets {
            return Err(format!("buckets {next} to {} have no file", self.buckets));
        }
        Ok(())
    }
}

/// Whether the checksum at the head of a manifest is that of the rest.
fn is_sealed(text: &[u8]) -> bool {
    let sealed = text.strip_prefix(HEAD.as_bytes()).and_then(|text| text.split_at_checked(DIGITS));
    sealed.is_some_and(|(digits, rest)| checksum(rest).as_bytes() == digits)
}
