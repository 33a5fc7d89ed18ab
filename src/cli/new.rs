//! `tandem new`.

mod guess;
mod write;

use crate::config;
use crate::data::everywhere::Everywhere;
use crate::data::profile::FileProfile;
use crate::data::store::Store;
use crate::error::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Rows of the first file that are looked at.
const SAMPLED_ROWS: usize = 50_000;

/// Writes a job for Parquet files, from their schema and first rows: guesses features and labels, and says in comments
/// what it guessed and why. It trains as it is; correct what is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem new 'logs/train/*.parquet' --label click --out job.yaml && tandem train job.yaml"))]
pub struct Args {
    /// Glob, folder or file of the training rows, here or at an address (s3://…).
    data: String,
    /// Columns that are labels, instead of guessing.
    #[arg(long = "label", value_name = "COLUMN")]
    labels: Vec<String>,
    /// Columns that the job leaves out.
    #[arg(long = "ignore", value_name = "COLUMN")]
    ignored: Vec<String>,
    /// The file of the job; default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let text = draft(&args)?;
    match &args.out {
        None => super::print(&text),
        Some(path) => {
            write_new(path, &text)?;
            super::print(&format!("{}\n", path.display()))
        }
    }
}

fn draft(args: &Args) -> Result<String> {
    const FIX: &str = "give a glob, a folder with *.parquet files below it, or a file; `tandem ingest` writes Parquet from \
                       CSV and JSON";
    let store = Everywhere::default();
    let files = store.list(&args.data).map_err(|error| error.fix(FIX))?;
    let first = files.first().ok_or_else(|| Error::data("no file matches"))?;
    let profile = FileProfile::read(&store, &first.path, SAMPLED_ROWS).map_err(|error| error.fix(FIX))?;
    let draft = guess::draft(&profile, &args.labels, &args.ignored)?;
    let text = write::job(&args.data, &first.path, &profile, &draft);
    // What cannot be read is no job; that would be a mistake of the guesses.
    config::from_text(&text, Path::new("job.yaml"), &[])?;
    Ok(text)
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let file = std::fs::File::options().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::job("there is such a file already")
            .at("file", path.display())
            .fix("choose another one with --out, or remove it"),
        _ => Error::io("writing", path, &e),
    })
}
