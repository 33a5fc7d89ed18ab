//! Asks every collective for an answer that each rank can work out alone.
//!
//! What rank `a` sends rank `b` is a pure function of (seed, a, b), so a rank knows all that it must
//! receive. The same check runs on every backend: threads and solo under `cargo test`, MPI under
//! `mpirun`, and on a cluster when the network itself is in doubt.

use super::{Communicator, WireFormat, collectives};
use crate::error::{Error, Result};
use crate::random;

/// Runs every collective once, with message lengths from 0 to `max_len` drawn under `seed`. Collective.
///
/// # Errors
/// [`Kind::Comm`](crate::error::Kind::Comm) if an answer is wrong, naming the collective.
pub fn check(comm: &dyn Communicator, seed: u64, max_len: usize) -> Result<()> {
    check_whole(comm, seed, max_len)?;
    check_groups(comm)?;
    comm.barrier()
}

/// [`check`] without groups.
pub(super) fn check_whole(comm: &dyn Communicator, seed: u64, max_len: usize) -> Result<()> {
    let plan = Plan { seed, max_len, rank: comm.rank(), size: comm.size() };
    check_exchange_counts(comm, &plan)?;
    check_all_to_all(comm, &plan)?;
    check_begun(comm, &plan)?;
    check_all_gather(comm, &plan)?;
    check_sums(comm, &plan)?;
    check_messages(comm, &plan)?;
    check_agree(comm, &plan)
}

/// Everything that any rank sends, as pure functions.
struct Plan {
    seed: u64,
    max_len: usize,
    rank: usize,
    size: usize,
}

impl Plan {
    /// How many elements rank `from` sends rank `to`; a third of the messages are empty.
    fn len(&self, from: usize, to: usize) -> usize {
        let draw = random::hash(self.seed, &[1, from as u64, to as u64]);
        if draw.is_multiple_of(3) { 0 } else { (draw >> 8) as usize % (self.max_len + 1) }
    }

    /// The elements that rank `from` sends rank `to`.
    fn payload(&self, from: usize, to: usize) -> Vec<u32> {
        let element = |i: usize| random::hash(self.seed, &[2, from as u64, to as u64, i as u64]) as u32;
        (0..self.len(from, to)).map(element).collect()
    }

    /// `max_len` numbers of rank `rank`, of mixed magnitude so that the order of a sum shows in its bits.
    fn numbers(&self, rank: usize, part: u64) -> Vec<f32> {
        let number = |i: usize| {
            let key = [3, rank as u64, part, i as u64];
            ((random::unit(self.seed, &key) - 0.5) * 10f64.powi((random::hash(self.seed, &key) % 12) as i32)) as f32
        };
        (0..self.max_len).map(number).collect()
    }

    /// `numbers(0) + numbers(1) + …`, added in rank order.
    fn sum(&self, part: u64) -> Vec<f32> {
        (1..self.size).fold(self.numbers(0, part), |sum, rank| {
            sum.iter().zip(self.numbers(rank, part)).map(|(a, b)| a + b).collect()
        })
    }

    fn ranks(&self) -> std::ops::Range<usize> {
        0..self.size
    }
}

fn expect(what: &str, correct: bool) -> Result<()> {
    if correct {
        return Ok(());
    }
    Err(Error::comm(format!("{what} gave a wrong answer"))
        .fix("the MPI library or the network damages messages: try another MPI library or transport"))
}

/// Exact equality of floats, NaN and the sign of zero included.
fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

fn check_exchange_counts(comm: &dyn Communicator, plan: &Plan) -> Result<()> {
    let word = |from: usize, to: usize| random::hash(plan.seed, &[4, from as u64, to as u64]);
    let send: Vec<u64> = plan.ranks().map(|to| word(plan.rank, to)).collect();
    let received = comm.exchange_counts(&send)?;
    expect("exchange_counts", plan.ranks().all(|from| received[from] == word(from, plan.rank)))
}

fn check_all_to_all(comm: &dyn Communicator, plan: &Plan) -> Result<()> {
    let send: Vec<u32> = plan.ranks().flat_map(|to| plan.payload(plan.rank, to)).collect();
    let counts: Vec<usize> = plan.ranks().map(|to| plan.len(plan.rank, to)).collect();
    let expected: Vec<u32> = plan.ranks().flat_map(|from| plan.payload(from, plan.rank)).collect();
    let expected_counts: Vec<usize> = plan.ranks().map(|from| plan.len(from, plan.rank)).collect();

    let (received, received_counts) = collectives::all_to_all(comm, &send, &counts)?;
    expect("all_to_all", received == expected && received_counts == expected_counts)?;
    let received = collectives::all_to_all_known(comm, &send, &counts, &expected_counts)?;
    expect("all_to_all_known", received == expected)
}

