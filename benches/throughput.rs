//! Times the reading of a log, the exchange of embedding rows, and whole steps, on a synthetic click log.
//!
//! ```text
//! cargo bench --bench throughput
//! ```
//!
//! The log has 13 numeric and 26 categorical columns and 3 labels; the model is an MMoE with 4 experts
//! [256, 128] and towers [64]; a step takes 4096 rows. Ranks are threads of this process with one compute
//! thread each. Everything is repeated in turn, so that a busy machine slows all alike; medians are printed.

#[path = "common/mod.rs"]
mod common;

use anyhow::Context;
use common::{median, on_ranks};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tandem::comm::Comm;
use tandem::config::{self, Checked};
use tandem::data::lanes::{Cursor, Layout, Order};
use tandem::data::loader::{Loader, Options};
use tandem::data::schema::Purpose;
use tandem::data::statistics::Statistics;
use tandem::data::store::{Local, Store};
use tandem::data::synth;
use tandem::embedding::{BatchGradient, Mode};
use tandem::observe::{Stage, Stages};
use tandem::train::dataset::Dataset;
use tandem::train::run::Run;
use tandem::train::step::{Asks, Clock, StepInput};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: u64 = 600_000;
const NUMERIC: usize = 13;
const CATEGORICAL: usize = 26;
const TASKS: [&str; 3] = ["click", "cart", "buy"];
const GLOBAL_BATCH: usize = 4096;
/// Steps before the clock starts: tables grow, and every lane opens its first row group.
const WARM_UP: usize = 5;
const STEPS: usize = 15;
const REPEATS: usize = 5;

fn main() -> anyhow::Result<()> {
    tandem::observe::memory::keep();
    // SAFETY: no other thread has been started yet.
    unsafe { tandem::observe::threads::keep_candle_on_one_thread() };
    let folder = tempfile::tempdir()?;
    let rows_per_s = ROWS as f64 / seconds(|| write_log(folder.path()))?;
    println!("synthetic log: {ROWS} rows, written at {:.0} rows/s", rows_per_s);
    println!("matrix products: {:.0} GFLOP/s on one core\n", matrix_speed());
    decode(folder.path())?;
    exchange(folder.path())?;
    steps(folder.path())
}

fn write_log(folder: &Path) -> anyhow::Result<()> {
    let options = synth::Options {
        rows: ROWS,
        tasks: TASKS.map(String::from).to_vec(),
        numeric: NUMERIC,
        cardinalities: synth::cardinalities(CATEGORICAL),
        ..synth::Options::default()
    };
    synth::generate(&folder.join("log"), &options, false, &|_| {})?;
    Ok(())
}

/// The job, with this kind and options of `balance`.
fn job(folder: &Path, balance: &str) -> anyhow::Result<Checked> {
    let mut text = format!("name: bench\ndata: {{train: {}/log/train}}\nfeatures:\n", folder.display());
    for i in 0..NUMERIC {
        writeln!(text, "  - {{name: n{i}, kind: numeric, transform: none}}")?;
    }
    for i in 0..CATEGORICAL {
        writeln!(text, "  - {{name: c{i}, kind: categorical, dim: 16}}")?;
    }
    writeln!(text, "tasks:")?;
    for task in TASKS {
        writeln!(text, "  - {{name: {task}, label: {task}}}")?;
    }
    write!(
        text,
        "model: {{kind: mmoe, experts: 4, expert: [256, 128], tower: [64]}}\n\
         balance: {{kind: {balance}}}\n\
         optimizer: {{dense: {{kind: adam, lr: 1.0e-3}}, sparse: {{kind: rowwise_adagrad, lr: 0.02}}}}\n\
         train: {{global_batch: {GLOBAL_BATCH}}}\n"
    )?;
    Ok(config::from_text(&text, Path::new("bench.yaml"), &[])?.job)
}

/// The log as one rank reads it.
fn open(comm: &Comm, job: &Checked) -> anyhow::Result<(Dataset, Arc<Statistics>)> {
    let store: Arc<dyn Store> = Arc::new(Local);
    let data = Dataset::open(comm, &store, job, Some(&job.data.train), Purpose::Train)?;
    let data = data.context("the job has training data")?;
    let statistics = Arc::new(data.statistics(comm)?);
    Ok((data, statistics))
}

/// One rank of a job, ready for its first step.
struct Rank {
    run: Run,
    data: Dataset,
    loader: Loader,
}

