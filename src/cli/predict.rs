//! `tandem predict`.

use super::Voice;
use crate::comm::launch;
use crate::data::store::Local;
use crate::observe::{Terminal, log, threads};
use crate::train::predict::predict;
use crate::train::trained::Trained;
use std::path::PathBuf;
use std::sync::Arc;

/// Scores every row of a Parquet log: all its columns plus `pred_<task>`, in its order.
#[derive(Debug, clap::Args)]
#[command(
    after_help = super::help("Example: mpirun -n 4 tandem predict runs/census_mmoe --data data/census_income/test --out scored")
)]
pub struct Args {
    /// A checkpoint folder, or a run folder (its best checkpoint, else its newest).
    checkpoint: PathBuf,
    /// Globs, folders or files of the rows; labels are not needed.
    #[arg(long, required = true, num_args = 1..)]
    data: Vec<String>,
    /// Folder for the scored rows; must be new or empty.
    #[arg(long)]
    out: PathBuf,
    /// Rows of one batch over all ranks.
    #[arg(long, value_name = "ROWS", default_value_t = 8192, value_parser = super::count)]
    global_batch: usize,
    /// CPU threads of each rank; default: the machine's cores divided by the ranks on it.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    threads: Option<usize>,
}

/// Runs the command.
pub fn run(args: Args, voice: Voice) -> i32 {
    launch::run(launch::Options::default(), |comm| {
        let terminal = Terminal::stderr();
        log::init(&terminal, comm.rank(), comm.size(), voice.verbosity())?;
        threads::start(args.threads, comm.as_ref())?;
        let mut trained = Trained::load(&comm, &args.checkpoint)?;
        trained.job.data.root = None;
        let rows = predict(&comm, &mut trained, Arc::new(Local), &args.data, &args.out, args.global_batch).map_err(
            |error| super::about_data(error, "the rows must have every column that the model was trained on"),
        )?;
        if comm.rank() == 0 && !voice.quiet {
            terminal.line(&format!("scored {rows} rows with {} (step {})", trained.path.display(), trained.step));
        }
        Ok(0)
    })
}
