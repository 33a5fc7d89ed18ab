//! `tandem inspect`.

mod neighbours;

use crate::checkpoint::{self, Manifest};
use crate::comm::solo::Solo;
use crate::error::Result;
use neighbours::{Nearness, Neighbour};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Says what a checkpoint holds.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem inspect runs/census_mmoe --json"))]
pub struct Args {
    /// A checkpoint folder, or a run folder (its best checkpoint, else its newest).
    path: PathBuf,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Prints the rows that are nearest to a row, such as `user=17`; an id that is no integer is text.
    #[arg(long, value_name = "TABLE=ID", conflicts_with = "job")]
    neighbours: Option<String>,
    /// The table whose rows are compared with it; default: its own.
    #[arg(long = "in", value_name = "TABLE", requires = "neighbours")]
    table: Option<String>,
    /// How many rows are printed.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = super::count)]
    top: usize,
    /// How near rows are.
    #[arg(long, value_enum, default_value_t)]
    by: Nearness,
    /// Prints the job that trained it, as YAML, and nothing else.
    #[arg(long, conflicts_with = "json")]
    job: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    super::print(&inspect(&args)?)
}

fn inspect(args: &Args) -> Result<String> {
    let path = checkpoint::resolve(&super::here(&Solo, &args.path)?)?;
    let manifest = Manifest::read(&path)?;
    if args.job {
        return Ok(manifest.job);
    }
    if let Some(row) = &args.neighbours {
        let of = neighbours::parsed(row)?;
        let table = args.table.as_deref().unwrap_or(of.0);
        let nearest = neighbours::nearest(&path, &manifest, of, table, args.top, args.by)?;
        return Ok(if args.json { neighbours_json(of.1, &nearest) } else { neighbours_table(&nearest) });
    }
    Ok(if args.json { json(&path, &manifest) } else { table(&path, &manifest) })
}

fn neighbours_json(id: u64, nearest: &[Neighbour]) -> String {
    let row = |neighbour: &Neighbour| serde_json::json!({"id": neighbour.id, "score": neighbour.score});
    let value = serde_json::json!({"id": id, "neighbours": nearest.iter().map(row).collect::<Vec<_>>()});
    format!("{value}\n")
}

fn neighbours_table(nearest: &[Neighbour]) -> String {
    let mut text = format!("{:>20}  score\n", "id");
    for Neighbour { id, score } in nearest {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id:>20}  {score:.6}");
    }
    text
}

fn json(path: &Path, manifest: &Manifest) -> String {
    let value = serde_json::json!({
        "path": path.display().to_string(),
        "tandem": manifest.tandem,
        "step": manifest.step,
        "epoch": manifest.cursor.epoch,
        "best": manifest.progress.best.map(|(step, value)| serde_json::json!({"step": step, "value": value})),
        "parameters": manifest.parameters,
        "tables": manifest.tables,
        "bytes": manifest.bytes(),
        "files": manifest.files.len(),
    });
    format!("{value}\n")
}

fn table(path: &Path, manifest: &Manifest) -> String {
    let mut text = String::new();
    let floats = manifest.dense_floats();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "checkpoint  {}", path.display());
    let _ = writeln!(text, "written by  tandem {}", manifest.tandem);
    let _ = writeln!(text, "trained     {} steps, {} epochs finished", manifest.step, manifest.cursor.epoch);
    if let Some((step, value)) = manifest.progress.best {
        let _ = writeln!(text, "best        {value:.6} at step {step}");
    }
    let _ = writeln!(text, "dense       {floats} floats in {} parameters", manifest.parameters.len());
    let _ =
        writeln!(text, "on disk     {:.1} MiB in {} files", manifest.bytes() as f64 / 1048576.0, manifest.files.len());
    let width = manifest.tables.iter().map(|t| t.name.len()).max().unwrap_or(0).max(5);
    let _ = writeln!(text, "\n{:<width$}  {:>12}  {:>4}  optimizer state", "table", "rows", "dim");
    for t in &manifest.tables {
        let state: Vec<String> = t.state.iter().map(|(name, floats)| format!("{name} × {floats}")).collect();
        let _ = writeln!(text, "{:<width$}  {:>12}  {:>4}  {}", t.name, t.rows, t.dim, state.join(", "));
    }
    text
}
