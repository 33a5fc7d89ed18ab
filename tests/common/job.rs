//! Jobs on the logs of [`super::log`], and their training on ranks that are threads.

use super::log;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tandem::checkpoint::CheckpointDir;
use tandem::comm::{Comm, threads};
use tandem::config::{self, Checked};
use tandem::data::everywhere::Everywhere;
use tandem::metric::{Report, TaskReport};
use tandem::train::events::{Notice, Observer, Step};
use tandem::train::init;
use tandem::train::ranks::on_ranks;
use tandem::train::run::{Ending, Run};
use tempfile::TempDir;

/// Every kind of feature and task, on [`log::columns`].
pub const EVERY_FEATURE: &str = "
name: every_feature
data: {train: train, valid: valid, shuffle_window: 20, weight: importance}
features:
  - {name: user, kind: categorical, dim: 4}
  - {name: tags, kind: categorical, dim: 3, pooling: mean}
  - {name: item, kind: categorical, dim: 4}
  - {name: history, kind: sequence, table: item, max_len: 4, pooling: attention, target: item}
  - {name: recent, kind: sequence, column: history, table: item, max_len: 2, pooling: sum}
  - {name: item_hour, kind: cross, columns: [item, hour], dim: 2}
  - {name: price_bucket, kind: numeric, column: price, transform: quantile, buckets: 5, dim: 2}
  - {name: price, kind: numeric, transform: log1p}
  - {name: age, kind: numeric, transform: standardize}
  - {name: image, kind: vector, length: 3}
tasks:
  - {name: click, label: click, gauc: user}
  - {name: buy, label: buy, where: click, weight: 0.7}
  - {name: stars, label: stars, kind: regression}
  - {name: genre, label: genre, kind: multiclass, classes: 3}
model: {kind: mmoe, experts: 3, expert: [8], tower: [4]}
train: {global_batch: 24, epochs: 2, log_every: 1}
checkpoint: {buckets: 64}
";

/// A folder with a job and its log; dropped with all that runs wrote.
pub struct Workplace {
    folder: TempDir,
    text: String,
}

impl Workplace {
    /// A job without data yet.
    pub fn new(job: &str) -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), text: job.to_string() }
    }

    /// [`EVERY_FEATURE`] with `rows` rows in two files of several row groups, and 60 rows for evaluation.
    pub fn with_log(rows: u64) -> Self {
        let place = Self::new(EVERY_FEATURE);
        log::write(&place.path("train/a.parquet"), log::columns(0..rows / 3), 31);
        log::write(&place.path("train/b.parquet"), log::columns(rows / 3..rows), 50);
        log::write(&place.path("valid/a.parquet"), log::columns(10_000..10_060), 25);
        place
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The job with these overrides.
    pub fn job(&self, overrides: &[&str]) -> Checked {
        let root = format!("data.root={}", self.folder.path().display());
        let overrides: Vec<String> = std::iter::once(root).chain(overrides.iter().map(ToString::to_string)).collect();
        let loaded = config::from_text(&self.text, Path::new("job.yaml"), &overrides);
        loaded.unwrap_or_else(|error| panic!("{error}")).job
    }

    /// Writes the job to a file, for the program.
    pub fn job_file(&self) -> PathBuf {
        let text = self.text.replacen("data: {", &format!("data: {{root: {}, ", self.folder.path().display()), 1);
        let path = self.path("job.yaml");
        std::fs::write(&path, text).expect("a job file");
        path
    }
}

/// How a job is trained.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Goes on from the newest checkpoint.
    pub resume: bool,
    /// Rank 0 asks to stop once the run has taken this many more steps.
    pub stop_after: Option<u64>,
    /// Delays, order and crashes.
    pub threads: threads::Options,
    /// Compute threads of each rank's virtual ranks, with `reproducible`.
    pub compute: usize,
}

