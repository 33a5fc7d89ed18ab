//! `tandem predict`.

use super::Voice;
use crate::comm::launch;
use crate::config::TimeLimit;
use crate::data::store::Local;
use crate::observe::{log, threads};
use crate::train::predict::{Options, predict};
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
    /// Folder for the scored rows; must be new or empty, unless with --resume.
    #[arg(long)]
    out: PathBuf,
    /// Goes on with what a killed run left in --out: finished parts stay, on any number of ranks.
    #[arg(long)]
    resume: bool,
    /// What a column is that a file lacks.
    #[arg(long, value_enum, default_value_t)]
    missing: Missing,
    /// Rows of one batch over all ranks.
    #[arg(long, value_name = "ROWS", default_value_t = 8192, value_parser = super::count)]
    global_batch: usize,
    /// CPU threads of each rank; default: the machine's cores divided by the ranks on it.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    threads: Option<usize>,
    /// How long a rank may stand still before it ends the others with exit code 76: `10 min`, `2 h` or `off`.
    #[arg(long, value_name = "TIME", default_value = "30 min")]
    watchdog: TimeLimit,
}

/// What a column is that a file lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Missing {
    /// A mistake: the rows are not scored.
    #[default]
    Error,
    /// A column of nulls.
    Null,
}

/// Runs the command.
pub fn run(args: Args, voice: Voice) -> i32 {
    let watchdog = super::watchdog();
    launch::run(launch::Options::default(), |comm| {
        let terminal = voice.terminal();
        log::init(&terminal, comm.rank(), comm.size(), voice.verbosity())?;
        watchdog?.aim(args.watchdog.0, None, (comm.rank(), comm.size())).map_err(super::not_watched)?;
        threads::start(args.threads, comm.as_ref())?;
        let mut trained = Trained::load(&comm, &args.checkpoint)?;
        trained.job.data.root = None;
        let options = Options {
            data: args.data.clone(),
            out: args.out.clone(),
            global_batch: args.global_batch,
            resume: args.resume,
            nulls_for_missing: args.missing == Missing::Null,
        };
        const MISSING: &str =
            "the rows must have every column that the model was trained on; `--missing null` reads nulls";
        let predicted = predict(&comm, &mut trained, Arc::new(Local), &options);
        let predicted = predicted.map_err(|error| super::about_data(error, MISSING))?;
        if comm.rank() == 0 && !voice.quiet {
            let kept = match predicted.rows - predicted.scored {
                0 => String::new(),
                kept => format!(", {kept} were there"),
            };
            let with = format!("{} (step {})", trained.path.display(), trained.step);
            terminal.line(&format!("scored {} rows with {with}{kept}", predicted.scored));
        }
        Ok(0)
    })
}