/// Two exchanges that are under way at the same time, with another call between.
fn check_begun(comm: &dyn Communicator, plan: &Plan) -> Result<()> {
    let words = |from: usize, to: usize| plan.payload(from, to).into_iter().map(u64::from).collect::<Vec<_>>();
    let counts = |len: &dyn Fn(usize) -> usize| plan.ranks().map(len).collect::<Vec<_>>();
    let send: Vec<u64> = plan.ranks().flat_map(|to| words(plan.rank, to)).collect();
    let expected: Vec<u64> = plan.ranks().flat_map(|from| words(from, plan.rank)).collect();
    let (out, into) = (counts(&|to| plan.len(plan.rank, to)), counts(&|from| plan.len(from, plan.rank)));
    let nothing = vec![0; plan.size];
    let first = comm.begin_words(&send, &out, &into)?;
    let second = comm.begin_words(&[], &nothing, &nothing)?;
    check_exchange_counts(comm, plan)?;
    expect("begin_words", comm.finish_words(first)? == expected && comm.finish_words(second)?.is_empty())
}

fn check_all_gather(comm: &dyn Communicator, plan: &Plan) -> Result<()> {
    let (received, counts) = collectives::all_gather(comm, &plan.payload(plan.rank, plan.rank))?;
    let expected: Vec<u32> = plan.ranks().flat_map(|from| plan.payload(from, from)).collect();
    let expected_counts: Vec<usize> = plan.ranks().map(|from| plan.len(from, from)).collect();
    expect("all_gather", received == expected && counts == expected_counts)?;

    let mut blocks = vec![f32::NAN; plan.max_len * plan.size];
    collectives::all_gather_into(comm, &plan.numbers(plan.rank, 0), &mut blocks)?;
    let expected: Vec<f32> = plan.ranks().flat_map(|from| plan.numbers(from, 0)).collect();
    expect("all_gather_into", same_bits(&blocks, &expected))
}

fn check_sums(comm: &dyn Communicator, plan: &Plan) -> Result<()> {
    let mut sum = plan.numbers(plan.rank, 0);
    collectives::all_reduce_sum(comm, &mut sum)?;
    expect("all_reduce_sum", same_bits(&sum, &plan.sum(0)))?;

    let mut largest = plan.numbers(plan.rank, 0);
    collectives::all_reduce_max(comm, &mut largest)?;
    let over_ranks = |i: usize| plan.ranks().map(|r| plan.numbers(r, 0)[i]).fold(f32::NEG_INFINITY, f32::max);
    let expected: Vec<f32> = (0..plan.max_len).map(over_ranks).collect();
    expect("all_reduce_max", largest == expected)?;

    let send: Vec<f32> = plan.ranks().flat_map(|to| plan.numbers(plan.rank, to as u64)).collect();
    let mut block = vec![f32::NAN; plan.max_len];
    collectives::reduce_scatter_sum(comm, WireFormat::F32, &send, &mut block)?;
    expect("reduce_scatter_sum", same_bits(&block, &plan.sum(plan.rank as u64)))
}

fn check_messages(comm: &dyn Communicator, plan: &Plan) -> Result<()> {
    let text = |rank: usize| "message ".repeat(plan.len(rank, 0)).into_bytes();
    let all = collectives::all_gather_messages(comm, &text(plan.rank))?;
    expect("all_gather_messages", all == plan.ranks().map(text).collect::<Vec<_>>())?;
    for root in plan.ranks() {
        let received = collectives::broadcast(comm, root, &text(plan.rank))?;
        expect("broadcast", received == text(root))?;
    }
    Ok(())
}

/// The last rank fails, and every rank holds its error; then nobody fails.
fn check_agree(comm: &dyn Communicator, plan: &Plan) -> Result<()> {
    let failing = plan.size - 1;
    let mine = if plan.rank == failing { Err(Error::data("planned").at("rank", failing)) } else { Ok(()) };
    let agreed = collectives::agree(comm, mine);
    let expected = format!("planned (rank {failing})");
    expect("agree", agreed.is_err_and(|error| error.to_string() == expected))?;
    expect("agree", collectives::agree(comm, Ok(plan.rank))? == plan.rank)
}

/// Even and odd ranks form a group each, and count their ranks apart.
fn check_groups(comm: &dyn Communicator) -> Result<()> {
    let parity = comm.rank() % 2;
    let group = comm.split(parity as u32)?;
    let members: Vec<u64> = (0..comm.size() as u64).filter(|rank| *rank % 2 == parity as u64).collect();
    let (found, _) = collectives::all_gather(group.as_ref(), &[comm.rank() as u64])?;
    expect("split", found == members && group.rank() == comm.rank() / 2 && group.size() == members.len())?;
    // One group may call more often than another.
    (0..=parity).try_for_each(|_| group.barrier())
}
