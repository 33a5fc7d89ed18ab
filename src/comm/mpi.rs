//! The cluster's MPI, through rsmpi.
//!
//! **Threads.** MPI is initialised for one calling thread (`MPI_THREAD_FUNNELED`); [`Comm`] is not `Send`,
//! so all calls stay on the thread that called [`Session::start`].
//!
//! **Large messages.** MPI counts and displacements are C ints, so a piece of 2 GiB or more cannot be
//! sent, and neither can a small piece that lies 2 GiB into a buffer. No rank sees all the counts of an
//! all-to-all, and agreeing on a number of rounds would cost one more collective in every call. It is not
//! needed: both ends of a *pair* know their count, so they choose alike without a word:
//!
//! * a message of at most `limit` bytes goes through one `MPI_Alltoallv` that every rank calls, where
//!   `limit = min(chunk, (2³¹ − 1) / size)`, so that all of them together stay below 2 GiB (a rank with no
//!   longer message, the usual case, hands MPI its own buffers; otherwise the short ones are packed first);
//! * a longer message goes from its sender straight to its receiver afterwards, in chunks. Rank `r` sends to
//!   `r + 1, r + 2, …` and receives from `r − 1, r − 2, …`; both ends of a chunk see it at the same place
//!   (shift, chunk) of that order, so the earliest chunk that is not done can always proceed: no deadlock.
//!
//! All ranks know all counts of an all-gather, so there the number of rounds is simply computed. An exchange that is only begun
//! is one `MPI_Ialltoallv` of the short messages; the long ones follow when it is finished.
//!
//! **Failure.** rsmpi offers no recovery, and finalising while another rank waits in a collective hangs
//! the job. So a failing rank never finalises: [`Communicator::abort`] ends the whole job, and so does a
//! panic on the main thread. Only [`Session::finish`] finalises, after success.

mod travelling;

use super::layout::{bytes_of, c_layout, check_all_gather, check_all_to_all, check_one_each, ranges, unpack};
use super::meter::Meter;
use super::{Begun, Comm, Communicator, STOPPED_BY_PANIC, Traffic, print_failure};
use crate::error::{Error, Result};
use crate::guard;
use ::mpi::datatype::{Partition, PartitionMut};
use ::mpi::environment::{Threading, Universe};
use ::mpi::topology::{Color, Communicator as _, SimpleCommunicator};
use ::mpi::traits::{CommunicatorCollectives, Destination, Source};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;
pub use travelling::Travelling;

/// How long `MPI_Init` may take before the user is told where the job hangs.
const SLOW_START: Duration = Duration::from_secs(60);

/// MPI from initialisation to finalisation. Dropping it without [`finish`](Self::finish) leaves MPI
/// running, because finalising would wait for ranks that may have failed.
pub struct Session {
    universe: ManuallyDrop<Universe>,
    comm: Rc<Mpi>,
}

impl Session {
    /// Initialises MPI and makes a panic on this thread end the whole job. `chunk_bytes` must be the same
    /// on every rank.
    ///
    /// # Errors
    /// If MPI was initialised before in this process, or is not able to run beside other threads.
    pub fn start(chunk_bytes: usize) -> Result<Self> {
        let (started, watch) = mpsc::channel();
        std::thread::spawn(move || warn_if_slow(&watch));
        let universe = ::mpi::initialize_with_threading(Threading::Funneled);
        drop(started);
        let (universe, level) = universe.ok_or_else(|| Error::internal("MPI was already initialised"))?;
        let universe = ManuallyDrop::new(universe);
        if level < Threading::Funneled {
            return Err(Error::comm(format!("the MPI library supports only threading level {level:?}"))
                .fix("use an MPI library built with thread support (MPI_THREAD_FUNNELED)"));
        }
        let comm = Rc::new(Mpi::new(universe.world(), chunk_bytes, Rc::default()));
        abort_on_panic(comm.label());
        Ok(Self { universe, comm })
    }

    /// The communicator of all ranks.
    pub fn comm(&self) -> Comm {
        Rc::clone(&self.comm) as Comm
    }

