//! `tandem replay`.

use crate::comm::Comm;
use crate::comm::solo::Solo;
use crate::error::{Error, Result};
use crate::train::non_finite::Finding;
use crate::train::non_finite::replay::{Replayed, replay};
use serde::Serialize;
use std::path::PathBuf;
use std::rc::Rc;

/// Takes a step again whose numbers were not finite, on one rank.
///
/// The folder has what the step read: the parameters before it, the rows of the tables, the batch. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem replay runs/census_mmoe/non-finite/step-00000012\n\nThe exit code is 1 if the numbers are not finite again, 0 if they are finite now."))]
pub struct Args {
    /// A folder `RUN_DIR/non-finite/step-NNNNNNNN`.
    folder: PathBuf,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    step: u64,
    rows: usize,
    finite: bool,
    finding: Option<&'a Finding>,
    same: bool,
}

/// Runs the command; the exit code.
pub fn run(args: &Args) -> Result<i32> {
    let comm: Comm = Rc::new(Solo);
    let replayed = replay(&comm, &args.folder)?;
    super::print(&if args.json { json(&replayed)? } else { text(&replayed) })?;
    Ok(i32::from(replayed.now.is_some()))
}

fn json(replayed: &Replayed) -> Result<String> {
    let Replayed { step, rows, before, now } = replayed;
    let same = now.as_ref() == Some(before);
    let printed = Printed { step: *step, rows: *rows, finite: now.is_none(), finding: now.as_ref(), same };
    let text = serde_json::to_string(&printed);
    text.map(|text| text + "\n").map_err(|e| Error::internal(format!("a replay is no JSON: {e}")))
}

fn text(Replayed { step, rows, before, now }: &Replayed) -> String {
    let head = format!("step {} of {rows} rows, taken again from its parameters and rows:\n", step + 1);
    head + &match now {
        None => format!("everything is finite; in the run {}\n", before.error().summary()),
        Some(now) if now == before => format!("{}\nas in the run\n", now.error()),
        Some(now) => format!("{}\nin the run {}\n", now.error(), before.error().summary()),
    }
}
