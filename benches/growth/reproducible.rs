//! The price of `reproducible`: time of a step, and bytes on the wire, over those of the same job without it.

use crate::common::median;
use crate::rank::{GLOBAL_BATCH, Log, Rank, Shape};
use std::time::Instant;
use tandem::comm::{Comm, collectives, threads};
use tandem::observe::Stages;
use tandem::train::ranks::on_ranks;

/// Rounds, in each of which every case is measured once.
const ROUNDS: usize = 5;
const WARM_UP: u64 = 3;
const STEPS: u64 = 6;
/// Ranks, and compute threads of each.
const PLACES: [(usize, usize); 3] = [(1, 1), (1, 2), (2, 1)];
const BALANCES: [&str; 2] = ["uniform", "mgda"];
const REPRODUCIBLE: [&str; 3] = ["false", "4", "true"];

/// Milliseconds and bytes sent to other processes.
type Cost = [f64; 2];

pub fn run(log: &Log) -> anyhow::Result<()> {
    println!("| ranks × threads | balance | `reproducible` | ms a step | ratio, lowest to highest | bytes a sample |");
    println!("|---|---|---|---|---|---|");
    for (ranks, threads) in PLACES {
        for balance in BALANCES {
            let mut costs = [const { Vec::<Cost>::new() }; REPRODUCIBLE.len()];
            for _ in 0..ROUNDS {
                for (reproducible, costs) in REPRODUCIBLE.into_iter().zip(&mut costs) {
                    costs.push(cost(log, &Shape { balance, reproducible, ..Shape::default() }, (ranks, threads))?);
                }
            }
            for (reproducible, of) in REPRODUCIBLE.into_iter().zip(&costs) {
                let mut ratios: Vec<f64> = of.iter().zip(&costs[0]).map(|(own, plain)| own[0] / plain[0]).collect();
                ratios.sort_by(f64::total_cmp);
                let (ms, middle) = (median(of.iter().map(|cost| cost[0]).collect()), ratios[ratios.len() / 2]);
                let (low, high) = (ratios[0], ratios[ratios.len() - 1]);
                let bytes = of[0][1] / (STEPS as f64 * GLOBAL_BATCH as f64);
                println!(
                    "| {ranks} × {threads} | {balance} | {reproducible} | {ms:.1} | {middle:.2}, {low:.2} to {high:.2} | {bytes:.0} |"
                );
            }
        }
    }
    Ok(())
}

/// Of a step of a fresh job: the time, and the bytes of all steps.
fn cost(log: &Log, shape: &Shape, (ranks, threads): (usize, usize)) -> anyhow::Result<Cost> {
    let failed = |e: anyhow::Error| tandem::Error::internal(format!("{e:#}"));
    let job = shape.job(log)?;
    let results = threads::run(ranks, threads::Options::default(), |comm| {
        // Virtual ranks have threads of their own.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread();
        let _pool = match job.reproducible.is_off() {
            true => Some(pool.build().map_err(|e| failed(e.into()))?),
            false => None,
        };
        on_ranks(&comm, &job, threads, |comm| on_rank(&comm, log, shape).map_err(failed))
    });
    Ok(results.into_iter().next().into_iter().collect::<Result<Vec<_>, _>>()?[0][0])
}

fn on_rank(comm: &Comm, log: &Log, shape: &Shape) -> anyhow::Result<Cost> {
    let mut rank = Rank::new(comm, log, shape)?;
    let batches: Vec<_> = (0..WARM_UP + STEPS).map(|step| shape.frequent_batch(step, rank.share())).collect();
    let (warm_up, timed) = batches.split_at(WARM_UP as usize);
    let stages = Stages::start();
    warm_up.iter().try_for_each(|batch| rank.step(batch, &stages))?;
    comm.barrier()?;
    let (start, before) = (Instant::now(), comm.traffic().sent_bytes);
    timed.iter().try_for_each(|batch| rank.step(batch, &stages))?;
    comm.barrier()?;
    let ms = start.elapsed().as_secs_f64() * 1e3 / STEPS as f64;
    let mut sent = [comm.traffic().sent_bytes - before];
    collectives::all_reduce_sum(comm.as_ref(), &mut sent)?;
    Ok([ms, sent[0] as f64])
}
