//! The commands: one file each. Only this floor prints.

#[cfg(feature = "serving")]
mod apply;
mod balance;
mod doctor;
mod eval;
#[cfg(feature = "serving")]
mod export;
mod federated;
mod ingest;
mod inspect;
#[cfg(feature = "encoder")]
mod knowledge;
mod new;
mod predict;
mod replay;
mod report;
pub mod schema;
mod shell;
mod synth;
mod train;
#[cfg(feature = "serving")]
mod verify;

use crate::comm::{self, collectives, launch};
use crate::error::{Error, Result};
use crate::observe::watchdog::Watchdog;
use crate::observe::{Format, Terminal};
use clap::{Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Trains multi-task recommenders on Parquet logs, on one rank or many.
///
/// Start it alone, with `mpirun -n N`, or from a Slurm job: the same job file runs on any number of ranks.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, after_help = help("Example: tandem synth data/demo && tandem train data/demo/job.yaml"))]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print more: `-v` for what tandem does, `-vv` for why.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Print only results and errors.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// How messages and progress are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t)]
    log: Format,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 bad usage or job, 75 stopped by a signal after saving (resume me), \
     76 nothing moved any more (resume me).";

#[derive(Debug, Subcommand)]
enum Command {
    Ingest(ingest::Args),
    New(new::Args),
    Train(train::Args),
    Doctor(doctor::Args),
    Eval(eval::Args),
    Predict(predict::Args),
    #[cfg(feature = "serving")]
    Export(export::Args),
    #[cfg(feature = "serving")]
    Verify(verify::Args),
    #[cfg(feature = "serving")]
    Apply(apply::Args),
    Report(report::Args),
    Inspect(inspect::Args),
    Replay(replay::Args),
    Synth(synth::Args),
    Balance(balance::Args),
    #[cfg(feature = "encoder")]
    Knowledge(knowledge::Args),
    Schema(schema::Args),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// Exit code of a run that was stopped by a signal and saved: start it again with `--resume`.
pub const EXIT_STOPPED: i32 = 75;

/// Exit code of a run that its watchdog ended because nothing moved on any rank.
pub const EXIT_STUCK: i32 = 76;

/// What stands below the options in a command's `--help`.
fn help(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

/// Reads the command line and runs the command; returns the process exit code.
pub fn main() -> i32 {
    let args = Args::try_parse();
    // A file that outgrows `ulimit -f` should be an error that names it, not a death by signal. Where the signal
    // cannot be caught, all is as it was.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    match args {
        Ok(args) => run(args),
        // `--help`, `--version` or a mistake; said once, however many ranks were started.
        Err(message) => on_rank_0(|| {
            let _ = message.print();
            Ok(message.exit_code())
        }),
    }
}

fn run(args: Args) -> i32 {
    let voice = Voice { verbose: args.verbose, quiet: args.quiet, log: args.log };
    if args.log == Format::Json {
        comm::say_failures_as_json();
    }
    match args.command {
        Command::Ingest(args) => on_rank_0(|| ingest::run(args).map(|()| 0)),
        Command::New(args) => on_rank_0(|| new::run(args).map(|()| 0)),
        Command::Train(args) => train::run(args, voice),
        Command::Doctor(args) => doctor::run(&args, voice),
        Command::Eval(args) => eval::run(args, voice),
        Command::Predict(args) => predict::run(args, voice),
        #[cfg(feature = "serving")]
        Command::Export(args) => export::run(args, voice),
        #[cfg(feature = "serving")]
        Command::Verify(args) => on_rank_0(|| verify::run(args).map(|()| 0)),
        #[cfg(feature = "serving")]
        Command::Apply(args) => on_rank_0(|| apply::run(args).map(|()| 0)),
        Command::Report(args) => on_rank_0(|| report::run(args).map(|()| 0)),
        Command::Inspect(args) => on_rank_0(|| inspect::run(args).map(|()| 0)),
        Command::Replay(args) => on_rank_0(|| replay::run(&args)),
        Command::Synth(args) => on_rank_0(|| synth::run(args).map(|()| 0)),
        Command::Balance(args) => on_rank_0(|| balance::run(args).map(|()| 0)),
        #[cfg(feature = "encoder")]
        Command::Knowledge(args) => knowledge::run(args, voice),
        Command::Schema(args) => on_rank_0(|| schema::run(args).map(|()| 0)),
        Command::Completions(args) => on_rank_0(|| shell::completions(args).map(|()| 0)),
        Command::Man(args) => on_rank_0(|| shell::man(args).map(|()| 0)),
    }
}

/// Runs what needs one rank only; the others wait for its end.
fn on_rank_0(job: impl FnOnce() -> Result<i32>) -> i32 {
    launch::run(launch::Options::default(), |comm| {
        let mine = if comm.rank() == 0 { job() } else { Ok(0) };
        let mut code = [collectives::agree(comm.as_ref(), mine)?];
        collectives::all_reduce_max(comm.as_ref(), &mut code)?;
        Ok(code[0])
    })
}

/// Watches this process from now on, and ends it with [`EXIT_STUCK`] where it stands still.
fn watchdog() -> Result<Watchdog> {
    let leave = |place, error: Error| launch::leave_now(place, EXIT_STUCK, &error.to_string());
    Watchdog::start(leave).map_err(not_watched)
}

fn not_watched(e: std::io::Error) -> Error {
    Error::internal(format!("the watchdog cannot be started: {e}"))
}

/// Reads an argument that counts something of which there must be one.
fn count(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("expected a whole number, 1 or more".to_string()),
    }
}

/// Prints a result. A reader that has gone (`| head`) is no failure; a full disk is one.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("printing", Path::new("standard output"), &e)),
        _ => Ok(()),
    }
}

/// Errors about the data of a finished training speak of its job, which cannot be corrected any more.
fn about_data(error: Error, missing_column: &'static str) -> Error {
    match (error.place("pattern").is_some(), error.place("needed by").is_some()) {
        (true, _) => error.fix("correct --data: a glob, a folder with *.parquet files below it, or a file"),
        (_, true) => error.fix(missing_column),
        _ => error,
    }
}

/// How much a command says.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// Number of `-v`.
    pub verbose: u8,
    /// `-q`.
    pub quiet: bool,
    /// `--log`.
    pub log: Format,
}

impl Voice {
    /// Where it says it.
    fn terminal(self) -> Terminal {
        Terminal::stderr(self.log)
    }

    /// 0 says the usual, each step up says more, −1 says errors only.
    fn verbosity(self) -> i8 {
        if self.quiet { -1 } else { self.verbose.min(2) as i8 }
    }
}
