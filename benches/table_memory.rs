//! Memory and speed of one large embedding table: `cargo bench --bench table_memory [-- ROWS]`.
//!
//! The aim: all bytes of a table of 10 M rows (dim 16, row-wise Adagrad) are at most 1.25 times its values,
//! optimizer state and 8-byte ids. Ends with an error where they are more.

use std::process::ExitCode;
use std::time::Instant;
use sysinfo::{Pid, ProcessesToUpdate, System};
use tandem::comm::solo::Solo;
use tandem::config::Component;
use tandem::data::batch::IdColumn;
use tandem::embedding::bucket::DEFAULT_BUCKETS;
use tandem::embedding::optimizer;
use tandem::embedding::{BagKind, BagSpec, BatchGradient, Embeddings, Init, Mode, Pool, TableSpec, TableStats};
use tandem::{Result, random};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DIM: usize = 16;
const BATCH: usize = 65_536;
/// Batches of known ids that are read, and read and trained.
const REPEATS: u64 = 50;
const MAX_RATIO: f64 = 1.25;

fn main() -> ExitCode {
    // Cargo passes `--bench`; a number, if there is one, is the number of rows.
    let rows = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(10_000_000);
    match run(rows) {
        Ok(ratio) if ratio <= MAX_RATIO => ExitCode::SUCCESS,
        Ok(ratio) => {
            eprintln!("ratio {ratio:.3} is above {MAX_RATIO}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(rows: u64) -> Result<f64> {
    let optimizer = optimizer::build(&mut Component::named("rowwise_adagrad"), "optimizer.sparse")?;
    let table = TableSpec::new("item", DIM, Init::default_for(DIM), optimizer);
    let bag = BagSpec { name: "item".to_string(), table: 0, kind: BagKind::Pooled(Pool::Sum) };
    let mut embeddings = Embeddings::new(vec![table], vec![bag], DEFAULT_BUCKETS, 1, 0, 1)?;
    let before = resident_bytes();

    let start = Instant::now();
    for first in (0..rows).step_by(BATCH) {
        let ids = column(first..(first + BATCH as u64).min(rows));
        let n = ids.rows();
        embeddings.lookup(&Solo, &[ids], n, Mode::Train { step: 0 })?;
    }
    rate("insert", rows, start);
    for (what, train) in [("lookup", false), ("lookup + update", true)] {
        let start = Instant::now();
        for step in 0..REPEATS {
            repeat(&mut embeddings, rows, step, train)?;
        }
        rate(what, REPEATS * BATCH as u64, start);
    }

    let stats = &embeddings.stats()[0];
    print(stats);
    let per_row = |bytes: usize| bytes as f64 / stats.rows as f64;
    println!("resident set: {:.2} bytes a row above the start", per_row(resident_bytes().saturating_sub(before)));
    Ok(stats.total_bytes() as f64 / stats.necessary_bytes() as f64)
}

/// One batch of random known ids.
fn repeat(embeddings: &mut Embeddings, rows: u64, step: u64, train: bool) -> Result<()> {
    let ids = column((0..BATCH as u64).map(|i| random::hash(step, &[i]) % rows));
    let mode = if train { Mode::Train { step } } else { Mode::Evaluate };
    let lookup = embeddings.lookup(&Solo, &[ids], BATCH, mode)?;
    if train {
        let gradient = lookup.pooled.clone();
        embeddings.update(&Solo, lookup, BatchGradient { pooled: &gradient, sequences: &[] }, 1.0)?;
    }
    Ok(())
}

fn column(ids: impl Iterator<Item = u64>) -> IdColumn {
    IdColumn::one_each(ids.collect())
}

fn rate(what: &str, rows: u64, start: Instant) {
    println!("{what:<16} {:>7.2} M rows/s", rows as f64 / start.elapsed().as_secs_f64() / 1e6);
}

fn print(stats: &TableStats) {
    println!("{} rows of dim {DIM}, row-wise Adagrad, {DEFAULT_BUCKETS} buckets; bytes a row:", stats.rows);
    for (part, bytes) in [
        ("values", stats.payload_bytes),
        ("optimizer", stats.optimizer_bytes),
        ("ids", stats.id_bytes),
        ("count, last step", stats.meta_bytes),
        ("index", stats.index_bytes),
        ("spare", stats.spare_bytes),
        ("total", stats.total_bytes()),
    ] {
        println!("  {part:<16} {:>7.2}", bytes as f64 / stats.rows as f64);
    }
    let ratio = stats.total_bytes() as f64 / stats.necessary_bytes() as f64;
    println!("total / (values + optimizer + ids) = {ratio:.3} (aim: at most {MAX_RATIO})");
}

fn resident_bytes() -> usize {
    let pid = Pid::from_u32(std::process::id());
    let Ok(mut system) = System::new() else {
        return 0;
    };
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), false);
    system.process(pid).map_or(0, |process| process.memory() as usize)
}
