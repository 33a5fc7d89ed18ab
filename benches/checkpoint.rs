//! Saving and loading a large checkpoint against `dd` on the same disk: `cargo bench --bench checkpoint [-- GIB]`.
//!
//! Writes below `runs/checkpoint` (at most one file of `dd` or two checkpoints at a time) and removes it at the end. What
//! is read was put out of the page cache before.

#[path = "common/mod.rs"]
mod common;

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tandem::checkpoint::{
    CheckpointDir, DenseState, FORMAT, Manifest, ParameterEntry, Progress, Saving, Snapshot, TableEntry, begin,
    load_dense, load_tables,
};
use tandem::comm::Communicator;
use tandem::comm::solo::Solo;
use tandem::config::Component;
use tandem::data::batch::IdColumn;
use tandem::data::lanes::Cursor;
use tandem::embedding::bucket::DEFAULT_BUCKETS;
use tandem::embedding::{BagKind, BagSpec, BatchGradient, Embeddings, Init, Mode, Pool, TableSpec, optimizer};
use tandem::nn::{Init as DenseInit, ParamStore};
use tandem::random;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DIM: usize = 64;
/// Floats of a row with Adam's two moments.
const FLOATS: usize = 3 * DIM;
/// Bytes of a row in a checkpoint: floats, id, count, last step.
const ROW_BYTES: u64 = 4 * FLOATS as u64 + 16;
/// Ids of a step.
const BATCH: u64 = 65_536;
const GIB: f64 = (1u64 << 30) as f64;
/// Ranks that read what one wrote.
const READERS: usize = 3;

fn main() -> Result<()> {
    let gib: f64 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(4.0);
    let folder = Path::new("runs/checkpoint");
    std::fs::create_dir_all(folder)?;
    let measured = measure(folder, (gib * GIB) as u64);
    std::fs::remove_dir_all(folder)?;
    measured
}

fn measure(folder: &Path, bytes: u64) -> Result<()> {
    let (dd_write, dd_read) = dd(folder, bytes)?;
    println!("dd, fsync        {dd_write:>6.2} GiB/s");
    println!("dd, read         {dd_read:>6.2} GiB/s");
    let rows = bytes / ROW_BYTES;
    let mut state = State::new(&Solo)?;
    for first in (0..rows).step_by(BATCH as usize) {
        state.step(first..(first + BATCH).min(rows), 0)?;
    }

    let dir = CheckpointDir::of_run(folder);
    let start = Instant::now();
    state.begin(&dir, 1)?.finish(&Solo)?;
    let saved = size(&dir.step(1))?;
    let rate = |bytes: u64, start: Instant| bytes as f64 / GIB / start.elapsed().as_secs_f64();
    let save = rate(saved, start);
    println!(
        "save             {save:>6.2} GiB/s   {:.2} of dd   ({:.2} GiB, {rows} rows)",
        save / dd_write,
        saved as f64 / GIB
    );
    std::fs::remove_dir_all(dir.step(1))?;

    beside_training(&mut state, &dir, rows)?;
    drop(state);

    let path = dir.step(2);
    uncache(&path)?;
    let start = Instant::now();
    load(&Solo, &path)?;
    let load_rate = rate(saved, start);
    println!(
        "load             {load_rate:>6.2} GiB/s   {:.2} of dd's write, {:.2} of its read",
        load_rate / dd_write,
        load_rate / dd_read
    );

    uncache(&path)?;
    let before = bytes_read()?;
    let start = Instant::now();
    common::on_ranks(READERS, |comm| load(comm.as_ref(), &path))?;
    let read = (bytes_read()? - before) as f64;
    println!(
        "load, {READERS} ranks    {:>6.2} GiB/s   {:.4} bytes read for each of the checkpoint",
        rate(saved, start),
        read / saved as f64
    );
    Ok(())
}

