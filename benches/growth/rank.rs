//! One rank of a job, and batches for it that are made in memory.

use crate::common::on_ranks;
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tandem::comm::Comm;
use tandem::config::{self, Checked};
use tandem::data::batch::{Batch, IdColumn, Origin, Target};
use tandem::data::plan::Plan;
use tandem::data::schema::Purpose;
use tandem::data::store::{Local, Store};
use tandem::data::synth::{self, Labels};
use tandem::observe::{Stage, Stages};
use tandem::random;
use tandem::train::dataset::Dataset;
use tandem::train::run::Run;
use tandem::train::step::{Asks, Clock, StepInput};

pub const GLOBAL_BATCH: usize = 4096;
pub const NUMERIC: usize = 13;
pub const CATEGORICAL: usize = 26;
pub const DIM: usize = 16;
pub const MAX_TASKS: usize = 8;
/// Ids of a column, where nothing else is said.
const IDS: u64 = 100_000;

/// A log whose schema the jobs have; its rows are not read.
pub struct Log(tempfile::TempDir);

impl Log {
    pub fn write() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = synth::Options {
            rows: 20_000,
            tasks: (0..MAX_TASKS).map(|task| format!("t{task}")).collect(),
            labels: Labels::Independent,
            rates: vec![0.2; MAX_TASKS],
            numeric: NUMERIC,
            cardinalities: vec![10; CATEGORICAL],
            history: 2,
            ..synth::Options::default()
        };
        synth::generate(&folder.path().join("log"), &options, false, &|_| {})?;
        Ok(Self(folder))
    }
}

/// A job.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub tasks: usize,
    pub balance: &'static str,
    pub wire: &'static str,
    /// Whether all id columns read one table, instead of one each.
    pub one_table: bool,
    /// Length and pooling of the list of ids of each row.
    pub list: Option<(usize, &'static str)>,
    /// Lanes of the job, so that many ranks can have one each.
    pub lanes: Option<usize>,
    /// `reproducible` of the job.
    pub reproducible: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        let (balance, wire, reproducible) = ("uniform", "f32", "false");
        Self { tasks: 3, balance, wire, one_table: false, list: None, lanes: None, reproducible }
    }
}

impl Shape {
    /// The job, on this log.
    pub fn job(&self, log: &Log) -> anyhow::Result<Checked> {
        let folder = log.0.path();
        let mut text = format!("name: growth\ndata: {{train: {}/log/train}}\nfeatures:\n", folder.display());
        for i in 0..NUMERIC {
            writeln!(text, "  - {{name: n{i}, kind: numeric, transform: none}}")?;
        }
        for i in 0..CATEGORICAL {
            let table = if self.one_table { "ids".to_string() } else { format!("c{i}") };
            writeln!(text, "  - {{name: c{i}, kind: categorical, table: {table}, dim: {DIM}}}")?;
        }
        if let Some((length, pooling)) = self.list {
            let target = if pooling == "attention" { ", target: c0" } else { "" };
            let options = format!("table: c0, max_len: {}, pooling: {pooling}{target}", length.max(1));
            writeln!(text, "  - {{name: hist, kind: sequence, {options}}}")?;
        }
        writeln!(text, "tasks:")?;
        for task in 0..self.tasks {
            writeln!(text, "  - {{name: t{task}, label: t{task}}}")?;
        }
        if let Some(lanes) = self.lanes {
            text = text.replacen("data: {", &format!("data: {{lanes: {lanes}, "), 1);
        }
        write!(
            text,
            "model: {{kind: mmoe, experts: 4, expert: [256, 128], tower: [64]}}\n\
             balance: {{kind: {}}}\nwire: {}\nreproducible: {}\ntrain: {{global_batch: {GLOBAL_BATCH}}}\n",
            self.balance, self.wire, self.reproducible
        )?;
        Ok(config::from_text(&text, Path::new("growth.yaml"), &[])?.job)
    }

