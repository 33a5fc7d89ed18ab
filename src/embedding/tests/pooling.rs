//! Lookup against a naive reading of initial rows, and the gradient of pooling against differences.

use super::*;
use crate::embedding::init::table_seed;
use proptest::prelude::*;

const SGD: &str = "{kind: sgd, lr: 1}";

fn initial(table: usize, id: u64) -> Vec<f64> {
    let (name, dim) = [("user", 3), ("item", 2)][table];
    let mut row = vec![0.0; dim];
    Init::default_for(dim).fill(table_seed(SEED, name), id, &mut row);
    row.into_iter().map(f64::from).collect()
}

fn naive(bag: &BagSpec, ids: &[u64]) -> Vec<f64> {
    let dim = [3, 2][bag.table];
    if bag.kind == SEQUENCE {
        let mut out: Vec<f64> = ids[ids.len().saturating_sub(3)..].iter().flat_map(|&id| initial(1, id)).collect();
        out.resize(3 * dim, 0.0);
        return out;
    }
    let scale = if bag.kind == MEAN { 1.0 / ids.len().max(1) as f64 } else { 1.0 };
    (0..dim).map(|i| scale * ids.iter().map(|&id| initial(bag.table, id)[i]).sum::<f64>()).collect()
}

fn close(a: &[f32], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| (f64::from(a) - b).abs() < 1e-5)
}

fn feature() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let id = prop_oneof![0u64..12, any::<u64>()];
    prop::collection::vec(prop::collection::vec(id, 0..6), ROWS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn lookup_agrees_with_a_naive_reading(columns in prop::collection::vec(feature(), 4), size in 1usize..4) {
        let agree = threads::ranks(size, |comm| {
            let mut embeddings = build("{}", SGD, comm);
            let mine = share(comm);
            let ids: Vec<IdColumn> = columns.iter().map(|c| column(&c[mine.clone()])).collect();
            let lookup = embeddings.lookup(comm, &ids, mine.len(), Mode::Train { step: 0 }).unwrap();
            let width = embeddings.pooled_width();
            assert_eq!(width, 8);
            bags().iter().enumerate().all(|(f, bag)| mine.clone().enumerate().all(|(i, row)| {
                let want = naive(bag, &columns[f][row]);
                match embeddings.columns(f) {
                    Some(columns) => close(&lookup.pooled[i * width..][columns], &want),
                    None => {
                        let length = columns[f][row].len().min(3) as f32;
                        close(&lookup.sequences[0].values[i * 6..][..6], &want)
                            && lookup.sequences[0].mask[i * 3..][..3].iter().sum::<f32>() == length
                    }
                }
            }))
        });
        prop_assert!(agree.into_iter().all(|ok| ok));
    }
}

/// Σ c · (everything a lookup returns), in float64, for tables that hold `rows`.
fn loss(rows: &[TableRows], ids: &[IdColumn], c: &dyn Fn(usize) -> f64) -> f64 {
    let comm = crate::comm::solo::Solo;
    let mut embeddings = build("{}", SGD, &comm);
    for (table, rows) in rows.iter().enumerate() {
        embeddings.import(table, rows).unwrap();
    }
    let lookup = embeddings.lookup(&comm, ids, ROWS, Mode::Evaluate).unwrap();
    let all = lookup.pooled.iter().chain(&lookup.sequences[0].values);
    all.enumerate().map(|(i, &x)| c(i) * f64::from(x)).sum()
}

#[test]
fn the_gradient_of_a_row_is_what_differences_say() {
    let comm = crate::comm::solo::Solo;
    let c = |i: usize| random::unit(8, &[i as u64]) - 0.5;
    let ids: Vec<IdColumn> = (0..4).map(|f| column(&batch(1, f, 6))).collect();
    let mut embeddings = build("{}", SGD, &comm);
    let lookup = embeddings.lookup(&comm, &ids, ROWS, Mode::Train { step: 0 }).unwrap();
    let before = vec![export(&embeddings, 0), export(&embeddings, 1)];
    let n = lookup.pooled.len();
    let d_pooled: Vec<f32> = (0..n).map(|i| c(i) as f32).collect();
    let d_sequence: Vec<f32> = (n..n + ROWS * 6).map(|i| c(i) as f32).collect();
    embeddings.update(&comm, lookup, BatchGradient { pooled: &d_pooled, sequences: &[d_sequence] }, 1.0).unwrap();

    for table in 0..2 {
        // SGD with lr 1 moves each value by minus its gradient.
        let after = export(&embeddings, table);
        for at in 0..after.values.len() {
            let moved = |by: f32| {
                let mut rows = before.clone();
                rows[table].values[at] += by;
                loss(&rows, &ids, &c)
            };
            let difference = (moved(0.25) - moved(-0.25)) / 0.5;
            let gradient = f64::from(before[table].values[at] - after.values[at]);
            assert!((difference - gradient).abs() < 1e-5, "{difference} {gradient}");
        }
    }
}

#[test]
fn rows_are_fetched_by_id_from_any_owner() {
    for ranks in 1..=4 {
        threads::ranks(ranks, |comm| {
            let mut embeddings = build("{}", "{kind: sgd}", comm);
            (0..3).for_each(|step| train_step(&mut embeddings, comm, step, 9));
            // Other ids on each rank, and none on the last of several.
            let ids: Vec<u64> = match comm.rank() {
                3 => Vec::new(),
                rank => vec![1000, rank as u64, 5, 5, rank as u64 + 1],
            };
            let fetched = embeddings.fetch(comm, 1, &ids).unwrap();
            let columns = [column(&vec![Vec::new(); ids.len()]), column(&vec![Vec::new(); ids.len()])];
            let [a, s] = columns;
            let wanted = column(&ids.iter().map(|&id| vec![id]).collect::<Vec<_>>());
            let lookup = embeddings.lookup(comm, &[a.clone(), s, a, wanted], ids.len(), Mode::Evaluate).unwrap();
            let (width, of_bag) = (embeddings.pooled_width(), embeddings.columns(3).unwrap());
            let read: Vec<f32> =
                lookup.pooled.chunks_exact(width).flat_map(|row| row[of_bag.clone()].to_vec()).collect();
            assert_eq!(fetched, read);
            assert!(ids.is_empty() || fetched[..2] == [0.0, 0.0] && fetched[2..].iter().any(|&x| x != 0.0));
        });
    }
}
