//! What `benches/scaling.py` needs: the constants of one rank, and steps of many ranks on a modelled network. Prints one
//! JSON object a line.
//!
//! ```text
//! cargo bench --bench scaling -- constants
//! cargo bench --bench scaling -- simulate ALPHA_S BETA_S_PER_BYTE SECONDS_A_STEP SECONDS_A_ROW RANKS...
//! ```
//!
//! Ranks are threads, whose calls move a virtual clock (`network.rs`); the time of computing is given, because hundreds of
//! threads on a few cores would only tell how busy these are.

#[path = "../common/mod.rs"]
mod common;
mod network;
#[allow(dead_code)] // the parts of growth need more
#[path = "../growth/rank.rs"]
mod rank;

use common::on_ranks;
use network::{Modelled, Network, Tally};
use rank::{CATEGORICAL, DIM, GLOBAL_BATCH, Log, Rank, Shape};
use serde_json::json;
use std::collections::HashSet;
use tandem::comm::{Comm, collectives};
use tandem::observe::Stages;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps that are measured or simulated.
const STEPS: u64 = 5;

fn main() -> anyhow::Result<()> {
    tandem::observe::memory::keep();
    // SAFETY: no other thread has been started yet.
    unsafe { tandem::observe::threads::keep_candle_on_one_thread() };
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let log = Log::write()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["constants"] => constants(&log),
        ["simulate", alpha, beta, step, row, ranks @ ..] => {
            let network = Network { alpha: alpha.parse()?, beta: beta.parse()? };
            ranks.iter().try_for_each(|ranks| simulate(&log, network, (step.parse()?, row.parse()?), ranks.parse()?))
        }
        // `cargo bench` alone.
        [] => constants(&log),
        _ => anyhow::bail!("see benches/scaling/main.rs"),
    }
}

/// Times of one rank's steps of several sizes, and the distinct ids of as many rows.
fn constants(log: &Log) -> anyhow::Result<()> {
    let shape = Shape::default();
    for rows in [16, 64, 256, 1024, 4096] {
        let ms = on_ranks(1, |comm| {
            let mut rank = Rank::new(&comm, log, &shape)?;
            let batches: Vec<_> = (0..2 * STEPS).map(|step| shape.frequent_batch(step, 0..rows)).collect();
            rank.train(&batches)?;
            let times: anyhow::Result<Vec<_>> =
                (0..9).map(|_| Ok(rank.train(&batches[..STEPS as usize])?.all)).collect();
            Ok(common::median(times?))
        })?;
        println!("{}", json!({"rows": rows, "ms": ms, "distinct_ids": distinct_ids(&shape, rows)}));
    }
    let counted = on_ranks(1, |comm| {
        let rank = Rank::new(&comm, log, &shape)?;
        Ok((rank.run.trainable.store.len(), rank.run.trainable.dense.shared_len()))
    })?;
    println!("{}", json!({"parameters": counted.0, "shared": counted.1, "dim": DIM, "tables": CATEGORICAL}));
    Ok(())
}

/// Over all tables, a mean over steps.
fn distinct_ids(shape: &Shape, rows: usize) -> f64 {
    let of_step = |step: u64| -> usize {
        let batch = shape.frequent_batch(step, 0..rows);
        batch.ids[..CATEGORICAL].iter().map(|column| column.ids().iter().collect::<HashSet<_>>().len()).sum()
    };
    (0..STEPS).map(of_step).sum::<usize>() as f64 / STEPS as f64
}

fn simulate(log: &Log, network: Network, (step_s, row_s): (f64, f64), ranks: usize) -> anyhow::Result<()> {
    let shape = Shape { lanes: Some(256), ..Shape::default() };
    let (seconds, tally, most) = on_ranks(ranks, |inner| {
        let comm = Modelled::new(inner, network);
        let mut rank = Rank::new(&(comm.clone() as Comm), log, &shape)?;
        let share = rank.share();
        comm.take_tally();
        let (began, stages) = (comm.clock(), Stages::start());
        for step in 0..STEPS {
            comm.advance(step_s + row_s * share.len() as f64);
            rank.step(&shape.frequent_batch(step, share.clone()), &stages)?;
        }
        let (seconds, tally) = ((comm.clock() - began) / STEPS as f64, comm.take_tally());
        let mut all = [seconds, tally.sent];
        collectives::all_reduce_max(comm.as_ref(), &mut all)?;
        Ok((all[0], tally, all[1]))
    })?;
    let Tally { exchanges, gathers, .. } = tally;
    let a_step = |total: f64| total / STEPS as f64;
    println!(
        "{}",
        json!({"ranks": ranks, "rows": GLOBAL_BATCH / ranks, "ms": 1e3 * seconds, "exchanges": a_step(exchanges as f64),
            "gathers": a_step(gathers as f64), "sent_most": a_step(most)})
    );
    Ok(())
}
