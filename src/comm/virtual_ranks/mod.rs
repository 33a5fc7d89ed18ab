//! More ranks than processes: each process runs some *virtual ranks*, as threads, so that there are as many of them whatever
//! the number of processes. How a batch is cut and in which order sums are taken then follows from the job alone, and every
//! number with it (Or et al., *VirtualFlow*, MLSys 2022; Li et al., *EasyScale*, SC 2023).
//!
//! ```text
//!   rank 0   rank 1   rank 2               rank 3   rank 4   rank 5        threads with buckets and lanes of their own
//!      └────────┼────────┘                    └────────┼────────┘          a call begins when all of them have made it
//!         main thread     ◄─── one message ───►   main thread              process 0, process 1
//! ```
//!
//! What goes from one virtual rank to another in the same process is copied. The rest of a call travels in one call of
//! the processes' own communicator, on the main thread, to which MPI belongs.

mod meeting;
#[cfg(test)]
mod tests;

use super::layout::{check_all_gather, check_all_to_all, check_one_each, ranges};
use super::{Comm, Communicator, STOPPED_BY_PANIC, Traffic, print_failure};
use crate::error::{Error, Result};
use meeting::{Answer, Call, Meeting};
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Stack of a virtual rank's thread: that of a usual main thread, since ranks run what `main` would.
const STACK_BYTES: usize = 8 << 20;

/// Runs `body` once on each of `size` virtual ranks, of which this process takes its share with `threads` compute threads,
/// and returns the results of these by rank. Collective: every process of `processes` calls it on its main thread.
///
/// # Errors
/// The first error of a virtual rank of this process, upon which its others end.
///
/// # Panics
/// More processes than virtual ranks.
pub fn run<T: Send>(
    processes: &Comm,
    size: usize,
    threads: usize,
    body: impl Fn(Comm) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    assert!(processes.size() <= size, "{} processes for {size} virtual ranks", processes.size());
    let (share, threads) = (share(processes.rank(), processes.size(), size), threads.max(1));
    // Each computes alone, as far as there are threads for all: threads that share the work of one wait for each other.
    let each = (threads / share.len()).max(1);
    let meeting = Arc::new(Meeting::new(share.clone(), size, threads.div_ceil(each)));
    let backend = format!("virtual, on {} of {}", processes.size(), processes.backend());
    let (body, backend) = (&body, backend.as_str());
    let results = std::thread::scope(|scope| {
        let spawned: Vec<_> = share
            .map(|rank| {
                let rank = VirtualRank {
                    meeting: Arc::clone(&meeting),
                    rank,
                    backend: backend.to_string(),
                    traffic: Cell::default(),
                };
                std::thread::Builder::new()
                    .name(format!("rank {}", rank.rank))
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || run_rank(rank, each, body))
            })
            .collect();
        if let Some(Err(e)) = spawned.iter().find(|thread| thread.is_err()) {
            meeting.fail(Error::internal(format!("a thread for a virtual rank could not be started: {e}")));
        }
        meeting.lead(processes.as_ref());
        let ended = spawned.into_iter().filter_map(|thread| thread.ok()?.join().ok()?);
        ended.collect::<Vec<T>>()
    });
    match meeting.failure() {
        Some(error) => Err(error),
        None => Ok(results),
    }
}

/// The virtual ranks of `process`: consecutive ones, as lanes and buckets are shared out.
fn share(process: usize, processes: usize, size: usize) -> Range<usize> {
    size * process / processes..size * (process + 1) / processes
}

fn run_rank<T>(rank: VirtualRank, threads: usize, body: &(impl Fn(Comm) -> Result<T> + Sync)) -> Option<T> {
    let meeting = Arc::clone(&rank.meeting);
    meeting.take_turn();
    let result = catch_unwind(AssertUnwindSafe(|| {
        // Dropped last: what the body leaves behind may still compute.
        let _pool = own_threads(threads)?;
        body(Rc::new(rank))
    }));
    let result = result.unwrap_or_else(|_| Err(Error::internal(STOPPED_BY_PANIC)));
    meeting.end(result.as_ref().err());
    result.ok()
}

/// Compute threads of the calling thread alone, which is one of them.
fn own_threads(threads: usize) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
    pool.map_err(|e| Error::internal(format!("compute threads cannot be started: {e}")))
}

/// One virtual rank's end.
struct VirtualRank {
    meeting: Arc<Meeting>,
    rank: usize,
    backend: String,
    traffic: Cell<Traffic>,
}

impl VirtualRank {
    /// Makes a call that sends `sent_bytes` to other processes, books it, and returns what all of the process are answered.
    ///
    /// The process's [pulse](crate::pulse) does not see it: while one virtual rank is late, the process waits for nobody.
    fn call(&self, call: Call, sent_bytes: usize) -> Result<Arc<Answer>> {
        let start = Instant::now();
        let answer = self.meeting.call(self.rank, call);
        let mut traffic = self.traffic.get();
        traffic.sent_bytes += sent_bytes as u64;
        traffic.calls += 1;
        traffic.seconds += start.elapsed().as_secs_f64();
        self.traffic.set(traffic);
        answer
    }

    /// Sends and receives letters, and gives each to `read` with its sender.
    fn letters(
        &self,
        send: &[u8],
        counts: &[usize],
        expected: &[usize],
        mut read: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        let away = |range: Range<usize>| counts[range].iter().sum::<usize>();
        let here = self.meeting.here();
        let sent_bytes = away(0..here.start) + away(here.end..self.size());
        let call = Call::Letters { bytes: send.to_vec(), to: ranges(counts), expected: expected.to_vec() };
        let answer = self.call(call, sent_bytes)?;
        for (from, &expected) in expected.iter().enumerate() {
            let letter = answer.letter(from, self.rank);
            if letter.len() != expected {
                let (rank, sent) = (self.rank, letter.len());
                return Err(Error::internal(format!(
                    "rank {from} sent {sent} bytes to rank {rank}, which expected {expected}"
                )));
            }
            read(from, letter);
        }
        Ok(())
    }
}

impl Communicator for VirtualRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size()
    }

    fn in_process(&self) -> usize {
        self.meeting.here().len()
    }

    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>> {
        const WORD: usize = size_of::<u64>();
        check_one_each("exchange_counts", self.size(), send.len())?;
        let mut received = vec![0u64; self.size()];
        let each = vec![WORD; self.size()];
        self.letters(bytemuck::cast_slice(send), &each, &each, |from, letter| {
            bytemuck::bytes_of_mut(&mut received[from]).copy_from_slice(letter);
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
        let places = ranges(recv_counts);
        self.letters(send, send_counts, recv_counts, |from, letter| {
            recv[places[from].clone()].copy_from_slice(letter);
        })
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], recv_counts: &[usize]) -> Result<()> {
        check_all_gather(self, send, recv, recv_counts)?;
        let away = self.size() - self.in_process();
        let call = Call::Gather { bytes: send.to_vec(), counts: recv_counts.to_vec() };
        recv.copy_from_slice(self.call(call, send.len() * away)?.gathered());
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.call(Call::Barrier, 0).map(|_| ())
    }

    fn split(&self, _: u32) -> Result<Comm> {
        Err(Error::internal("virtual ranks form no groups"))
    }

    /// Prints the message and ends this rank by unwinding, upon which [`run`] fails.
    fn abort(&self, _: i32, message: &str) -> ! {
        if !message.is_empty() {
            print_failure(&format!("rank {}", self.rank), message);
        }
        resume_unwind(Box::new(()))
    }

    fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    fn backend(&self) -> String {
        self.backend.clone()
    }
}