    /// Rows `rows` of the global batch of `step`: the same on any number of ranks. Id columns hold one `id(column, row)`.
    pub fn batch(&self, step: u64, rows: Range<usize>, id: impl Fn(u64, u64) -> u64) -> Batch {
        let n = rows.len();
        let row_numbers = || rows.clone().map(|row| row as u64);
        let mut ids: Vec<IdColumn> =
            (0..CATEGORICAL as u64).map(|c| lists(1, row_numbers().map(|row| id(c, row)).collect())).collect();
        if let Some((length, _)) = self.list {
            let of_row = |row: u64| (0..length as u64).map(move |i| frequent(step, 1000 + i, row));
            ids.push(lists(length, row_numbers().flat_map(of_row).collect()));
        }
        let number = |key: &[u64]| random::unit(step, key) as f32;
        let label = |task: usize, row: u64| f32::from(u8::from(number(&[2, task as u64, row]) < 0.3));
        let target = |task| Target { label: row_numbers().map(|row| label(task, row)).collect(), weight: vec![1.0; n] };
        let dense = |row| (0..NUMERIC as u64).map(move |i| number(&[1, row, i]) - 0.5);
        Batch {
            rows: n,
            ids,
            dense: row_numbers().flat_map(dense).collect(),
            targets: (0..self.tasks).map(target).collect(),
            slots: rows.clone().map(|row| row as u32).collect(),
            present: vec![true; n],
            scenarios: Vec::new(),
            groups: Vec::new(),
            origin: vec![Origin::default(); n],
        }
    }

    /// [`Shape::batch`] with some ids far more frequent than others.
    pub fn frequent_batch(&self, step: u64, rows: Range<usize>) -> Batch {
        self.batch(step, rows, |column, row| frequent(step, column, row))
    }
}

/// Lists of `length` ids a row.
fn lists(length: usize, ids: Vec<u64>) -> IdColumn {
    let rows = ids.len().checked_div(length).unwrap_or(GLOBAL_BATCH);
    IdColumn::lists((0..=rows).map(|row| (row * length) as u32).collect(), ids)
}

/// An id by Zipf's law with exponent 1: its logarithm is uniform.
fn frequent(step: u64, column: u64, row: u64) -> u64 {
    (IDS as f64).powf(random::unit(step, &[3, column, row])) as u64
}

/// One rank of a job, ready for steps.
pub struct Rank {
    comm: Comm,
    pub run: Run,
    plan: Plan,
    steps: u64,
}

impl Rank {
    pub fn new(comm: &Comm, log: &Log, shape: &Shape) -> anyhow::Result<Self> {
        let job = shape.job(log)?;
        let store: Arc<dyn Store> = Arc::new(Local);
        let data = Dataset::open(comm, &store, &job, Some(&job.data.train), Purpose::Train)?;
        let plan = data.map(|data| (*data.plan).clone()).unwrap_or_default();
        let run = Run::prepare(comm.clone(), job, store, &log.0.path().join("run"), false)?;
        Ok(Self { comm: comm.clone(), run, plan, steps: 0 })
    }

    /// This rank's rows of a global batch.
    pub fn share(&self) -> Range<usize> {
        let cut = |rank: usize| GLOBAL_BATCH * rank / self.comm.size();
        cut(self.comm.rank())..cut(self.comm.rank() + 1)
    }

    /// Trains on `batches`; milliseconds a step, of the exchange of rows and of all.
    pub fn train(&mut self, batches: &[Batch]) -> anyhow::Result<Times> {
        let (stages, start) = (Stages::start(), Instant::now());
        batches.iter().try_for_each(|batch| self.step(batch, &stages))?;
        let ms_a_step = 1e3 / batches.len() as f64;
        let all = start.elapsed().as_secs_f64() * ms_a_step;
        let rows = stages.summary(self.comm.as_ref())?.rows;
        let exchange = rows.iter().find(|row| row.stage == Stage::Exchange).map_or(0.0, |row| row.seconds.mean);
        Ok(Times { exchange: exchange * ms_a_step, all })
    }

    /// Takes one step.
    pub fn step(&mut self, batch: &Batch, stages: &Stages) -> anyhow::Result<()> {
        let clock = Clock { step: self.steps, steps_per_epoch: 1, total_steps: 1 };
        let input = StepInput {
            batch,
            next: None,
            plan: &self.plan,
            clock,
            lr_factor: 1.0,
            asks: Asks::default(),
            looks: false,
        };
        self.run.trainable.step(&self.comm, &input, stages)?;
        self.steps += 1;
        Ok(())
    }
}

/// Milliseconds of a step.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub exchange: f64,
    pub all: f64,
}

/// Times of `steps` steps of a fresh job on one rank, after `warm_up` steps.
pub fn alone(log: &Log, shape: &Shape, warm_up: u64, steps: u64) -> anyhow::Result<Times> {
    on_ranks(1, |comm| {
        let mut rank = Rank::new(&comm, log, shape)?;
        let batches =
            |steps: Range<u64>| steps.map(|step| shape.frequent_batch(step, 0..GLOBAL_BATCH)).collect::<Vec<_>>();
        rank.train(&batches(0..warm_up))?;
        rank.train(&batches(warm_up..warm_up + steps))
    })
}