/// Steps before and while a checkpoint is written, and how long it stops them.
fn beside_training(state: &mut State, dir: &CheckpointDir, rows: u64) -> Result<()> {
    let step = |state: &mut State, number: u64| -> Result<f64> {
        let start = Instant::now();
        state.step((0..BATCH).map(|i| random::hash(number, &[i]) % rows), number)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let alone: Vec<f64> = (1..20).map(|number| step(state, number)).collect::<Result<_>>()?;
    let start = Instant::now();
    let saving = state.begin(dir, 2)?;
    let stopped = start.elapsed().as_secs_f64();
    let mut beside = Vec::new();
    while !saving.is_written() {
        beside.push(step(state, 100 + beside.len() as u64)?);
    }
    let named = Instant::now();
    saving.finish(&Solo)?;
    let (alone, steps) = (common::median(alone), beside.len());
    let slowest = beside.iter().copied().fold(0.0, f64::max);
    println!(
        "beside training  stopped {:.0} ms for the snapshot and {:.0} ms for the name; of {steps} steps of {BATCH} ids the \
         first took {:.0} ms, the slowest {:.0} ms, the middle one {:.0} ms (alone {:.0} ms); written after {:.1} s",
        1e3 * stopped,
        1e3 * named.elapsed().as_secs_f64(),
        1e3 * beside.first().copied().unwrap_or_default(),
        1e3 * slowest,
        1e3 * common::median(beside),
        1e3 * alone,
        start.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// GiB/s of `dd` writing with fsync, and reading what is not in the page cache.
fn dd(folder: &Path, bytes: u64) -> Result<(f64, f64)> {
    let file = folder.join("dd");
    let (of, count) = (format!("of={}", file.display()), format!("count={}", bytes >> 20));
    let write = timed(&["if=/dev/zero", &of, "bs=1M", &count, "conv=fsync"])?;
    uncache(folder)?;
    let read = timed(&[&format!("if={}", file.display()), "of=/dev/null", "bs=1M"])?;
    std::fs::remove_file(file)?;
    let gib = (bytes >> 20) as f64 / 1024.0;
    Ok((gib / write, gib / read))
}

fn timed(arguments: &[&str]) -> Result<f64> {
    let start = Instant::now();
    let output = Command::new("dd").args(arguments).output().context("dd")?;
    ensure!(output.status.success(), "dd {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(start.elapsed().as_secs_f64())
}

/// Puts the files of a folder out of the page cache.
fn uncache(folder: &Path) -> Result<()> {
    for file in files(folder)? {
        timed(&[&format!("of={}", file.display()), "oflag=nocache", "conv=notrunc,fdatasync", "count=0"])?;
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    Ok(entries.collect::<std::io::Result<Vec<_>>>()?.into_iter().filter(|path| path.is_file()).collect())
}

fn size(folder: &Path) -> Result<u64> {
    files(folder)?.iter().map(|file| Ok(file.metadata()?.len())).sum()
}

/// Bytes that this process has read so far.
fn bytes_read() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let read = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    Ok(read.context("no rchar")?.parse()?)
}

/// What is saved: one large table, and a small dense part.
struct State {
    embeddings: Embeddings,
    store: ParamStore,
}

impl State {
    fn new(comm: &dyn Communicator) -> Result<Self> {
        let adam = optimizer::build(&mut Component::named("adam"), "optimizer.sparse")?;
        let table = TableSpec::new("item", DIM, Init::default_for(DIM), adam);
        let bag = BagSpec { name: "item".to_string(), table: 0, kind: BagKind::Pooled(Pool::Sum) };
        let embeddings = Embeddings::new(vec![table], vec![bag], DEFAULT_BUCKETS, 1, comm.rank(), comm.size())?;
        let mut store = ParamStore::new(1);
        store.builder().param("weight", &[512, 512], DenseInit::Zeros)?;
        Ok(Self { embeddings, store })
    }

    /// A step that sees these ids.
    fn step(&mut self, ids: impl Iterator<Item = u64>, step: u64) -> Result<()> {
        let ids: Vec<u64> = ids.collect();
        let rows = ids.len();
        let column = IdColumn::one_each(ids);
        let lookup = self.embeddings.lookup(&Solo, &[column], rows, Mode::Train { step })?;
        let gradient = lookup.pooled.clone();
        self.embeddings.update(&Solo, lookup, BatchGradient { pooled: &gradient, sequences: &[] }, 1.0)?;
        Ok(())
    }

    fn begin(&mut self, dir: &CheckpointDir, step: u64) -> Result<Saving> {
        let state = self.embeddings.slots(0).iter().map(|slot| (slot.name.to_string(), slot.width)).collect();
        let manifest = Manifest {
            format: FORMAT,
            tandem: env!("CARGO_PKG_VERSION").to_string(),
            step,
            cursor: Cursor::default(),
            progress: Progress::default(),
            buckets: DEFAULT_BUCKETS,
            job: String::new(),
            data: String::new(),
            statistics: serde_json::Value::Null,
            balance: Vec::new(),
            parameters: vec![ParameterEntry { name: "weight".to_string(), shape: vec![512, 512], frozen: false }],
            optimizer: (step, Vec::new()),
            tables: vec![TableEntry { name: "item".to_string(), dim: DIM, state, rows: 0, frozen: false }],
            files: Vec::new(),
        };
        let Self { embeddings, store } = self;
        let snapshot =
            Snapshot { manifest, store, dense: DenseState::default(), embeddings, only: None, row_classes: None };
        Ok(begin(&Solo, dir, snapshot)?)
    }
}

/// Loads the rank's part.
fn load(comm: &dyn Communicator, path: &Path) -> Result<()> {
    let mut state = State::new(comm)?;
    let manifest = Manifest::read(path)?;
    load_dense(path, &manifest, &state.store)?;
    load_tables(path, &manifest, &mut state.embeddings)?;
    Ok(())
}
