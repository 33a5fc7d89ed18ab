//! `tandem inspect` of a bundle for serving.

use crate::error::Result;
use crate::export::bundle::Manifest;
use crate::export::schema::BundleSchema;
use crate::export::verify::read_schema;
use std::fmt::Write;
use std::path::Path;

/// Reads what a bundle says of itself.
pub fn read(path: &Path) -> Result<(Manifest, BundleSchema)> {
    Ok((Manifest::read(path)?, read_schema(path)?))
}

/// As one JSON object.
pub fn json(path: &Path, (manifest, schema): &(Manifest, BundleSchema)) -> String {
    let value = serde_json::json!({
        "path": path.display().to_string(),
        "tandem": manifest.tandem,
        "job": manifest.job,
        "step": manifest.step,
        "checkpoint": manifest.checkpoint,
        "since": manifest.since,
        "model": schema.model,
        "tables": schema.tables,
        "tasks": schema.tasks,
        "bytes": manifest.files.iter().map(|file| file.bytes).sum::<u64>(),
        "files": manifest.files,
    });
    format!("{value}\n")
}

/// As lines.
pub fn text(path: &Path, (manifest, schema): &(Manifest, BundleSchema)) -> String {
    let tasks: Vec<&str> = schema.tasks.iter().map(|task| task.name.as_str()).collect();
    let since = manifest.since.as_ref().map_or(String::new(), |since| format!(", a delta since {since}"));
    let mut text = format!(
        "bundle      {}{since}\nwritten by  tandem {}\ntrained     job {}, {} steps, checkpoint {}\nmodel       {}\n\
         tasks       {}\ninputs      {} features of ids, {} numbers\n\n{:<20}  {:>12}  {:>4}  stored as\n",
        path.display(),
        manifest.tandem,
        manifest.job,
        manifest.step,
        manifest.checkpoint,
        schema.model,
        tasks.join(", "),
        schema.ids.len(),
        schema.dense.len(),
        "table",
        "rows",
        "dim"
    );
    // Writing to a string cannot fail.
    for table in &schema.tables {
        let formats: Vec<&str> = table.files.keys().map(String::as_str).collect();
        let dtype = serde_json::json!(table.dtype);
        let stored = format!("{} in {}", dtype.as_str().unwrap_or("?"), formats.join(", "));
        let _ = writeln!(text, "{:<20}  {:>12}  {:>4}  {stored}", table.name, table.rows, table.dim);
    }
    let _ = writeln!(text, "\n{:<40}  {:>12}", "file", "bytes");
    for file in &manifest.files {
        let _ = writeln!(text, "{:<40}  {:>12}", file.name, file.bytes);
    }
    text
}