    /// Finalises MPI after success. Collective; no communicator may be used afterwards.
    pub fn finish(self) {
        drop(ManuallyDrop::into_inner(self.universe));
    }
}

/// Tells the user about a start that hangs; returns when the other end is dropped.
fn warn_if_slow(started: &mpsc::Receiver<()>) {
    if started.recv_timeout(SLOW_START) == Err(mpsc::RecvTimeoutError::Timeout) {
        let waited_s = SLOW_START.as_secs();
        print_failure(
            "warning",
            &format!(
                "still waiting in MPI_Init after {waited_s} s: check that all nodes can reach each other, and \
                 that `mpirun -n 2 hostname` works on them"
            ),
        );
    }
}

/// A panic on the main thread ends the job, before unwinding can block in a destructor. A panic on a
/// worker thread is printed, and reaches the main thread by unwinding or as an error when the worker is
/// joined. A [guarded](guard) one is an error already.
fn abort_on_panic(label: String) {
    let main = std::thread::current().id();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if guard::is_active() {
            return;
        }
        print(panic);
        if std::thread::current().id() == main {
            end_job(&label, 1, STOPPED_BY_PANIC);
        }
    }));
}

/// How long the launcher has for reading what ranks have printed, before the job ends: MPICH's drops what is left then.
const LAUNCHER_READS: std::time::Duration = std::time::Duration::from_millis(200);

fn end_job(label: &str, code: i32, message: &str) -> ! {
    if !message.is_empty() {
        print_failure(label, message);
    }
    std::thread::sleep(LAUNCHER_READS);
    // `mpirun` would take 0 for success.
    SimpleCommunicator::world().abort(if code == 0 { 1 } else { code })
}

/// The world of all ranks.
struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    size: usize,
    /// Largest piece of a message that goes straight from rank to rank.
    chunk_bytes: usize,
    /// Largest message that travels with the collective call.
    limit_bytes: usize,
    /// Of this rank, shared with the groups that it is in.
    meter: Rc<Meter>,
}

impl Mpi {
    fn new(world: SimpleCommunicator, chunk_bytes: usize, meter: Rc<Meter>) -> Self {
        // MPI ranks and sizes are C ints that are never negative.
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        let largest = i32::MAX as usize;
        let chunk_bytes = chunk_bytes.clamp(1, largest);
        let limit_bytes = chunk_bytes.min(largest / size);
        Self { world, rank, size, chunk_bytes, limit_bytes, meter }
    }

    /// Who speaks in a message of failure.
    fn label(&self) -> String {
        if self.size > 1 { format!("rank {}", self.rank) } else { "error".to_string() }
    }

    /// `MPI_Alltoallv` of whole buffers, which must be shorter than 2 GiB.
    fn exchange_whole(&self, send: &[u8], send_counts: &[usize], recv: &mut [u8], recv_counts: &[usize]) -> Result<()> {
        let (counts, starts) = c_layout(send_counts)?;
        let from = Partition::new(addressable(send), counts, starts);
        let (counts, starts) = c_layout(recv_counts)?;
        let mut spare = [0u8; 1];
        let mut to = PartitionMut::new(addressable_mut(recv, &mut spare), counts, starts);
        self.world.all_to_all_varcount_into(&from, &mut to);
        Ok(())
    }

    /// The messages between ranks that are short enough, packed; the others count as empty here.
    fn exchange_short(
        &self,
        send: &[u8],
        send_at: &[Range<usize>],
        recv: &mut [u8],
        recv_at: &[Range<usize>],
    ) -> Result<()> {
        let (send_counts, recv_counts) = (self.short(send_at), self.short(recv_at));
        let packed = packed(send, send_at, &send_counts);
        let mut incoming = vec![0u8; recv_counts.iter().sum()];
        self.exchange_whole(&packed, &send_counts, &mut incoming, &recv_counts)?;
        unpack(&incoming, recv, recv_at.iter().map(|at| at.start).zip(recv_counts));
        Ok(())
    }

