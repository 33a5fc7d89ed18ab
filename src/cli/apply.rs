//! `tandem apply`.

use super::export::{json, table};
use crate::checkpoint::{localised, published};
use crate::comm::solo::Solo;
use crate::data::everywhere::Everywhere;
use crate::error::Result;
use crate::export::delta::apply;
use std::path::PathBuf;

/// Folds a delta of `tandem export --since` into the bundle that it builds on. The result is published if it verifies.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem apply bundles/monday bundles/tuesday-delta --out bundles/tuesday"))]
pub struct Args {
    /// The bundle, here or at an address (s3://…).
    base: PathBuf,
    /// The delta, likewise.
    delta: PathBuf,
    /// Folder of the new bundle, here or at an address (s3://…); must be new or empty.
    #[arg(long)]
    out: PathBuf,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let store = Everywhere::default();
    let here = |path| localised(&Solo, &store, path);
    let (base, delta) = (here(&args.base)?, here(&args.delta)?);
    let report = published(&store, &args.out, |out| apply(&base, &delta, out))?;
    super::print(&if args.json { format!("{}\n", json(&report)) } else { table(&report) })
}
