//! Bytes on the wire against the number of ranks, beside the least that the exchanges of this design need.

use crate::common::on_ranks;
use crate::plot::{Chart, Line};
use crate::rank::{CATEGORICAL, DIM, GLOBAL_BATCH, Log, Rank, Shape};
use std::collections::HashSet;
use tandem::comm::collectives;
use tandem::embedding::bucket::Buckets;

const RANKS: [usize; 3] = [1, 2, 4];
const CASES: [(&str, &str); 4] = [("uniform", "f32"), ("uniform", "bf16"), ("mgda", "f32"), ("mgda", "bf16")];
const TASKS: usize = 3;
const STEPS: u64 = 5;

pub fn run(log: &Log) -> anyhow::Result<()> {
    println!("| ranks | balance | wire | bytes a sample | least | ratio |\n|---|---|---|---|---|---|");
    let mut lines = Vec::new();
    for (balance, wire) in CASES {
        let mut points = Vec::new();
        for ranks in RANKS {
            let shape = Shape { tasks: TASKS, balance, wire, ..Shape::default() };
            let [sent, least] = on_ranks(ranks, |comm| {
                let mut rank = Rank::new(&comm, log, &shape)?;
                let batches: Vec<_> = (0..STEPS).map(|step| shape.frequent_batch(step, rank.share())).collect();
                let before = comm.traffic().sent_bytes;
                rank.train(&batches)?;
                let mut sent = [comm.traffic().sent_bytes - before];
                collectives::all_reduce_sum(comm.as_ref(), &mut sent)?;
                let samples = (STEPS as usize * GLOBAL_BATCH) as f64;
                Ok([sent[0] as f64 / samples, least_bytes(&rank, &shape, ranks) as f64 / samples])
            })?;
            let ratio = if least > 0.0 { format!("{:.3}", sent / least) } else { String::new() };
            println!("| {ranks} | {balance} | {wire} | {sent:.0} | {least:.0} | {ratio} |");
            points.push((ranks as f64, sent));
        }
        let name = if balance == "uniform" { ["uniform, f32", "uniform, bf16"] } else { ["MGDA, f32", "MGDA, bf16"] };
        lines.push(Line { name: name[usize::from(wire == "bf16")], points });
    }
    Chart { file: "growth-ranks", x: "ranks", y: "bytes a sample", log_x: false }.save(&lines)
}

/// Bytes that all ranks together must send in these steps: each distinct id of a rank's share to its owner, its row back
/// and its gradient there; and of the dense part, each gradient row in a reduce-scatter and the parameters in an
/// all-gather. Counts of ids, sums of losses, the Gram matrix and all flags come on top.
fn least_bytes(rank: &Rank, shape: &Shape, ranks: usize) -> usize {
    let number = if shape.wire == "bf16" { 2 } else { 4 };
    let (id, row) = (size_of::<u64>(), 2 * DIM * number);
    let exchanged: usize = (0..STEPS).map(|step| foreign_ids(shape, step, ranks)).sum::<usize>() * (id + row);
    let shared = rank.run.trainable.dense.shared_len();
    let all = rank.run.trainable.store.len();
    let rows = if shape.balance == "uniform" { 1 } else { shape.tasks };
    let gradients = (rows * shared + (all - shared)) * number;
    let parameters = all * size_of::<f32>();
    exchanged + STEPS as usize * (ranks - 1) * (gradients + parameters)
}

/// Over all ranks and tables: distinct ids of a rank's share that another rank owns.
fn foreign_ids(shape: &Shape, step: u64, ranks: usize) -> usize {
    let foreign = |reader: usize| {
        let rows = GLOBAL_BATCH * reader / ranks..GLOBAL_BATCH * (reader + 1) / ranks;
        let batch = shape.frequent_batch(step, rows);
        let buckets = Buckets::new(1024, reader, ranks).expect("a power of two");
        let of_table = |ids: &[u64]| {
            let distinct: HashSet<u64> = ids.iter().copied().collect();
            distinct.into_iter().filter(|&id| buckets.owner(id) != reader).count()
        };
        batch.ids[..CATEGORICAL].iter().map(|column| of_table(column.ids())).sum::<usize>()
    };
    (0..ranks).map(foreign).sum()
}