    /// How much of each message goes with the collective call: all of it or nothing.
    fn short(&self, all: &[Range<usize>]) -> Vec<usize> {
        let travels = |r: usize, at: &Range<usize>| r != self.rank && at.len() <= self.limit_bytes;
        all.iter().enumerate().map(|(r, at)| if travels(r, at) { at.len() } else { 0 }).collect()
    }

    /// Messages too long for [`exchange_short`](Self::exchange_short), chunk by chunk.
    fn exchange_long(&self, send: &[u8], send_at: &[Range<usize>], recv: &mut [u8], recv_at: &[Range<usize>]) {
        let is_long = |at: &Range<usize>| at.len() > self.limit_bytes;
        for shift in 1..self.size {
            let to = (self.rank + shift) % self.size;
            let from = (self.rank + self.size - shift) % self.size;
            let mut outgoing =
                Some(&send_at[to]).filter(|at| is_long(at)).map(|at| send[at.clone()].chunks(self.chunk_bytes));
            let mut incoming =
                Some(&recv_at[from]).filter(|at| is_long(at)).map(|at| recv[at.clone()].chunks_mut(self.chunk_bytes));
            loop {
                let (out, into) =
                    (outgoing.as_mut().and_then(Iterator::next), incoming.as_mut().and_then(Iterator::next));
                if out.is_none() && into.is_none() {
                    break;
                }
                self.send_and_receive(out, to, into, from);
            }
        }
    }

    /// One chunk out and one in, at the same time; either may be absent.
    fn send_and_receive(&self, out: Option<&[u8]>, to: usize, into: Option<&mut [u8]>, from: usize) {
        ::mpi::request::scope(|scope| {
            let receiving =
                into.map(|chunk| self.world.process_at_rank(from as i32).immediate_receive_into(scope, chunk));
            let sending = out.map(|chunk| self.world.process_at_rank(to as i32).immediate_send(scope, chunk));
            if let Some(request) = sending {
                request.wait_without_status();
            }
            if let Some(request) = receiving {
                request.wait_without_status();
            }
        });
    }

    /// One `MPI_Allgatherv`, of at most `limit_bytes` a rank.
    fn gather_once(&self, send: &[u8], recv: &mut [u8], recv_counts: &[usize]) -> Result<()> {
        let (counts, starts) = c_layout(recv_counts)?;
        let mut spare = [0u8; 1];
        let mut to = PartitionMut::new(addressable_mut(recv, &mut spare), counts, starts);
        self.world.all_gather_varcount_into(addressable(send), &mut to);
        Ok(())
    }

    /// An all-gather in rounds of at most `limit_bytes` a rank.
    fn gather_in_rounds(&self, send: &[u8], recv: &mut [u8], recv_at: &[Range<usize>]) -> Result<()> {
        let longest = recv_at.iter().map(Range::len).max().unwrap_or(0);
        for start in (0..longest).step_by(self.limit_bytes) {
            let piece = |len: usize| start.min(len)..(start + self.limit_bytes).min(len);
            let counts: Vec<usize> = recv_at.iter().map(|at| piece(at.len()).len()).collect();
            let mut incoming = vec![0u8; counts.iter().sum()];
            self.gather_once(&send[piece(send.len())], &mut incoming, &counts)?;
            unpack(&incoming, recv, recv_at.iter().map(|at| at.start + piece(at.len()).start).zip(counts));
        }
        Ok(())
    }
}

/// The first `counts[r]` bytes of each message, one after the other.
fn packed(send: &[u8], send_at: &[Range<usize>], counts: &[usize]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(counts.iter().sum());
    for (at, &count) in send_at.iter().zip(counts) {
        packed.extend_from_slice(&send[at.start..at.start + count]);
    }
    packed
}

/// `buffer`, at an address that MPI takes for one. An empty slice of bytes usually points to address 1,
/// and that is how Open MPI spells `MPI_IN_PLACE`: another collective altogether.
fn addressable(buffer: &[u8]) -> &[u8] {
    static SPARE: [u8; 1] = [0];
    if buffer.is_empty() { &SPARE[..0] } else { buffer }
}

