//! `tandem inspect` of a log: what its columns look like.

use crate::data::profile::{FileProfile, Profile};
use crate::data::store::{FileInfo, Store};
use crate::error::{Error, Result};
use std::fmt::Write;

/// Rows of the first file that are looked at.
const SAMPLED_ROWS: usize = 100_000;

/// The files of a log, and the columns of its first.
pub fn read(store: &dyn Store, pattern: &str) -> Result<(Vec<FileInfo>, FileProfile)> {
    let files = store.list(pattern)?;
    let first = files.first().ok_or_else(|| Error::data("no file matches").at("pattern", pattern))?;
    let profile = FileProfile::read(store, &first.path, SAMPLED_ROWS)?;
    Ok((files, profile))
}

/// As one JSON object.
pub fn json((files, profile): &(Vec<FileInfo>, FileProfile), top: usize) -> String {
    let column = |column: &Profile| {
        serde_json::json!({
            "name": column.name,
            "type": column.kind.to_string(),
            "nulls": column.nulls,
            "distinct": column.ids.len(),
            "min": column.numbers.map(|numbers| numbers.min),
            "max": column.numbers.map(|numbers| numbers.max),
            "mean": column.numbers.map(|numbers| numbers.mean),
            "lengths": column.lengths,
            "hottest": column.hottest(top),
        })
    };
    let value = serde_json::json!({
        "files": files.len(),
        "bytes": files.iter().map(|file| file.bytes).sum::<u64>(),
        "first": {
            "path": files[0].path,
            "rows": profile.rows,
            "row_groups": profile.row_groups,
            "sampled": profile.sampled,
        },
        "columns": profile.columns.iter().map(column).collect::<Vec<_>>(),
    });
    format!("{value}\n")
}

/// As a table.
pub fn text((files, profile): &(Vec<FileInfo>, FileProfile)) -> String {
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let mut text = format!(
        "log         {} files, {:.1} MiB\nfirst file  {}: {} rows in {} row groups; below of its first {} rows\n\n",
        files.len(),
        bytes as f64 / 1048576.0,
        files[0].path,
        profile.rows,
        profile.row_groups,
        profile.sampled
    );
    let width = profile.columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0).max(6);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<width$}  {:<12}  {:>8}  {:>8}  values", "column", "type", "nulls", "distinct");
    for column in &profile.columns {
        let kind = short(column);
        let distinct = if column.ids.is_empty() { "-".to_string() } else { column.ids.len().to_string() };
        let _ = writeln!(
            text,
            "{:<width$}  {kind:<12}  {:>8}  {distinct:>8}  {}",
            column.name,
            column.nulls,
            values(column)
        );
    }
    text
}

/// `Int64`, `[Utf8]`.
fn short(column: &Profile) -> String {
    let item = crate::data::accepts::list_item(&column.kind);
    let text = item.map_or_else(|| column.kind.to_string(), |item| format!("[{item}]"));
    text.chars().take(24).collect()
}

fn values(column: &Profile) -> String {
    let mut parts = Vec::new();
    if let Some((shortest, longest)) = column.lengths {
        parts.push(format!("lists of {shortest} to {longest}"));
    }
    if let Some(numbers) = column.numbers {
        parts.push(numbers.describe());
    }
    parts.join("; ")
}
