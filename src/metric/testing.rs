//! What the tests of every metric share: rows dealt to ranks, and a metric run on them.

use super::{Metric, Rows, Value};
use crate::comm::{Communicator, threads};
use crate::random;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Property tests draw the same cases on every run; few, because each starts threads.
pub(super) fn fixed() -> ProptestConfig {
    ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(17), failure_persistence: None, ..ProptestConfig::default() }
}

/// The rows of one rank: dealt at random, and of three or more ranks the last gets none.
pub(super) fn dealt<T: Copy>(rows: &[T], comm: &dyn Communicator) -> Vec<T> {
    let hands = if comm.size() > 2 { comm.size() as u64 - 1 } else { comm.size() as u64 };
    let hand = |row: &usize| (random::hash(4, &[*row as u64]) % hands) as usize == comm.rank();
    (0..rows.len()).filter(hand).map(|row| rows[row]).collect()
}

/// `(logits, label)` of binary rows.
pub(super) fn binary(rows: &[(f32, bool)]) -> Vec<(Vec<f32>, f32)> {
    rows.iter().map(|&(logit, positive)| (vec![logit], f32::from(u8::from(positive)))).collect()
}

/// The values of a metric over `(logits, label)` rows on some ranks; asserts that all ranks agree.
pub(super) fn values<M: Metric + Default + 'static>(rows: &[(Vec<f32>, f32)], ranks: usize) -> Vec<Value> {
    let order: Vec<usize> = (0..rows.len()).collect();
    let values = threads::ranks(ranks, |comm| {
        let mut metric = Box::new(M::default());
        for row in dealt(&order, comm) {
            let (logits, label) = &rows[row];
            metric.add(&Rows { outputs: logits.len(), logits, labels: &[*label], groups: &[] }).unwrap();
        }
        metric.finish(comm).unwrap()
    });
    assert!(values.iter().all(|v| *v == values[0]), "{values:?}");
    values[0].clone()
}
