//! `tandem doctor`.

use super::Voice;
use crate::comm::{collectives, launch};
use crate::config;
use crate::data::everywhere::Everywhere;
use crate::doctor::{Finding, Options, Report, Severity, examine};
use crate::error::{Error, Result};
use crate::observe::log;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Says what is wrong with a job before it costs time: its data, labels, memory, disk and launch.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem doctor jobs/census_mmoe.yaml --ranks 64 --ranks-per-node 8\n\nThe exit code is 1 if the run would fail; with --strict also if there are warnings."))]
pub struct Args {
    /// The job file.
    job: PathBuf,
    /// Overrides a key of the job: `train.global_batch=8192`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Ranks of the run that is planned; default: as many as this command is started on.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    ranks: Option<usize>,
    /// Those of them that share a machine like this one; default: as many as it has cores.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    ranks_per_node: Option<usize>,
    /// Rows of the training log that are looked at, about.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000, value_parser = super::count)]
    rows: usize,
    /// Where the run will write; default: `run_dir` of the job, else `runs/<name>`.
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Exit code 1 for warnings too.
    #[arg(long)]
    strict: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, voice: Voice) -> i32 {
    launch::run(launch::Options::default(), |comm| {
        log::init(&voice.terminal(), comm.rank(), comm.size(), voice.verbosity())?;
        let mine = if comm.rank() == 0 { doctor(args, comm.size(), voice) } else { Ok(0) };
        let mut code = [collectives::agree(comm.as_ref(), mine)?];
        collectives::all_reduce_max(comm.as_ref(), &mut code)?;
        Ok(code[0])
    })
}

fn doctor(args: &Args, started: usize, voice: Voice) -> Result<i32> {
    let loaded = config::load(&args.job, &args.overrides)?;
    let ranks = args.ranks.unwrap_or(started);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        ranks,
        ranks_per_node: args.ranks_per_node.unwrap_or(cores).min(ranks),
        rows: args.rows as u64,
        run_dir: args.run_dir.clone().unwrap_or_else(|| PathBuf::from(loaded.job.run_dir())),
    };
    let source = loaded.source;
    let report =
        examine(loaded.job, Arc::new(Everywhere::default()), &options).map_err(|error| source.locate(error))?;
    super::print(&if args.json { json(&report)? } else { table(&report, voice) })?;
    let bad = if args.strict { Severity::Warning } else { Severity::Error };
    Ok(i32::from(report.worst() >= bad))
}

fn json(report: &Report) -> Result<String> {
    let mut value = serde_json::to_value(report).map_err(|e| Error::internal(format!("a report is no JSON: {e}")))?;
    value["worst"] = report.worst().name().into();
    Ok(format!("{value}\n"))
}

/// What is bad comes last, where it is seen.
fn table(report: &Report, voice: Voice) -> String {
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| finding.severity);
    findings.retain(|finding| !voice.quiet || finding.severity > Severity::Note);
    let mut text = String::new();
    for Finding { check, severity, what, fix } in findings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<8} {check:<10}  {what}", severity.name());
        if let Some(fix) = fix {
            let _ = writeln!(text, "{:<20} fix: {fix}", "");
        }
    }
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let _ = writeln!(text, "{}: {errors} errors, {warnings} warnings, for {} ranks", report.job, report.ranks);
    text
}
