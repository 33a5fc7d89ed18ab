//! A communicator that also keeps a virtual clock, which each call moves on by the α–β model of a network.

use std::cell::Cell;
use std::rc::Rc;
use tandem::Result;
use tandem::comm::{Comm, Communicator, Traffic, collectives};

/// A network: a message of n bytes takes `alpha + beta · n` seconds.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    pub alpha: f64,
    pub beta: f64,
}

/// What a rank did since it was last asked.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Tally {
    /// Calls that every rank sends a message of its own to every other (counts, all-to-all).
    pub exchanges: u64,
    /// All-gathers.
    pub gathers: u64,
    /// Bytes sent to other ranks.
    pub sent: f64,
}

/// What a rank's calls would take on `network`; the calls themselves are those of `inner`.
pub struct Modelled {
    inner: Comm,
    network: Network,
    clock: Cell<f64>,
    tally: Cell<Tally>,
}

impl Modelled {
    pub fn new(inner: Comm, network: Network) -> Rc<Self> {
        Rc::new(Self { inner, network, clock: Cell::default(), tally: Cell::default() })
    }

    /// Seconds on the virtual clock.
    pub fn clock(&self) -> f64 {
        self.clock.get()
    }

    /// Lets this rank compute for so long.
    pub fn advance(&self, seconds: f64) {
        self.clock.set(self.clock.get() + seconds);
    }

    pub fn take_tally(&self) -> Tally {
        self.tally.take()
    }

    /// A call that all ranks have entered begins when the last one has. Messages of `messages` rounds follow each
    /// other; sending and receiving go on at the same time.
    fn book(&self, messages: usize, sent: usize, received: usize, exchange: bool) -> Result<()> {
        let mut began = [self.clock.get()];
        collectives::all_reduce_max(self.inner.as_ref(), &mut began)?;
        let Network { alpha, beta } = self.network;
        self.clock.set(began[0] + alpha * messages as f64 + beta * sent.max(received) as f64);
        let mut tally = self.tally.get();
        tally.sent += sent as f64;
        *(if exchange { &mut tally.exchanges } else { &mut tally.gathers }) += 1;
        self.tally.set(tally);
        Ok(())
    }

    /// Rounds of a gather by doubling.
    fn doublings(&self) -> usize {
        self.size().next_power_of_two().trailing_zeros() as usize
    }
}

impl Communicator for Modelled {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>> {
        let others = self.size() - 1;
        self.book(others, 8 * others, 8 * others, true)?;
        self.inner.exchange_counts(send)
    }

    fn all_to_all_bytes(&self, send: &[u8], to: &[usize], recv: &mut [u8], from: &[usize]) -> Result<()> {
        let me = self.rank();
        self.book(self.size() - 1, send.len() - to[me], recv.len() - from[me], true)?;
        self.inner.all_to_all_bytes(send, to, recv, from)
    }

    /// By doubling a rank passes on what it got: it sends as much as it receives.
    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], from: &[usize]) -> Result<()> {
        let others = recv.len() - send.len();
        self.book(self.doublings(), others, others, false)?;
        self.inner.all_gather_bytes(send, recv, from)
    }

    fn barrier(&self) -> Result<()> {
        self.book(self.doublings(), 0, 0, false)?;
        self.inner.barrier()
    }

    fn split(&self, color: u32) -> Result<Comm> {
        Ok(Self::new(self.inner.split(color)?, self.network))
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        self.inner.abort(code, message)
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }

    fn backend(&self) -> String {
        format!("modelled {}", self.inner.backend())
    }
}