impl Rank {
    fn new(comm: &Comm, folder: &Path, balance: &str) -> anyhow::Result<Self> {
        let job = job(folder, balance)?;
        let (data, statistics) = open(comm, &job)?;
        let layout = Layout::train(data.plan.rows, GLOBAL_BATCH, None)?;
        let order = Order::shuffled(1, job.data.shuffle_window);
        let loader = data.loader(comm, &statistics, layout, order, Cursor::default(), job.data.prefetch)?;
        let run = Run::prepare(comm.clone(), job, Arc::new(Local), &folder.join("run"), false)?;
        Ok(Self { run, data, loader })
    }
}

/// Rows a second of the loader alone, to the end of an epoch.
fn decode(folder: &Path) -> anyhow::Result<()> {
    let mut rates = [const { Vec::new() }; 2];
    let mut first = Vec::new();
    for _ in 0..REPEATS {
        for (threads, rates) in (1..).zip(&mut rates) {
            let (rate, first_s) = alone(|comm| decode_once(&comm, folder, threads))?;
            rates.push(rate);
            first.push(first_s);
        }
    }
    let [one, two] = rates.map(median);
    println!("decode   rows/s: {one:.0} on one thread, {two:.0} on two; first batch after {:.3} s", median(first));
    Ok(())
}

/// (rows a second, seconds to the first batch).
fn decode_once(comm: &Comm, folder: &Path, threads: usize) -> anyhow::Result<(f64, f64)> {
    let job = job(folder, "uniform")?;
    let (data, statistics) = open(comm, &job)?;
    let layout = Layout::train(data.plan.rows, GLOBAL_BATCH, None)?;
    let order = Order::shuffled(1, job.data.shuffle_window);
    let options = Options { layout, order, lanes: 0..layout.lanes, prefetch: job.data.prefetch, threads };
    let start = Instant::now();
    let mut loader = Loader::start(data.source(&statistics), options, Cursor::default())?;
    let mut first_s = None;
    while loader.next()?.is_some() {
        first_s.get_or_insert(start.elapsed().as_secs_f64());
    }
    Ok((data.plan.rows as f64 / start.elapsed().as_secs_f64(), first_s.unwrap_or_default()))
}

/// Lookup and update of the tables, without a model between them.
fn exchange(folder: &Path) -> anyhow::Result<()> {
    for ranks in [1, 2] {
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..REPEATS {
            let [lookup, update] = on_ranks(ranks, |comm| exchange_once(&comm, folder))?;
            times[0].push(lookup);
            times[1].push(update);
        }
        let [lookup, update] = times.map(median);
        println!("exchange ms a step on {ranks} ranks: lookup {lookup:.2}, update {update:.2}");
    }
    Ok(())
}

/// Milliseconds a step of `[lookup, update]`.
fn exchange_once(comm: &Comm, folder: &Path) -> anyhow::Result<[f64; 2]> {
    let Rank { mut run, mut loader, .. } = Rank::new(comm, folder, "uniform")?;
    let tables = &mut run.trainable.embeddings;
    let mut total_ms = [0.0; 2];
    for step in 0..WARM_UP + STEPS {
        let batch = loader.next()?.context("the epoch is long enough")?;
        let start = Instant::now();
        let lookup = tables.lookup(comm.as_ref(), &batch.ids, batch.rows, Mode::Train { step: step as u64 })?;
        let between = Instant::now();
        let gradient = lookup.pooled.clone();
        let update = Instant::now();
        tables.update(comm.as_ref(), lookup, BatchGradient { pooled: &gradient, sequences: &[] }, 1.0)?;
        if step >= WARM_UP {
            total_ms[0] += (between - start).as_secs_f64() * 1e3;
            total_ms[1] += update.elapsed().as_secs_f64() * 1e3;
        }
    }
    Ok(total_ms.map(|ms| ms / STEPS as f64))
}

/// What a step looks at, from nothing to everything: a name, and the job's `balance`. The first is what the others are
/// compared with.
const WAYS: [(&str, &str); 5] = [
    ("uniform", "uniform"),
    ("losses", "dwa"),
    ("represent.", "cagrad, scope: representation"),
    ("shared", "cagrad"),
    ("shared+rows", "cagrad, scope: shared+rows"),
];

