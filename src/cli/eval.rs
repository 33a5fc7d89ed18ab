//! `tandem eval`.

use super::Voice;
use crate::comm::{Comm, launch};
use crate::config::TimeLimit;
use crate::config::job::Paths;
use crate::data::relations::Relations;
use crate::data::schema::Purpose;
use crate::data::store::{Local, Store};
use crate::error::{Error, Result};
use crate::metric::{self, Report};
use crate::observe::{Stages, log, threads};
use crate::train::dataset::Dataset;
use crate::train::trained::Trained;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Computes the metrics of a checkpoint per task, on one rank or under `mpirun`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::help("Example: tandem eval runs/census_mmoe --data 'data/census_income/test/*.parquet' --json"))]
pub struct Args {
    /// A checkpoint folder, or a run folder (its best checkpoint, else its newest).
    checkpoint: PathBuf,
    /// Globs, folders or files of the rows, with their labels.
    #[arg(long, required = true, num_args = 1..)]
    data: Vec<String>,
    /// Globs, folders or files of the rows that the model was trained on; default: those of its job. Read only where
    /// a task is ranked, for its candidates and known positives.
    #[arg(long, num_args = 1..)]
    train: Vec<String>,
    /// Rows of one batch over all ranks.
    #[arg(long, value_name = "ROWS", default_value_t = 8192, value_parser = super::count)]
    global_batch: usize,
    /// CPU threads of each rank; default: the machine's cores divided by the ranks on it.
    #[arg(long, value_name = "COUNT", value_parser = super::count)]
    threads: Option<usize>,
    /// How long a rank may stand still before it ends the others with exit code 76: `10 min`, `2 h` or `off`.
    #[arg(long, value_name = "TIME", default_value = "30 min")]
    watchdog: TimeLimit,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, voice: Voice) -> i32 {
    let watchdog = super::watchdog();
    launch::run(launch::Options::default(), |comm| {
        log::init(&voice.terminal(), comm.rank(), comm.size(), voice.verbosity())?;
        watchdog?.aim(args.watchdog.0, None, (comm.rank(), comm.size())).map_err(super::not_watched)?;
        threads::start(args.threads, comm.as_ref())?;
        eval(&comm, &args)
    })
}

/// What `--json` prints.
#[derive(Serialize)]
struct Evaluated<'a> {
    checkpoint: String,
    step: u64,
    rows: u64,
    #[serde(flatten)]
    report: &'a Report,
}

fn eval(comm: &Comm, args: &Args) -> Result<i32> {
    let mut trained = Trained::load(comm, &args.checkpoint)?;
    let store: Arc<dyn Store> = Arc::new(Local);
    let relations = relations(comm, &trained, &store, &args.train)?;
    // Paths on the command line are the user's own: the job's `data.root` is not theirs.
    trained.job.data.root = None;
    let paths = Paths::Many(args.data.clone());
    let mut data = Dataset::open(comm, &store, &trained.job, Some(&paths), Purpose::Evaluate)
        .map_err(|error| super::about_data(error, "to score rows without labels use `tandem predict`"))?
        .ok_or_else(|| Error::internal("no data to evaluate"))?;
    data.relations = relations;
    let stages = Stages::start();
    let report = data.evaluate(comm, &mut trained.trainable, &trained.statistics, args.global_batch, &stages)?;
    if comm.rank() != 0 {
        return Ok(0);
    }
    super::print(&if args.json {
        let checkpoint = trained.path.display().to_string();
        let evaluated = Evaluated { checkpoint, step: trained.step, rows: data.plan.rows, report: &report };
        let json = serde_json::to_string(&evaluated);
        json.map_err(|e| Error::internal(format!("the metrics cannot be written: {e}")))? + "\n"
    } else {
        let head = format!("{} (step {}), {} rows\n", trained.path.display(), trained.step, data.plan.rows);
        head + &metric::render(&report)
    })?;
    Ok(0)
}

/// What the training log pairs, where a task is ranked. It must be the log that the model was trained on, unless the
/// user names one.
fn relations(
    comm: &Comm,
    trained: &Trained,
    store: &Arc<dyn Store>,
    patterns: &[String],
) -> Result<Option<Arc<Relations>>> {
    let mut job = trained.job.clone();
    if job.tasks.iter().all(|task| task.ranked_at().is_empty()) {
        return Ok(None);
    }
    if !patterns.is_empty() {
        job.data.root = None;
        job.data.train = Paths::Many(patterns.to_vec());
    }
    const RANKED: &str = "name the rows it was trained on with --train: their pairs are not ranked";
    let log = Dataset::open(comm, store, &job, Some(&job.data.train), Purpose::Train)
        .map_err(|error| error.fix(RANKED))?
        .ok_or_else(|| Error::internal("no training data"))?;
    if patterns.is_empty() && log.fingerprint() != trained.trained_on {
        return Err(Error::data("the rows of the job's `data.train` are not those that the model was trained on")
            .fix(RANKED)
            .agreed());
    }
    log.collect_relations(comm, &trained.statistics)
}
