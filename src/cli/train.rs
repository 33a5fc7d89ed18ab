//! `tandem train`.

use super::{EXIT_STOPPED, Voice};
use crate::comm::{Comm, collectives, launch, same};
use crate::config::{self, Checked, Loaded};
use crate::data::store::Local;
use crate::error::{Error, Result};
use crate::metric;
use crate::observe::tensorboard::TensorBoard;
use crate::observe::watchdog::{self, Watchdog};
use crate::observe::{Events, Format, Progress, Terminal, log, progress, threads};
use crate::train::events::{Notice, Observer, Start};
use crate::train::prometheus::Prometheus;
use crate::train::ranks::on_ranks;
use crate::train::run::{Ending, Run};
use crate::train::tensorboard::Board;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Trains a job, on one rank or under `mpirun`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = super::help("Example: mpirun -n 4 tandem train jobs/census_mmoe.yaml --set train.epochs=2 --run-dir runs/try1")
)]
pub struct Args {
    /// The job file.
    job: PathBuf,
    /// Overrides a key of the job: `train.epochs=2`, `tasks.click.weight=0.5`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Goes on from the newest whole checkpoint of the run folder (from the start if there is none).
    #[arg(long)]
    resume: bool,
    /// Where the run writes; default: `run_dir` of the job, else `runs/<name>`.
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Also writes event files for TensorBoard into `RUN_DIR/tensorboard`.
    #[arg(long)]
    tensorboard: bool,
    /// Checks the job, the data and the model, prints the resolved job, and stops before the first step.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(args: Args, voice: Voice) -> i32 {
    // First of all: a signal that comes while data are opened must not be a death.
    let caught = catch_signals();
    let watchdog = super::watchdog();
    launch::run(launch::Options::default(), |comm| {
        let terminal = voice.terminal();
        log::init(&terminal, comm.rank(), comm.size(), voice.verbosity())?;
        let stop = caught?;
        let watchdog = watchdog?;
        let loaded = collectives::agree(comm.as_ref(), config::load(&args.job, &args.overrides))?;
        let source = loaded.source.clone();
        train(comm, loaded, &args, (voice, &terminal), (&stop, &watchdog)).map_err(|error| source.locate(error))
    })
}

fn train(
    comm: Comm,
    loaded: Loaded,
    args: &Args,
    (voice, terminal): (Voice, &Terminal),
    (stop, watchdog): (&AtomicBool, &Watchdog),
) -> Result<i32> {
    let run_dir = args.run_dir.clone().unwrap_or_else(|| PathBuf::from(loaded.job.run_dir()));
    check_alike(&comm, &loaded, args, &run_dir)?;
    let threads = match loaded.job.reproducible.is_off() {
        true => threads::start(loaded.job.threads, comm.as_ref())?,
        // Virtual ranks have threads of their own.
        false => threads::count(loaded.job.threads, comm.as_ref())?,
    };
    if !args.dry_run {
        let usable = if comm.rank() == 0 { try_folder(&run_dir) } else { Ok(()) };
        collectives::agree(comm.as_ref(), usable)?;
        let aimed = watchdog.aim(loaded.job.train.watchdog.0, Some(&run_dir), (comm.rank(), comm.size()));
        aimed.map_err(super::not_watched)?;
    }
    if loaded.job.federated.is_some() {
        let how = (args.resume, args.dry_run);
        return super::federated::train(comm, loaded.job, &run_dir, how, (voice, terminal), stop);
    }
    let job = loaded.job;
    let codes = on_ranks(&comm, &job, threads, |comm| {
        train_rank(comm, job.clone(), args, (&run_dir, threads), (voice, terminal), stop)
    })?;
    Ok(codes[0])
}

/// Trains on one rank, which may be a virtual one.
fn train_rank(
    comm: Comm,
    job: Checked,
    args: &Args,
    (run_dir, threads): (&Path, usize),
    (voice, terminal): (Voice, &Terminal),
    stop: &AtomicBool,
) -> Result<i32> {
    let mut run = Run::prepare(comm.clone(), job, Arc::new(Local), run_dir, args.resume)?;
    let start = run.start_notice(threads);
    let speaks = comm.rank() == 0 && !voice.quiet;
    if speaks {
        terminal.line(&banner(&start, run_dir));
    }
    if args.dry_run {
        if comm.rank() == 0 {
            super::print(&config::to_yaml(&run.job)?)?;
        }
        if speaks {
            terminal.line("The job is sound; --dry-run stops before the first step.");
        }
        return Ok(0);
    }
    let opened = Watcher::open(&comm, run_dir, &run, &start, speaks.then_some(terminal), args.tensorboard);
    let mut watcher = collectives::agree(comm.as_ref(), opened)?;
    run.tell(&mut watcher, Notice::Start(start))?;
    let ending = run.train(&mut watcher, &|| stop.load(Ordering::Relaxed))?;
    if ending != Ending::Signal {
        run.test(&mut watcher)?;
    }
    let resources = run.resources()?;
    let times = resources.times.to_string();
    run.tell(&mut watcher, Notice::Resources(resources))?;
    watcher.finish();
    if speaks {
        terminal.line(&times);
    }
    Ok(if ending == Ending::Signal { EXIT_STOPPED } else { 0 })
}

