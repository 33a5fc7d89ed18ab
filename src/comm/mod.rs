//! Communication between ranks: one trait, three backends.
//!
//! A backend supplies three primitives on bytes (a count exchange, an all-to-all and an all-gather);
//! everything else is built from them in [`collectives`], so that sums are taken in rank order and
//! give the same bits on every rank, with every backend.
//!
//! * `mpi`: the cluster's MPI, through rsmpi (feature `mpi`).
//! * [`threads`]: ranks as threads of one process under a seeded scheduler, for tests.
//! * [`solo`]: one rank, no transport.
//!
//! On each of them a process can run several [virtual ranks](virtual_ranks).
//!
//! [`launch`] picks the backend and turns a failure on any rank into one message and one exit code; [`same`] compares
//! what the ranks were started with.
//! [`selftest`] asks every collective for a known answer.

pub mod collectives;
pub mod launch;
mod layout;
mod meter;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod same;
pub mod selftest;
pub mod solo;
pub mod threads;
pub mod virtual_ranks;
mod wire;

pub use wire::WireFormat;

use crate::error::Result;
use crate::observe::json_line::json_line;
use layout::bytes_of;
use std::io::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How the rest of tandem holds a communicator. Not `Send`: all calls stay on the rank's main thread,
/// because MPI is initialised for one calling thread.
pub type Comm = Rc<dyn Communicator>;

/// Bytes moved and time spent by this rank since start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Traffic {
    /// Bytes sent to other ranks (not to itself).
    pub sent_bytes: u64,
    /// Number of collective calls.
    pub calls: u64,
    /// Seconds inside collective calls, waiting included.
    pub seconds: f64,
}

/// An exchange that was [begun](Communicator::begin_words). Dropping it leaves it to itself, for a rank that fails may not
/// wait for others.
pub enum Begun {
    /// It is done: what was received.
    Done(Vec<u64>),
    /// MPI is at it.
    #[cfg(feature = "mpi")]
    Mpi(Box<mpi::Travelling>),
}

/// A group of ranks that call the same collectives in the same order.
///
/// Every method is collective: all ranks must call it. A failed rank makes the others return an
/// error (`threads`) or ends the whole job (`mpi`); none waits for ever.
pub trait Communicator {
    /// This rank, in `0..size()`.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Ranks that share this process's memory and threads: more than one where they are [virtual](virtual_ranks).
    fn in_process(&self) -> usize {
        1
    }

    /// Sends `send[r]` to rank `r`; returns what each rank sent here, by rank. `send.len() == size()`.
    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>>;

    /// Sends consecutive pieces of `send` (of `send_counts[r]` bytes to rank `r`) and fills `recv`
    /// with consecutive pieces of `recv_counts[r]` bytes from rank `r`. Counts must agree between
    /// sender and receiver; messages of any size are chunked by the backend.
    fn all_to_all_bytes(
        &self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<()>;

    /// Begins an all-to-all of words, consecutive pieces of `send` as in [`all_to_all_bytes`](Self::all_to_all_bytes), that may
    /// travel while this rank computes and makes other calls. [`finish_words`](Self::finish_words), which every rank must
    /// call too, gives what was received. Backends on which nothing travels by itself do it at once.
    fn begin_words(&self, send: &[u64], send_counts: &[usize], recv_counts: &[usize]) -> Result<Begun> {
        let mut received = vec![0u64; recv_counts.iter().sum()];
        let into = bytemuck::cast_slice_mut(&mut received);
        self.all_to_all_bytes(bytemuck::cast_slice(send), &bytes_of(send_counts), into, &bytes_of(recv_counts))?;
        Ok(Begun::Done(received))
    }

    /// Waits for what [`begin_words`](Self::begin_words) began.
    fn finish_words(&self, begun: Begun) -> Result<Vec<u64>> {
        match begun {
            Begun::Done(received) => Ok(received),
            #[cfg(feature = "mpi")]
            Begun::Mpi(_) => Err(crate::error::Error::internal("an exchange is finished where it was not begun")),
        }
    }

    /// Concatenates every rank's `send` in rank order into `recv`; `recv_counts[r]` is the number of
    /// bytes rank `r` sends.
    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], recv_counts: &[usize]) -> Result<()>;

    /// Returns once every rank has called it.
    fn barrier(&self) -> Result<()>;

    /// The group of the ranks that gave the same `color`, numbered in the order of their ranks here. Groups work
    /// independently of each other; what a rank moves in its group counts in its [`traffic`](Self::traffic) here too.
    fn split(&self, color: u32) -> Result<Comm>;

    /// Ends the whole job with `code`, from any rank, without waiting for the others. `mpi` and `solo`
    /// print the message (unless it is empty) to stderr and end the process; `threads` wakes the other
    /// ranks and unwinds this one.
    fn abort(&self, code: i32, message: &str) -> !;

    /// What this rank has moved so far.
    fn traffic(&self) -> Traffic;

    /// `mpi (Open MPI v4.1.4)`, `threads`, `solo`: for the start-up banner.
    fn backend(&self) -> String;
}

/// What is said after a panic.
const STOPPED_BY_PANIC: &str = "stopped by the panic above, a bug in tandem";

/// Whether failures are said as JSON, like the rest of the log.
static FAILURES_AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on failures are written as JSON objects, one a line.
pub fn say_failures_as_json() {
    FAILURES_AS_JSON.store(true, Ordering::Relaxed);
}

/// Writes one message to stderr in one piece, so that the lines of two ranks do not mix. A closed stderr
/// is no reason to fail a second time.
fn print_failure(label: &str, message: &str) {
    let line = match FAILURES_AS_JSON.load(Ordering::Relaxed) {
        false => format!("{label}: {message}\n"),
        true => {
            let from = serde_json::Map::from_iter([("from".to_string(), label.into())]);
            json_line("ERROR", message, from)
        }
    };
    let _ = std::io::stderr().write_all(line.as_bytes());
}