/// [`addressable`], for a buffer to fill.
fn addressable_mut<'a>(buffer: &'a mut [u8], spare: &'a mut [u8; 1]) -> &'a mut [u8] {
    if buffer.is_empty() { &mut spare[..0] } else { buffer }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>> {
        check_one_each("exchange_counts", self.size, send.len())?;
        self.meter.call(size_of::<u64>() * (self.size - 1), || {
            let mut received = vec![0u64; self.size];
            self.world.all_to_all_into(send, received.as_mut_slice());
            Ok(received)
        })
    }

    fn all_to_all_bytes(
        &self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<()> {
        check_all_to_all(self, send, send_counts, recv, recv_counts)?;
        let fits = |counts: &[usize]| counts.iter().all(|&count| count <= self.limit_bytes);
        self.meter.call(send.len() - send_counts[self.rank], || {
            if fits(send_counts) && fits(recv_counts) {
                return self.exchange_whole(send, send_counts, recv, recv_counts);
            }
            let (send_at, recv_at) = (ranges(send_counts), ranges(recv_counts));
            recv[recv_at[self.rank].clone()].copy_from_slice(&send[send_at[self.rank].clone()]);
            self.exchange_short(send, &send_at, recv, &recv_at)?;
            self.exchange_long(send, &send_at, recv, &recv_at);
            Ok(())
        })
    }

    fn begin_words(&self, send: &[u64], send_counts: &[usize], recv_counts: &[usize]) -> Result<Begun> {
        let received = vec![0u64; recv_counts.iter().sum()];
        let (send_counts, recv_counts) = (bytes_of(send_counts), bytes_of(recv_counts));
        let (out, into) = (bytemuck::cast_slice(send), bytemuck::cast_slice(&received));
        check_all_to_all(self, out, &send_counts, into, &recv_counts)?;
        let sent = size_of_val(send) - send_counts[self.rank];
        let at = (ranges(&send_counts), ranges(&recv_counts));
        let travelling = self.meter.call(sent, || self.begin(send, received, at))?;
        Ok(Begun::Mpi(Box::new(travelling)))
    }

    fn finish_words(&self, begun: Begun) -> Result<Vec<u64>> {
        match begun {
            Begun::Done(received) => Ok(received),
            Begun::Mpi(travelling) => self.meter.call(0, || Ok(self.finish(*travelling))),
        }
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], recv_counts: &[usize]) -> Result<()> {
        check_all_gather(self, send, recv, recv_counts)?;
        self.meter.call(send.len() * (self.size - 1), || {
            if recv_counts.iter().all(|&count| count <= self.limit_bytes) {
                self.gather_once(send, recv, recv_counts)
            } else {
                self.gather_in_rounds(send, recv, &ranges(recv_counts))
            }
        })
    }

    fn barrier(&self) -> Result<()> {
        self.meter.call(0, || {
            self.world.barrier();
            Ok(())
        })
    }

    fn split(&self, color: u32) -> Result<Comm> {
        let value = i32::try_from(color).map_err(|_| Error::internal(format!("MPI has no color {color}")))?;
        let group = self.meter.call(0, || Ok(self.world.split_by_color(Color::with_value(value))))?;
        let group = group.ok_or_else(|| Error::comm(format!("MPI made no group of color {color}")))?;
        let group = Rc::new(Mpi::new(group, self.chunk_bytes, Rc::clone(&self.meter)));
        // Never freed: that is collective, and a rank that leaves with an error would wait in it for the others.
        std::mem::forget(Rc::clone(&group));
        Ok(group)
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        end_job(&self.label(), code, message)
    }

    fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    fn backend(&self) -> String {
        let library = ::mpi::environment::library_version().unwrap_or_default();
        // The first sentence names the library and its version; what follows is about its build.
        let name = library.split([',', '\n', '\0']).next().unwrap_or_default().trim();
        format!("mpi ({})", if name.is_empty() { "unknown library" } else { name })
    }
}