/// Whole steps, by stage.
fn steps(folder: &Path) -> anyhow::Result<()> {
    // By way, on one rank and on two.
    let mut times = vec![[const { Vec::<StepTimes>::new() }; 2]; WAYS.len()];
    for _ in 0..REPEATS {
        for ((_, balance), times) in WAYS.iter().zip(&mut times) {
            for (ranks, times) in (1..).zip(times) {
                times.push(on_ranks(ranks, |comm| step_times(&comm, folder, balance))?);
            }
        }
    }
    let whole = Stage::ALL.len();
    let of =
        |way: usize, ranks: usize, part: usize| median(times[way][ranks].iter().map(|times| times[part]).collect());
    let row = |name: &str, value: &dyn Fn(usize, usize) -> String| {
        print!("{name:<12}");
        (0..WAYS.len()).for_each(|way| (0..2).for_each(|ranks| print!(" {:>14}", value(way, ranks))));
        println!();
    };
    println!();
    row("ms a step", &|way, ranks| format!("{}, {}", WAYS[way].0, ranks + 1));
    let outside = [Stage::Eval, Stage::Checkpoint];
    for (part, stage) in Stage::ALL.iter().enumerate().filter(|(_, stage)| !outside.contains(stage)) {
        row(stage.name(), &|way, ranks| format!("{:.2}", of(way, ranks, part)));
    }
    row("whole step", &|way, ranks| format!("{:.2}", of(way, ranks, whole)));
    row("rows/s", &|way, ranks| format!("{:.0}", GLOBAL_BATCH as f64 * 1e3 / of(way, ranks, whole)));
    let ratio = |a: &[StepTimes], b: &[StepTimes]| median(a.iter().zip(b).map(|(a, b)| a[whole] / b[whole]).collect());
    row("over uniform", &|way, ranks| format!("{:.3}", ratio(&times[way][ranks], &times[0][ranks])));
    println!("\nspeed of 2 ranks / 1 rank: {:.2} uniform, {:.2} shared", ratio(&times[0][0], &times[0][1]), {
        ratio(&times[3][0], &times[3][1])
    });
    Ok(())
}

/// Milliseconds a step of each stage, and of all.
type StepTimes = [f64; Stage::ALL.len() + 1];

fn step_times(comm: &Comm, folder: &Path, balance: &str) -> anyhow::Result<StepTimes> {
    let Rank { mut run, data, mut loader } = Rank::new(comm, folder, balance)?;
    let mut clock = (Stages::start(), Instant::now());
    for step in 0..WARM_UP + STEPS {
        if step == WARM_UP {
            clock = (Stages::start(), Instant::now());
        }
        let (stages, _) = &clock;
        let batch = stages.time(Stage::DecodeWait, || loader.next())?.context("the epoch is long enough")?;
        let clock = Clock { step: step as u64, steps_per_epoch: 1, total_steps: 1 };
        let input = StepInput {
            batch: &batch,
            next: None,
            plan: &data.plan,
            clock,
            lr_factor: 1.0,
            asks: Asks::default(),
            looks: false,
        };
        run.trainable.step(comm, &input, stages)?;
    }
    let (stages, since) = clock;
    let whole_s = since.elapsed().as_secs_f64();
    let rows = stages.summary(comm.as_ref())?.rows;
    let seconds = |stage| rows.iter().find(|row| row.stage == stage).map_or(0.0, |row| row.seconds.mean);
    let mut times = [0.0; Stage::ALL.len() + 1];
    times.iter_mut().zip(Stage::ALL).for_each(|(time, stage)| *time = seconds(stage) * 1e3 / STEPS as f64);
    times[Stage::ALL.len()] = whole_s * 1e3 / STEPS as f64;
    Ok(times)
}

/// What f32 products of the widest layer's size reach on one core: the floor that a step is compared with.
fn matrix_speed() -> f64 {
    let (m, k, n) = (GLOBAL_BATCH, NUMERIC + 16 * CATEGORICAL, 4 * 256);
    let (a, b, mut out) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0.0f32; m * n]);
    let once = |out: &mut [f32]| {
        let start = Instant::now();
        // SAFETY: the three slices are row-major matrices of exactly these sizes.
        unsafe {
            let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
            let (k_stride, n_stride) = (k as isize, n as isize);
            let one_thread = gemm::Parallelism::None;
            gemm::gemm(
                m, n, k, out, 1, n_stride, false, a, 1, k_stride, b, 1, n_stride, 0.0, 1.0, false, false, false,
                one_thread,
            );
        }
        2.0 * (m * k * n) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    median((0..4 * REPEATS).map(|_| once(&mut out)).collect())
}

fn alone<T: Send>(body: impl Fn(Comm) -> anyhow::Result<T> + Sync) -> anyhow::Result<T> {
    on_ranks(1, body)
}

fn seconds(body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    body()?;
    Ok(start.elapsed().as_secs_f64())
}