/// Refuses ranks that were started with different jobs or arguments, and tells of tasks that have no rank. Collective.
fn check_alike(comm: &Comm, loaded: &Loaded, args: &Args, run_dir: &Path) -> Result<()> {
    let started = format!("{}\n{run_dir:?} {} {}", config::to_yaml(&loaded.job)?, args.resume, args.dry_run);
    let fix = "all ranks must read one job file, with the same options: put it into a folder that all nodes share";
    same::check(comm.as_ref(), &started, "the ranks were started with different jobs", fix)?;
    if let Some(tasks) = launch::tasks_left_idle(comm.size()).filter(|_| comm.rank() == 0) {
        tracing::warn!("the Slurm job has {tasks} tasks, but only {} ranks were started", comm.size());
    }
    Ok(())
}

/// Makes the run folder, and sees that it can be written before hours are spent. What watchdogs of an earlier run wrote
/// goes.
fn try_folder(run_dir: &Path) -> Result<()> {
    let refused =
        |e| Error::io("creating the run folder", run_dir, &e).fix("choose a folder to write to with --run-dir");
    std::fs::create_dir_all(run_dir).map_err(refused)?;
    let _ = std::fs::remove_file(run_dir.join(watchdog::FILE));
    let probe = run_dir.join(".tandem-can-write");
    std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)).map_err(|e| Error::io("writing", &probe, &e))
}

/// Writes a small file aside and renames it: a full disk must not cost the one that was there.
pub(super) fn replace(path: &Path, text: &str) -> Result<()> {
    let aside = path.with_extension("partial");
    let written = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&aside);
        Error::io("writing", path, &e)
    })
}

/// What is about to run, in sizes that tell whether it is what was meant.
fn banner(start: &Start, run_dir: &Path) -> String {
    let resumed = if start.step > 0 { format!(", going on after step {}", start.step) } else { String::new() };
    let begun = start.init_from.as_ref().map_or(String::new(), |report| format!("\n  {report}"));
    format!(
        "{} in {}{resumed}\n  {} rows, {} steps of {} rows in {} epochs\n  {} ranks ({}) × {} threads, {} lanes\n  \
         {}; dense learning rate {}\n  matrix products in {}{begun}",
        start.job,
        run_dir.display(),
        start.rows,
        start.total_steps,
        start.global_batch,
        start.epochs,
        start.ranks,
        start.backend,
        start.threads,
        start.lanes,
        parameters(start),
        start.lr,
        start.products,
    )
}

/// How many dense parameters there are, and how many of them are not frozen.
fn parameters(start: &Start) -> String {
    let &Start { dense_parameters: all, trained_parameters: trained, shared_parameters: shared, .. } = start;
    if trained == all {
        return format!("{all} dense parameters, {shared} of them shared by tasks");
    }
    let share = 100.0 * trained as f64 / all as f64;
    format!("{all} dense parameters, {trained} of them ({share:.1} %) trained, of which tasks share {shared}")
}

/// SIGTERM, SIGINT and SIGUSR1 ask for a checkpoint and a clean end; a second SIGINT or SIGTERM ends at once.
fn catch_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
    let stop = Arc::new(AtomicBool::new(false));
    let failed = |e: std::io::Error| Error::internal(format!("signals cannot be caught: {e}"));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_STOPPED, stop.clone()).map_err(failed)?;
    }
    for signal in [SIGTERM, SIGINT, SIGUSR1] {
        signal_hook::flag::register(signal, stop.clone()).map_err(failed)?;
    }
    Ok(stop)
}

/// Follows the run on rank 0: the log, the resolved job, the progress display, what dashboards read.
struct Watcher {
    events: Events,
    board: Option<Board>,
    gauges: Gauges,
    progress: Progress,
    terminal: Option<Terminal>,
}

