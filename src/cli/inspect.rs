//! `tandem inspect`.

#[cfg(feature = "serving")]
mod bundle;
mod diff;
mod lineage;
mod log;
mod neighbours;
mod rows;

use crate::checkpoint::{self, Manifest};
use crate::comm::solo::Solo;
use crate::data::everywhere::Everywhere;
use crate::data::store::{Depot, FileInfo, at, is_far};
use crate::error::Result;
use neighbours::{Nearness, Neighbour};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Says what a checkpoint, a bundle or a Parquet log holds.
#[derive(Debug, clap::Args)]
#[command(
    after_help = super::help("Examples: tandem inspect runs/census_mmoe --rows\n          tandem inspect runs/monday --diff runs/tuesday\n          tandem inspect 'logs/*.parquet'")
)]
pub struct Args {
    /// A checkpoint folder, a run folder (its best checkpoint, else its newest), a bundle, or the glob, folder or file of
    /// a log; here or at an address (s3://…).
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
    /// Reads the tables of a checkpoint, too: their memory, the norms of their rows, their most frequent ids.
    #[arg(long, conflicts_with = "job")]
    rows: bool,
    /// Says what is different in another checkpoint: rows that came, went and changed, and how far parameters moved.
    #[arg(long, value_name = "CKPT", conflicts_with_all = ["job", "neighbours", "rows"])]
    diff: Option<PathBuf>,
    /// How many rows or ids are printed.
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
    let store = Everywhere::default();
    if is_log(&store, &args.path)? {
        let read = log::read(&store, &args.path.to_string_lossy())?;
        return Ok(if args.json { log::json(&read, args.top) } else { log::text(&read) });
    }
    let path = checkpoint::localised(&Solo, &store, &args.path)?;
    #[cfg(feature = "serving")]
    if path.join(crate::export::schema::FILE).is_file() {
        let read = bundle::read(&path)?;
        return Ok(if args.json { bundle::json(&args.path, &read) } else { bundle::text(&args.path, &read) });
    }
    let path = checkpoint::resolve(&path)?;
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
    if let Some(other) = &args.diff {
        let other = checkpoint::resolve(&checkpoint::localised(&Solo, &store, other)?)?;
        let diff = diff::diff((&path, &manifest), (&other, &Manifest::read(&other)?))?;
        return Ok(if args.json { format!("{}\n", serde_json::json!(diff)) } else { diff::text(&diff) });
    }
    let rows = args.rows.then(|| rows::read(&path, &manifest, args.top)).transpose()?;
    let job = lineage::read(&manifest);
    Ok(if args.json {
        json(&path, &manifest, &job, rows.as_deref())
    } else {
        table(&path, &manifest, &job) + &rows.map_or_else(String::new, |rows| rows::text(&rows))
    })
}

/// Whether a path is a Parquet file, or a glob or folder of some, and no checkpoint, run or bundle.
fn is_log(store: &dyn Depot, path: &Path) -> Result<bool> {
    let text = path.to_string_lossy();
    if text.contains(['*', '?', '[']) && !path.exists() {
        return Ok(true);
    }
    if is_far(&text) {
        let of_run = |file: &FileInfo| file.path.ends_with(checkpoint::MANIFEST);
        return Ok(text.ends_with(".parquet")
            || store.stat(&at(&text, checkpoint::MANIFEST))?.is_none() && !store.below(&text)?.iter().any(of_run));
    }
    let of_run = |name| path.join(name).exists();
    let is_folder = || path.is_dir() && !of_run(checkpoint::MANIFEST) && !of_run("checkpoints");
    Ok(begins_as_parquet(path) || is_folder() && store.list(&text).is_ok())
}

fn begins_as_parquet(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"PAR1"
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

fn json(path: &Path, manifest: &Manifest, job: &lineage::Job, rows: Option<&[rows::TableRows]>) -> String {
    let mut value = serde_json::json!({
        "path": path.display().to_string(),
        "tandem": manifest.tandem,
        "step": manifest.step,
        "epoch": manifest.cursor.epoch,
        "best": manifest.progress.best.map(|(step, value)| serde_json::json!({"step": step, "value": value})),
        "parameters": manifest.parameters,
        "tables": manifest.tables,
        "bytes": manifest.bytes(),
        "files": manifest.files.len(),
        "job": job,
    });
    if let Some(rows) = rows {
        value["rows"] = serde_json::json!(rows);
    }
    format!("{value}\n")
}

fn table(path: &Path, manifest: &Manifest, job: &lineage::Job) -> String {
    let mut text = String::new();
    let floats = manifest.dense_floats();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "checkpoint  {}", path.display());
    let _ = writeln!(text, "written by  tandem {}", manifest.tandem);
    let _ = writeln!(text, "job         {}: {}, balanced by {}", job.name, job.model, job.balance);
    let tasks: Vec<String> = job.tasks.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
    let _ = writeln!(text, "tasks       {}", tasks.join(", "));
    let _ = writeln!(text, "trained     {} steps, {} epochs finished", manifest.step, manifest.cursor.epoch);
    if let Some((step, value)) = manifest.progress.best {
        let _ = writeln!(text, "best        {value:.6} at step {step}");
    }
    for (path, step) in &job.lineage {
        let step = step.map_or_else(|| "not there any more".to_string(), |step| format!("step {step}"));
        let _ = writeln!(text, "began with  {path} ({step})");
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
