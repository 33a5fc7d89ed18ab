//! Time of a step against the rows of a table. Every id is in the table, and each is as frequent as any other: no part of
//! a large table is warm in a cache.

use crate::common::{median, on_ranks};
use crate::plot::{Chart, Line};
use crate::rank::{CATEGORICAL, GLOBAL_BATCH, Log, Rank, Shape, Times};
use tandem::comm::Comm;
use tandem::data::batch::IdColumn;
use tandem::embedding::Mode;
use tandem::random;

const ROWS: [u64; 4] = [100_000, 1_000_000, 10_000_000, 30_000_000];
const REPEATS: u64 = 5;
const STEPS: u64 = 8;

pub fn run(log: &Log) -> anyhow::Result<()> {
    let (times, bytes) = on_ranks(1, |comm| measure(&comm, log))?;
    println!("| rows of the table | GiB | exchange, ms a step | whole step, ms |\n|---|---|---|---|");
    let (mut exchange, mut all) = (Vec::new(), Vec::new());
    for ((rows, times), bytes) in ROWS.iter().zip(times).zip(bytes) {
        exchange.push((*rows as f64, median(times.iter().map(|t| t.exchange).collect())));
        all.push((*rows as f64, median(times.iter().map(|t| t.all).collect())));
        let (exchange, all) = (exchange[exchange.len() - 1].1, all[all.len() - 1].1);
        println!("| {rows} | {:.2} | {exchange:.1} | {all:.1} |", bytes as f64 / f64::from(1 << 30));
    }
    let lines = [Line { name: "whole step", points: all }, Line { name: "lookup and update", points: exchange }];
    Chart { file: "growth-tables", x: "rows of the table", y: "ms a step", log_x: true }.save(&lines)
}

/// Times of each size in each repeat, and bytes of each table.
fn measure(comm: &Comm, log: &Log) -> anyhow::Result<(Vec<Vec<Times>>, Vec<usize>)> {
    let shape = Shape { one_table: true, ..Shape::default() };
    let mut ranks = ROWS.iter().map(|_| Rank::new(comm, log, &shape)).collect::<anyhow::Result<Vec<_>>>()?;
    for (rank, rows) in ranks.iter_mut().zip(ROWS) {
        fill(comm, rank, rows)?;
    }
    let mut times = vec![Vec::new(); ROWS.len()];
    for repeat in 0..REPEATS {
        for ((rank, rows), times) in ranks.iter_mut().zip(ROWS).zip(&mut times) {
            let batch =
                |step| shape.batch(step, 0..GLOBAL_BATCH, |column, row| random::hash(7, &[step, column, row]) % rows);
            let batches: Vec<_> = (repeat * STEPS..(repeat + 1) * STEPS).map(batch).collect();
            times.push(rank.train(&batches)?);
        }
    }
    let bytes = ranks.iter().map(|rank| rank.run.trainable.embeddings.stats()[0].total_bytes()).collect();
    Ok((times, bytes))
}

/// Gives ids 0 to `rows` a row each.
fn fill(comm: &Comm, rank: &mut Rank, rows: u64) -> anyhow::Result<()> {
    let columns = CATEGORICAL as u64;
    for first in (0..rows).step_by(GLOBAL_BATCH * CATEGORICAL) {
        let of = |column: u64| (0..GLOBAL_BATCH as u64).map(move |row| (first + row * columns + column) % rows);
        let column = |c| IdColumn::one_each(of(c).collect());
        let ids: Vec<IdColumn> = (0..columns).map(column).collect();
        rank.run.trainable.embeddings.lookup(comm.as_ref(), &ids, GLOBAL_BATCH, Mode::Train { step: 0 })?;
    }
    Ok(())
}