impl Watcher {
    fn open(
        comm: &Comm,
        run_dir: &Path,
        run: &Run,
        start: &Start,
        terminal: Option<&Terminal>,
        tensorboard: bool,
    ) -> Result<Self> {
        let shown = terminal.cloned().unwrap_or_else(|| Terminal::stderr(Format::Text));
        let plan = progress::Plan {
            steps: start.total_steps,
            done: start.step,
            epochs: start.epochs,
            tasks: run.job.tasks.iter().map(|t| t.name.clone()).collect(),
        };
        // A display of any other rank is hidden; so is rank 0's with --quiet.
        let display_rank = if terminal.is_some() { comm.rank() } else { usize::MAX };
        let mut watcher = Self {
            events: Events::nowhere(),
            board: None,
            gauges: Gauges::new(run_dir, &start.job),
            progress: Progress::start(&shown, display_rank, plan).watching(comm),
            terminal: terminal.cloned(),
        };
        if comm.rank() == 0 {
            let job = config::to_yaml(&run.job)?;
            replace(&run_dir.join("job.yaml"), &job)?;
            watcher.events = Events::resume(&run_dir.join("metrics.jsonl"), start.step)?;
            if tensorboard {
                let file = TensorBoard::create(&run_dir.join("tensorboard"), start.step)?;
                watcher.board = Some(Board::new(file, &job, start.step)?);
            }
        }
        Ok(watcher)
    }

    fn finish(self) {
        self.progress.finish();
    }
}

/// `metrics.prom`, which is written anew at most once a second, but for the events that are rare.
struct Gauges {
    path: PathBuf,
    state: Prometheus,
    next: Instant,
    failed: bool,
}

impl Gauges {
    fn new(run_dir: &Path, job: &str) -> Self {
        Self { path: run_dir.join("metrics.prom"), state: Prometheus::new(job), next: Instant::now(), failed: false }
    }

    fn notice(&mut self, notice: &Notice) {
        self.state.notice(notice);
        let now = Instant::now();
        if self.failed || matches!(notice, Notice::Step(_)) && now < self.next {
            return;
        }
        self.next = now + Duration::from_secs(1);
        if let Err(error) = replace(&self.path, &self.state.text()) {
            tracing::warn!("nothing more is written for Prometheus: {error}");
            self.failed = true;
        }
    }
}

impl Observer for Watcher {
    fn notice(&mut self, notice: &Notice) -> Result<()> {
        notice.write(&mut self.events)?;
        // A dashboard that cannot be written is no reason to end a run, as its log is.
        self.gauges.notice(notice);
        if let Some(Err(error)) = self.board.as_mut().map(|board| board.notice(notice)) {
            tracing::warn!("nothing more is written for TensorBoard: {error}");
            self.board = None;
        }
        if self.terminal.is_none() {
            return Ok(());
        }
        match notice {
            Notice::Eval(e) => {
                let table = metric::render(&e.report);
                self.progress.scored(metric::headlines(&e.report.tasks));
                self.progress.message(&format!("{} after step {}\n{}", e.split, e.step, table.trim_end()));
                self.progress.restart_clock();
            }
            Notice::Skipped(skipped) => {
                let replay = skipped.path.as_ref().map(|path| format!("\n  replay it: tandem replay {path}"));
                let (step, what) = (skipped.step, skipped.finding.error().summary());
                self.progress.message(&format!("left out step {step}: {what}{}", replay.unwrap_or_default()));
            }
            Notice::Checkpoint(saved) => {
                let best = if saved.best { ", the best so far" } else { "" };
                self.progress.message(&format!("saved {}{best}", saved.path));
                self.progress.restart_clock();
            }
            Notice::End(end) => {
                let why = match end.reason {
                    "early_stop" => "stopped early: no more improvement",
                    "signal" => "stopped by a signal after saving; go on with --resume",
                    _ => "done",
                };
                let skipped = match end.skipped {
                    0 => String::new(),
                    steps => format!("; {steps} steps were left out, since their numbers were not finite"),
                };
                self.progress.message(&format!("{why} after step {} and {:.1} s{skipped}", end.step, end.seconds));
                if let Some(conflict) = &end.conflict {
                    self.progress.message(&format!("\n{conflict}\n"));
                }
            }
            Notice::Start(_) | Notice::Step(_) | Notice::Resources(_) => {}
        }
        Ok(())
    }

    fn tick(&mut self, epoch: u64, step: u64, rows: u64, losses: &[f64]) {
        self.progress.step(&progress::Step { epoch, step, rows, losses });
    }
}