/// What one rank saw.
#[derive(Debug)]
pub struct Seen {
    pub ending: Ending,
    /// Steps taken since the start of training.
    pub step: u64,
    /// Collective calls.
    pub calls: u64,
    /// On rank 0.
    pub notices: Vec<Notice>,
    /// Metrics on `data.test`.
    pub test: Option<Report>,
    /// What `init_from` brought.
    pub begun_with: Option<init::Report>,
}

impl Seen {
    /// The logged steps.
    pub fn steps(&self) -> Vec<&Step> {
        let mut steps = Vec::new();
        for notice in &self.notices {
            if let Notice::Step(step) = notice {
                steps.push(step);
            }
        }
        steps
    }

    /// Step and metrics of the evaluations.
    pub fn evaluations(&self) -> Vec<(u64, &[TaskReport])> {
        let mut evaluations = Vec::new();
        for notice in &self.notices {
            if let Notice::Eval(e) = notice {
                evaluations.push((e.step, e.report.tasks.as_slice()));
            }
        }
        evaluations
    }
}

/// Trains `job` on `ranks` ranks; what each of them saw, or its error.
pub fn try_train(job: &Checked, ranks: usize, run_dir: &Path, how: How) -> Vec<tandem::Result<Seen>> {
    threads::run(ranks, how.threads, |comm| {
        let mut seen = on_ranks(&comm, job, how.compute, |comm| train_rank(comm, job, run_dir, how))?;
        Ok(seen.swap_remove(0))
    })
}

/// [`try_train`] where no rank may fail. All ranks end on the same step; what rank 0 saw.
pub fn train(job: &Checked, ranks: usize, run_dir: &Path, how: How) -> Seen {
    let seen = try_train(job, ranks, run_dir, how).into_iter();
    let mut seen: Vec<Seen> = seen.map(|rank| rank.unwrap_or_else(|error| panic!("{error}"))).collect();
    assert!(seen.iter().all(|rank| (rank.ending, rank.step) == (seen[0].ending, seen[0].step)), "{seen:?}");
    seen.swap_remove(0)
}

fn train_rank(comm: Comm, job: &Checked, run_dir: &Path, how: How) -> tandem::Result<Seen> {
    let mut run = Run::prepare(comm.clone(), job.clone(), Arc::new(Everywhere::default()), run_dir, how.resume)?;
    let mut notices = Notices::default();
    let asked = Cell::new(0);
    let ending = run.train(&mut notices, &|| {
        asked.set(asked.get() + 1);
        comm.rank() == 0 && how.stop_after == Some(asked.get())
    })?;
    let test = if ending == Ending::Signal { None } else { run.test(&mut notices)? };
    let start = run.start_notice(1);
    let (step, begun_with) = (start.step, start.init_from);
    Ok(Seen { ending, step, calls: comm.traffic().calls, notices: notices.0, test, begun_with })
}

#[derive(Default)]
struct Notices(Vec<Notice>);

impl Observer for Notices {
    fn notice(&mut self, notice: &Notice) -> tandem::Result<()> {
        self.0.push(notice.clone());
        Ok(())
    }

    fn tick(&mut self, _: u64, _: u64, _: u64, _: &[f64]) {}
}

/// The newest checkpoint of a run.
pub fn newest(run_dir: &Path) -> PathBuf {
    let newest = CheckpointDir::of_run(run_dir).newest().unwrap_or_else(|error| panic!("{error}"));
    newest.unwrap_or_else(|| panic!("no checkpoint in {}", run_dir.display()))
}

/// Asserts that two evaluations gave the same metrics, up to `tolerance`.
pub fn assert_same_metrics(a: &[TaskReport], b: &[TaskReport], tolerance: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.task, b.task, "{what}");
        for ((name, x), (other, y)) in a.values.iter().zip(&b.values) {
            assert_eq!(name, other, "{what}");
            let close = match (x.get(), y.get()) {
                (Some(x), Some(y)) => (x - y).abs() <= tolerance * (1.0 + x.abs()),
                (x, y) => x == y,
            };
            assert!(close, "{what}: {name} of {} is {x:?} and {y:?}", a.task);
        }
    }
}
