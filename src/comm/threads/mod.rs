//! Ranks as threads of one process, under a seeded scheduler: distributed logic under plain `cargo test`.
//!
//! Every collective is one letter from each rank to each rank. The scheduler can hold letters back,
//! deliver them in another order, and end a rank in the middle of the job, all as a function of a seed.
//! What a real transport would turn into a hang (a rank that failed, left early or called another
//! collective) is an error on every rank here:
//!
//! ```
//! use tandem::comm::{collectives, threads};
//! let sums = threads::run(3, threads::Options::default(), |comm| {
//!     let mut values = [comm.rank() as u64];
//!     collectives::all_reduce_sum(comm.as_ref(), &mut values)?;
//!     Ok(values[0])
//! });
//! assert!(sums.into_iter().all(|sum| sum.is_ok_and(|s| s == 3)));
//! ```

#[cfg(test)]
mod tests;
mod world;

use super::layout::{check_all_gather, check_all_to_all, check_one_each, ranges};
use super::meter::Meter;
use super::{Comm, Communicator, Traffic, collectives};
use crate::error::{Error, Result};
use crate::random;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use world::{Letter, Op, World};

/// Stack of a rank's thread: that of a usual main thread, since ranks run what `main` would.
const STACK_BYTES: usize = 8 << 20;

/// What the scheduler does to the ranks. The default does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Chooses the delays and the order of delivery.
    pub seed: u64,
    /// Upper bound of the random pause before each letter; 0 is no pause.
    pub max_delay_us: u64,
    /// Delivers the letters of a call in random order.
    pub reorder: bool,
    /// Ends one rank in the middle of the job.
    pub crash: Option<Crash>,
}

impl Options {
    /// Random delays and order under `seed`.
    pub fn unruly(seed: u64) -> Self {
        Self { seed, max_delay_us: 200, reorder: true, crash: None }
    }
}

/// Ends `rank` instead of its collective call number `call` (the first is 0).
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    pub rank: usize,
    pub call: u64,
}

/// Runs `body` once on each of `size` ranks and returns their results by rank.
///
/// When a rank returns an error, panics or crashes, the collectives that it did not reach fail on all other
/// ranks with `rank r failed: …`, so every rank ends.
pub fn run<T: Send>(size: usize, options: Options, body: impl Fn(Comm) -> Result<T> + Sync) -> Vec<Result<T>> {
    assert!(size > 0, "a world has at least one rank");
    let world = Arc::new(World::new(size));
    let body = &body;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let world = Arc::clone(&world);
                std::thread::Builder::new()
                    .name(format!("rank {rank}"))
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || run_rank(&world, rank, options, body))
                    .unwrap_or_else(|e| panic!("a thread for rank {rank} could not be started: {e}"))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| Err(Error::comm(text_of(panic))))).collect()
    })
}

/// [`run`] for the tests of other modules: what each rank returned, where none may fail.
#[cfg(test)]
pub(crate) fn ranks<T: Send>(size: usize, body: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
    let options = Options { seed: size as u64, reorder: true, ..Options::default() };
    let results = run(size, options, |comm| Ok(body(comm.as_ref())));
    results.into_iter().map(|result| result.unwrap_or_else(|error| panic!("{error}"))).collect()
}

fn run_rank<T>(
    world: &Arc<World>,
    rank: usize,
    options: Options,
    body: &(impl Fn(Comm) -> Result<T> + Sync),
) -> Result<T> {
    let threads = Rc::new(Threads::new(Arc::clone(world), rank, options));
    let comm = Rc::clone(&threads) as Comm;
    let result = catch_unwind(AssertUnwindSafe(|| body(comm))).unwrap_or_else(|panic| Err(Error::comm(text_of(panic))));
    threads.end(result.as_ref().err());
    result
}

/// The message of a panic.
fn text_of(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast_ref::<&str>() {
            Some(text) => (*text).to_string(),
            None => "panicked".to_string(),
        },
    }
}

/// One rank's end of the world.
struct Threads {
    world: Arc<World>,
    rank: usize,
    options: Options,
    /// Collective calls whose letters this rank has posted.
    calls: Cell<u64>,
    random: RefCell<ChaCha8Rng>,
    /// Of this rank, shared with the groups that it is in.
    meter: Rc<Meter>,
    groups: RefCell<Vec<Rc<Threads>>>,
}

impl Threads {
    fn new(world: Arc<World>, rank: usize, options: Options) -> Self {
        let random = RefCell::new(random::stream(options.seed, &[rank as u64]));
        Self { world, rank, options, calls: Cell::new(0), random, meter: Rc::default(), groups: RefCell::default() }
    }

    /// Says, here and in the groups, that this rank takes part in no further call.
    fn end(&self, error: Option<&Error>) {
        if let Some(error) = error {
            self.world.fail(format!("rank {} failed: {error}", self.rank));
        }
        self.world.stop(self.rank, self.calls.get());
        self.groups.borrow().iter().for_each(|group| group.end(error));
    }

