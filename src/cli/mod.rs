//! The commands: one file each. Only this floor prints.

mod eval;
mod inspect;
mod predict;
mod synth;
mod train;

use crate::error::Result;
use clap::{Parser, Subcommand};

/// Trains multi-task recommenders on Parquet logs, on one rank or many.
///
/// Start it alone, with `mpirun -n N`, or from a Slurm job: the same job file runs on any number of ranks.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print more: `-v` for what tandem does, `-vv` for why.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Print only results and errors.
    #[arg(short, long, global = true)]
    quiet: bool,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 bad usage or job, 75 stopped by a signal after saving (resume me).";

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Eval(eval::Args),
    Predict(predict::Args),
    Inspect(inspect::Args),
    Synth(synth::Args),
}

/// Exit code of a run that was stopped by a signal and saved: start it again with `--resume`.
pub const EXIT_STOPPED: i32 = 75;

/// Runs the command; returns the process exit code.
pub fn run(args: Args) -> i32 {
    let voice = Voice { verbose: args.verbose, quiet: args.quiet };
    match args.command {
        Command::Train(args) => train::run(args, voice),
        Command::Eval(args) => eval::run(args, voice),
        Command::Predict(args) => predict::run(args, voice),
        Command::Inspect(args) => code(inspect::run(args)),
        Command::Synth(args) => code(synth::run(args)),
    }
}

/// The exit code of a command that runs on one rank.
fn code(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

/// How much a command says.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// Number of `-v`.
    pub verbose: u8,
    /// `-q`.
    pub quiet: bool,
}

impl Voice {
    /// 0 says the usual, each step up says more, −1 says errors only.
    fn verbosity(self) -> i8 {
        if self.quiet { -1 } else { self.verbose.min(2) as i8 }
    }
}
