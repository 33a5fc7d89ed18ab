//! What the tests of every metric share: ranks as threads, rows dealt to them, and a metric run on both.

use super::{Metric, Rows, Value};
use crate::comm::{Communicator, Traffic};
use crate::error::Result;
use crate::random;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::sync::{Barrier, Mutex};

/// Property tests draw the same cases on every run; few, because each starts threads.
pub(super) fn fixed() -> ProptestConfig {
    ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(17), failure_persistence: None, ..ProptestConfig::default() }
}

/// Runs `body` on `size` ranks, each a thread; returns what each returned.
pub(super) fn run<T: Send>(size: usize, body: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
    let world = World { barrier: Barrier::new(size), post: Mutex::new(vec![Vec::new(); size * size]) };
    std::thread::scope(|scope| {
        let start = |rank| {
            let (world, body) = (&world, &body);
            scope.spawn(move || body(&Rank { rank, size, world }))
        };
        let ranks: Vec<_> = (0..size).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
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
    let values = run(ranks, |comm| {
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

/// Letters from every rank to every rank.
struct World {
    barrier: Barrier,
    post: Mutex<Vec<Vec<u8>>>,
}

struct Rank<'a> {
    rank: usize,
    size: usize,
    world: &'a World,
}

impl Rank<'_> {
    fn exchange(&self, letters: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        for (to, letter) in letters.enumerate() {
            self.world.post.lock().unwrap()[self.rank * self.size + to] = letter;
        }
        self.world.barrier.wait();
        let mut post = self.world.post.lock().unwrap();
        let received = (0..self.size).map(|from| std::mem::take(&mut post[from * self.size + self.rank])).collect();
        drop(post);
        self.world.barrier.wait();
        received
    }
}

impl Communicator for Rank<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>> {
        let letters = self.exchange(send.iter().map(|count| count.to_le_bytes().to_vec()));
        Ok(letters.into_iter().map(|letter| u64::from_le_bytes(letter.try_into().unwrap())).collect())
    }

    fn all_to_all_bytes(&self, send: &[u8], counts: &[usize], recv: &mut [u8], expected: &[usize]) -> Result<()> {
        let mut rest = send;
        let letters = self.exchange(counts.iter().map(|&count| {
            let (head, tail) = rest.split_at(count);
            rest = tail;
            head.to_vec()
        }));
        assert_eq!(letters.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        recv.copy_from_slice(&letters.concat());
        Ok(())
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], _: &[usize]) -> Result<()> {
        recv.copy_from_slice(&self.exchange((0..self.size).map(|_| send.to_vec())).concat());
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.world.barrier.wait();
        Ok(())
    }

    fn abort(&self, _: i32, message: &str) -> ! {
        panic!("{message}")
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn backend(&self) -> String {
        "test".to_string()
    }
}
