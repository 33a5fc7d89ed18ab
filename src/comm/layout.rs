//! How a buffer is cut into one piece a rank, and the checks that it is cut rightly.

use super::Communicator;
use crate::error::{Error, Result};
use std::ops::Range;

/// Where each of the consecutive pieces of `counts` lies.
pub(super) fn ranges(counts: &[usize]) -> Vec<Range<usize>> {
    let mut start = 0;
    let range = |&count: &usize| {
        let at = start..start + count;
        start = at.end;
        at
    };
    counts.iter().map(range).collect()
}

/// Counts of words as counts of bytes.
pub(super) fn bytes_of(words: &[usize]) -> Vec<usize> {
    words.iter().map(|&count| count * size_of::<u64>()).collect()
}

/// Copies the consecutive pieces of `packed` to their places (start, length) in `into`.
#[cfg(feature = "mpi")]
pub(super) fn unpack(packed: &[u8], into: &mut [u8], places: impl Iterator<Item = (usize, usize)>) {
    let mut rest = packed;
    for (start, len) in places {
        let (head, tail) = rest.split_at(len);
        into[start..start + len].copy_from_slice(head);
        rest = tail;
    }
}

/// Counts and displacements of consecutive pieces as MPI wants them: C ints, and never a wrapped number.
#[cfg(feature = "mpi")]
pub(super) fn c_layout(counts: &[usize]) -> Result<(Vec<i32>, Vec<i32>)> {
    let to_count = |n: usize| {
        i32::try_from(n).map_err(|_| Error::internal(format!("{n} bytes are more than one MPI call can move")))
    };
    let at = ranges(counts);
    let counts = at.iter().map(|at| to_count(at.len())).collect::<Result<_>>()?;
    let starts = at.iter().map(|at| to_count(at.start)).collect::<Result<_>>()?;
    Ok((counts, starts))
}

/// Checks that `counts` has one entry a rank and describes exactly the `bytes` of a buffer. A transport
/// that was handed anything else would read or write outside of it.
fn check_counts(what: &str, size: usize, counts: &[usize], bytes: usize) -> Result<()> {
    let total: usize = counts.iter().sum();
    if counts.len() == size && total == bytes {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{what}: {} counts over {size} ranks describe {total} bytes, but the buffer holds {bytes}",
        counts.len()
    )))
}

/// Checks that an argument of [`Communicator::exchange_counts`] has one entry a rank.
pub(super) fn check_one_each(what: &str, size: usize, entries: usize) -> Result<()> {
    if entries == size {
        return Ok(());
    }
    Err(Error::internal(format!("{what}: {entries} entries for {size} ranks")))
}

/// Checks the arguments of [`Communicator::all_to_all_bytes`].
pub(super) fn check_all_to_all(
    comm: &dyn Communicator,
    send: &[u8],
    send_counts: &[usize],
    recv: &[u8],
    recv_counts: &[usize],
) -> Result<()> {
    check_counts("all_to_all (sending)", comm.size(), send_counts, send.len())?;
    check_counts("all_to_all (receiving)", comm.size(), recv_counts, recv.len())?;
    check_self("all_to_all", comm.rank(), send_counts[comm.rank()], recv_counts)
}

/// Checks the arguments of [`Communicator::all_gather_bytes`].
pub(super) fn check_all_gather(comm: &dyn Communicator, send: &[u8], recv: &[u8], recv_counts: &[usize]) -> Result<()> {
    check_counts("all_gather", comm.size(), recv_counts, recv.len())?;
    check_self("all_gather", comm.rank(), send.len(), recv_counts)
}

fn check_self(what: &str, rank: usize, sent: usize, recv_counts: &[usize]) -> Result<()> {
    if sent == recv_counts[rank] {
        return Ok(());
    }
    let expected = recv_counts[rank];
    Err(Error::internal(format!("{what}: rank {rank} sends itself {sent} bytes, but expects {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::solo::Solo;

    #[test]
    fn pieces_lie_one_after_another() {
        assert_eq!(ranges(&[2, 0, 3]), [0..2, 2..2, 2..5]);
    }

    #[test]
    fn calls_whose_counts_do_not_fit_are_refused() {
        assert!(check_one_each("x", 2, 2).is_ok() && check_one_each("x", 2, 1).is_err());
        assert!(check_all_to_all(&Solo, &[1, 2], &[2], &[0; 2], &[2]).is_ok());
        assert!(check_all_to_all(&Solo, &[1, 2], &[1, 1], &[0; 2], &[2]).is_err());
        assert!(check_all_to_all(&Solo, &[1, 2], &[2], &[0; 3], &[2]).is_err());
        assert!(check_all_gather(&Solo, &[1], &[0; 2], &[2]).is_err());
        assert!(check_all_gather(&Solo, &[1, 2], &[0; 2], &[2]).is_ok());
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn c_counts_and_displacements_never_wrap() {
        const MOST: usize = i32::MAX as usize;
        assert_eq!(c_layout(&[3, MOST - 3, 0]).ok(), Some((vec![3, i32::MAX - 3, 0], vec![0, 3, i32::MAX])));
        assert!(c_layout(&[MOST + 1]).is_err());
        assert!(c_layout(&[MOST, 1, 1]).is_err());
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn packed_pieces_go_to_their_places() {
        let mut into = [0u8; 6];
        unpack(&[1, 2, 3], &mut into, [(4, 2), (0, 0), (1, 1)].into_iter());
        assert_eq!(into, [0, 3, 0, 0, 1, 2]);
    }
}
