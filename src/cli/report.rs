//! `tandem report`.

use super::train::replace;
use crate::error::{Error, Result};
use crate::report;
use std::path::PathBuf;

/// Writes one HTML page about runs, finished or not: curves, metrics, gradients, time, tables and setup.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem report runs/uniform runs/cagrad --out compare.html"))]
pub struct Args {
    /// Folders of runs, which are shown side by side.
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// The page; default: `report.html` in the first run folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let first = args.runs.first().ok_or_else(|| Error::job("no run was named"))?;
    let out = args.out.clone().unwrap_or_else(|| first.join("report.html"));
    replace(&out, &report::page(&args.runs)?)?;
    super::print(&format!("{}\n", out.display()))
}
