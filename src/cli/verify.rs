//! `tandem verify`.

use super::export::{json, table};
use crate::checkpoint::localised;
use crate::comm::solo::Solo;
use crate::data::everywhere::Everywhere;
use crate::error::Result;
use crate::export::verify::{TOLERANCE, verify};
use std::path::PathBuf;

/// Scores the golden rows of a bundle by the bundle alone, with another reader than the one that trained, and prints the
/// largest difference per task. Fails above 1e-5.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem verify bundles/census"))]
pub struct Args {
    /// A folder that `tandem export` wrote, here or at an address (s3://…).
    bundle: PathBuf,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let report = verify(&localised(&Solo, &Everywhere::default(), &args.bundle)?)?;
    super::print(&match args.json {
        true => {
            let mut value = json(&report);
            value["tolerance"] = TOLERANCE.into();
            format!("{value}\n")
        }
        false => table(&report),
    })?;
    report.check()
}
