//! `tandem export`.

use super::Voice;
use crate::checkpoint::{localised, published};
use crate::comm::launch;
use crate::data::everywhere::Everywhere;
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::export::schema::Dtype;
use crate::export::tables::Format;
use crate::export::verify::Report;
use crate::observe::{log, threads};
use crate::train::export::{Effect, Exported, Layout, Options, export};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes a bundle for serving: the model as ONNX, the embedding tables as Parquet, what turns rows into the model's
/// inputs, and golden rows. A bundle that does not give what the trained model gives is not published.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem export runs/census_mmoe --out bundles/census --tables redis"))]
pub struct Args {
    /// A checkpoint folder, or a run folder (its best checkpoint, else its newest), here or at an address (s3://…).
    checkpoint: PathBuf,
    /// Folder of the bundle, here or at an address (s3://…); must be new or empty.
    #[arg(long)]
    out: PathBuf,
    /// Further formats of the tables, beside Parquet.
    #[arg(long, value_delimiter = ',', value_name = "FORMAT")]
    tables: Vec<Format>,
    /// Globs, folders or files of rows for the golden batch; default: the job's test rows, else its validation rows, else
    /// its training rows.
    #[arg(long, num_args = 1..)]
    data: Vec<String>,
    /// Writes a delta: of the tables only rows that changed since this checkpoint, or are gone; for `tandem apply`.
    #[arg(long, value_name = "CKPT", conflicts_with = "self_contained")]
    since: Option<PathBuf>,
    /// Stores vectors in fewer bits, and prints what that does to the metrics on the rows given, or on the job's test rows.
    #[arg(long, value_name = "DTYPE")]
    quantize: Option<Quantize>,
    /// Where the files of the model go.
    #[arg(long, value_enum, default_value_t)]
    layout: Layout,
    /// Writes self_contained.onnx, too: the model with the tables inside, from ids to predictions, while they fit into
    /// one file (1.8 GB).
    #[arg(long)]
    self_contained: bool,
    /// CPU threads; default: the machine's cores.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    threads: Option<usize>,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn options(&self, since: Option<PathBuf>) -> Options {
        Options {
            out: self.out.clone(),
            formats: self.tables.clone(),
            data: self.data.clone(),
            layout: self.layout,
            dtype: self.quantize.map_or(Dtype::F32, Quantize::dtype),
            self_contained: self.self_contained,
            since,
        }
    }
}

/// How vectors are stored in fewer bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Quantize {
    /// A row is a scale times integers of 8 bits.
    Int8,
    /// IEEE half precision.
    Fp16,
}

impl Quantize {
    fn dtype(self) -> Dtype {
        match self {
            Self::Int8 => Dtype::Int8,
            Self::Fp16 => Dtype::Fp16,
        }
    }
}

/// Runs the command, on one rank.
pub fn run(args: Args, voice: Voice) -> i32 {
    launch::run(launch::Options::default(), |comm| {
        log::init(&voice.terminal(), comm.rank(), comm.size(), voice.verbosity())?;
        if comm.size() > 1 {
            return Err(Error::job("a bundle is written by one rank")
                .at("ranks", comm.size())
                .fix("start `tandem export` without mpirun")
                .agreed());
        }
        threads::start(args.threads, comm.as_ref())?;
        let everywhere = Arc::new(Everywhere::default());
        let here = |path: &PathBuf| localised(comm.as_ref(), everywhere.as_ref(), path);
        let (checkpoint, since) = (here(&args.checkpoint)?, args.since.as_ref().map(here).transpose()?);
        let store: Arc<dyn Store> = everywhere.clone();
        let write = |out: &Path| {
            export(&store, &checkpoint, &Options { out: out.to_path_buf(), ..args.options(since.clone()) })
        };
        let exported = published(everywhere.as_ref(), &args.out, write)
            .map_err(|error| super::about_data(error, "golden rows must have every column that features read"))?;
        said(&args, &exported)?;
        Ok(0)
    })
}

fn said(args: &Args, exported: &Exported) -> Result<()> {
    let Exported { checkpoint, schema, report, effects } = exported;
    if args.json {
        let value = serde_json::json!({
            "bundle": args.out.display().to_string(),
            "checkpoint": checkpoint.display().to_string(),
            "step": schema.step,
            "tables": schema.tables.iter().map(|t| (t.name.clone(), t.rows.into())).collect::<serde_json::Map<_, _>>(),
            "verified": report.as_ref().map(json),
            "quantized": effects.iter().map(effect_json).collect::<Vec<_>>(),
        });
        return super::print(&format!("{value}\n"));
    }
    let mut text = format!("{} (step {}) → {}\n", checkpoint.display(), schema.step, args.out.display());
    for table in &schema.tables {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "table {}: {} rows of {} floats", table.name, table.rows, table.dim);
    }
    for Effect { task, metric, trained, stored } in effects {
        let change = stored - trained;
        let _ = writeln!(text, "{task} {metric}: {trained:.6} as trained, {stored:.6} as stored, {change:+.6}");
    }
    super::print(&(text + &report.as_ref().map_or_else(String::new, table)))
}

fn effect_json(effect: &Effect) -> serde_json::Value {
    let Effect { task, metric, trained, stored } = effect;
    serde_json::json!({"task": task, "metric": metric, "trained": trained, "stored": stored})
}

/// The differences as JSON.
pub fn json(report: &Report) -> serde_json::Value {
    let map = |pairs: &[(String, f64)]| -> serde_json::Map<String, serde_json::Value> {
        pairs.iter().map(|(name, difference)| (name.clone(), (*difference).into())).collect()
    };
    serde_json::json!({
        "rows": report.rows,
        "inputs": map(&report.inputs),
        "tasks": map(&report.tasks),
        "self_contained": map(&report.self_contained),
    })
}

/// The differences as lines of text.
pub fn table(report: &Report) -> String {
    let mut text = format!("verified with {} golden rows, largest difference\n", report.rows);
    let of_model = report.inputs.iter().map(|pair| ("input", pair));
    let of_tasks = report.tasks.iter().map(|pair| ("task", pair));
    let of_contained = report.self_contained.iter().map(|pair| ("self-contained task", pair));
    for (what, (name, difference)) in of_model.chain(of_tasks).chain(of_contained) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what} {name}: {difference:.3e}");
    }
    text
}