    /// One collective: a letter to every rank (`outgoing`), and one from every rank (`incoming`).
    fn exchange(
        &self,
        op: Op,
        outgoing: impl Fn(usize) -> Arc<[u8]>,
        mut incoming: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let call = self.calls.get();
        if self.options.crash.is_some_and(|crash| crash.rank == self.rank && crash.call == call) {
            // Unwinding without the panic hook: a planned crash should not look like a bug in the output.
            resume_unwind(Box::new(format!("crashed at collective call {call}, as the scheduler was told")));
        }
        for to in self.delivery_order() {
            self.pause();
            self.world.post(self.rank, to, Letter { call, op, bytes: outgoing(to) });
        }
        self.calls.set(call + 1);
        for from in 0..self.world.size() {
            let letter = self.world.take(self.rank, from, call, op)?;
            incoming(from, &letter)?;
        }
        Ok(())
    }

    fn delivery_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.world.size()).collect();
        if self.options.reorder {
            order.shuffle(&mut *self.random.borrow_mut());
        }
        order
    }

    fn pause(&self) {
        if self.options.max_delay_us == 0 {
            return;
        }
        match self.random.borrow_mut().random_range(0..=self.options.max_delay_us) {
            0 => std::thread::yield_now(),
            us => std::thread::sleep(Duration::from_micros(us)),
        }
    }

    /// Fails the world over a letter whose length is not the one expected.
    fn wrong_length(&self, op: Op, from: usize, sent: usize, expected: usize) -> Error {
        let (rank, call) = (self.rank, self.calls.get() - 1);
        self.world.fail(format!(
            "mismatched {op} at collective call {call}: rank {from} sent {sent} bytes to rank {rank}, \
             which expected {expected}"
        ))
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.world.size()
    }

    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>> {
        check_one_each("exchange_counts", self.size(), send.len())?;
        let mut received = vec![0u64; self.size()];
        self.meter.call(size_of::<u64>() * (self.size() - 1), || {
            self.exchange(
                Op::ExchangeCounts,
                |to| Arc::from(send[to].to_ne_bytes()),
                |from, bytes| {
                    let word =
                        bytes.try_into().map_err(|_| self.wrong_length(Op::ExchangeCounts, from, bytes.len(), 8));
                    received[from] = u64::from_ne_bytes(word?);
                    Ok(())
                },
            )
        })?;
        Ok(received)
    }

    fn all_to_all_bytes(
        &self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<()> {
        check_all_to_all(self, send, send_counts, recv, recv_counts)?;
        let pieces = ranges(send_counts);
        let mut rest = recv;
        self.meter.call(send.len() - send_counts[self.rank], || {
            self.exchange(
                Op::AllToAll,
                |to| Arc::from(&send[pieces[to].clone()]),
                |from, bytes| self.append(Op::AllToAll, from, bytes, recv_counts[from], &mut rest),
            )
        })
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], recv_counts: &[usize]) -> Result<()> {
        check_all_gather(self, send, recv, recv_counts)?;
        let letter: Arc<[u8]> = Arc::from(send);
        let mut rest = recv;
        self.meter.call(send.len() * (self.size() - 1), || {
            self.exchange(
                Op::AllGather,
                |_| Arc::clone(&letter),
                |from, bytes| self.append(Op::AllGather, from, bytes, recv_counts[from], &mut rest),
            )
        })
    }

    fn barrier(&self) -> Result<()> {
        self.meter.call(0, || self.exchange(Op::Barrier, |_| Arc::from([]), |_, _| Ok(())))
    }

    fn split(&self, color: u32) -> Result<Comm> {
        let mut colors = vec![0u32; self.size()];
        collectives::all_gather_into(self, &[color], &mut colors)?;
        let members: Vec<usize> = (0..self.size()).filter(|&rank| colors[rank] == color).collect();
        let rank = members.iter().position(|&member| member == self.rank).unwrap_or(0);
        let world = self.world.group((self.calls.get(), color), members.len());
        // A crash is planned for a call of the whole world.
        let options = Options { crash: None, ..self.options };
        let group = Rc::new(Threads { meter: Rc::clone(&self.meter), ..Threads::new(world, rank, options) });
        self.groups.borrow_mut().push(Rc::clone(&group));
        Ok(group)
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        resume_unwind(Box::new(format!("aborted with code {code}: {message}")))
    }

    fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    fn backend(&self) -> String {
        "threads".to_string()
    }
}

impl Threads {
    /// Copies a letter to the front of `rest` and moves `rest` behind it. Letters come in rank order.
    fn append(&self, op: Op, from: usize, bytes: &[u8], expected: usize, rest: &mut &mut [u8]) -> Result<()> {
        if bytes.len() != expected {
            return Err(self.wrong_length(op, from, bytes.len(), expected));
        }
        let (head, tail) = std::mem::take(rest).split_at_mut(expected);
        head.copy_from_slice(bytes);
        *rest = tail;
        Ok(())
    }
}
