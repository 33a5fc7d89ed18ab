//! `tandem ingest`.

use crate::data::store::refuse_far;
use crate::error::Result;
use crate::ingest::{Explode, Format, Kind, Reading, Request, Summary, ingest};
use std::fmt::Write;
use std::path::PathBuf;

/// Writes CSV, TSV or JSON lines, plain or gzip, as Parquet that trains well: typed columns, large row groups,
/// dictionaries, zstd. Rows stream, so files may be larger than the memory.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help(
    "Example: tandem ingest clicks.csv --out logs --split 80,10,10 --types zip=text,tags='ints|' && tandem new logs/train"
))]
pub struct Args {
    /// Files of text; a list of JSON objects is one object a line.
    #[arg(required = true, value_name = "FILE")]
    inputs: Vec<PathBuf>,
    /// Folder of the Parquet files; must be new or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How the files are written; default: by their names.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What separates values; may be several characters, as `::`.
    #[arg(long, value_name = "TEXT")]
    delimiter: Option<String>,
    /// Names of the columns, for files that do not begin with them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
    /// Kinds of columns that are not to be guessed: int, float, bool, text, or lists of them, ints, floats, texts, with
    /// what separates their elements: `price=float,tags=ints|`.
    #[arg(long, value_name = "COLUMN=KIND", value_delimiter = ',', value_parser = kind)]
    types: Vec<(String, Kind)>,
    /// Columns that are not written.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    drop: Vec<String>,
    /// Turns a column of `field ^B id ^C value ^A …` into a column a field, of lists where a star follows.
    #[arg(long, value_name = "COLUMN=FIELDS", value_parser = explode)]
    explode: Option<Explode>,
    /// Shares of the rows for train, valid and test, which become folders.
    #[arg(long, value_name = "A,B,C", value_parser = shares)]
    split: Option<[f64; 3]>,
    /// Rows of one value of this column, for example one user, go to the same split.
    #[arg(long, value_name = "COLUMN", requires = "split")]
    split_by: Option<String>,
    /// Rows of a row group.
    #[arg(long, value_name = "ROWS", default_value_t = 131_072, value_parser = super::count)]
    row_group_rows: usize,
    /// Rows of the first file from which kinds of columns are guessed.
    #[arg(long, value_name = "ROWS", default_value_t = 10_000, value_parser = super::count)]
    guess_rows: usize,
    /// Leaves lines out that cannot be read, and counts them, instead of failing at the first.
    #[arg(long)]
    skip_bad_lines: bool,
    /// Bytes are ISO 8859-1, not UTF-8.
    #[arg(long)]
    latin1: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    refuse_far(&args.out, "the folder of the written rows")?;
    args.inputs.iter().try_for_each(|input| refuse_far(input, "what is read"))?;
    let (json, out) = (args.json, args.out.clone());
    let reading = Reading { format: args.format, delimiter: args.delimiter, names: args.columns, latin1: args.latin1 };
    let summary = ingest(&Request {
        inputs: args.inputs,
        reading,
        kinds: args.types.into_iter().collect(),
        dropped: args.drop,
        explode: args.explode,
        out: args.out,
        row_group_rows: args.row_group_rows,
        split: args.split,
        split_by: args.split_by,
        guess_rows: args.guess_rows,
        skip_bad_lines: args.skip_bad_lines,
    })?;
    super::print(&if json { format!("{}\n", serde_json::json!(summary)) } else { table(&summary, &out) })
}

fn table(summary: &Summary, out: &std::path::Path) -> String {
    let mut text = format!("{}: {} files, {:.1} MiB\n", out.display(), summary.files, summary.bytes as f64 / 1048576.0);
    // Writing to a string cannot fail.
    for (split, rows) in &summary.rows {
        let _ = writeln!(text, "  {split}: {rows} rows");
    }
    if summary.skipped > 0 {
        let _ = writeln!(text, "  {} lines left out", summary.skipped);
    }
    let width = summary.columns.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, kind) in &summary.columns {
        let _ = writeln!(text, "  {name:<width$}  {kind}");
    }
    let train = if summary.rows.contains_key("train") { out.join("train") } else { out.to_path_buf() };
    let _ = writeln!(text, "next: tandem new {}", train.display());
    text
}

fn kind(text: &str) -> std::result::Result<(String, Kind), String> {
    let read = text.split_once('=').and_then(|(name, kind)| Some((name.to_string(), Kind::parse(kind)?)));
    read.ok_or_else(|| "expected COLUMN=KIND with int, float, bool, text, ints, floats or texts".to_string())
}

fn explode(text: &str) -> std::result::Result<Explode, String> {
    Explode::parse(text).ok_or_else(|| "expected COLUMN=FIELD,FIELD*,…".to_string())
}

fn shares(text: &str) -> std::result::Result<[f64; 3], String> {
    let parts: Vec<f64> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    let sum: f64 = parts.iter().sum();
    match parts[..] {
        [a, b, c] if sum > 0.0 && parts.iter().all(|part| *part >= 0.0) => Ok([a / sum, b / sum, c / sum]),
        _ => Err("expected three shares, as in 80,10,10".to_string()),
    }
}
