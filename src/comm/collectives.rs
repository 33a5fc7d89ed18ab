//! Typed collectives, built from the primitives of [`Communicator`].
//!
//! Sums are taken here, in rank order, never inside the transport: MPI leaves the order of a
//! reduction to the library, and then two ranks could hold different bits of the "same" number.
//! Traffic stays what a good reduce-scatter and all-gather would move.

use super::Communicator;
use super::wire::{self, WireFormat};
use crate::error::{Error, Result};
use bytemuck::Pod;

/// Sends `counts[r]` consecutive elements of `send` to each rank `r`. Returns the received elements,
/// concatenated in rank order, and how many came from each rank.
pub fn all_to_all<T: Pod>(comm: &dyn Communicator, send: &[T], counts: &[usize]) -> Result<(Vec<T>, Vec<usize>)> {
    let sizes: Vec<u64> = counts.iter().map(|&c| c as u64).collect();
    let received: Vec<usize> = comm.exchange_counts(&sizes)?.into_iter().map(|c| c as usize).collect();
    let recv = all_to_all_known(comm, send, counts, &received)?;
    Ok((recv, received))
}

/// [`all_to_all`] where the receiver already knows how many elements each rank sends.
pub fn all_to_all_known<T: Pod>(
    comm: &dyn Communicator,
    send: &[T],
    counts: &[usize],
    received: &[usize],
) -> Result<Vec<T>> {
    debug_assert_eq!(counts.iter().sum::<usize>(), send.len());
    let bytes = |counts: &[usize]| -> Vec<usize> { counts.iter().map(|&c| c * size_of::<T>()).collect() };
    let mut recv = vec![T::zeroed(); received.iter().sum()];
    comm.all_to_all_bytes(
        bytemuck::cast_slice(send),
        &bytes(counts),
        bytemuck::cast_slice_mut(&mut recv),
        &bytes(received),
    )?;
    Ok(recv)
}

/// [`all_to_all_known`] of numbers that travel as `format` says, into `recv`. What a rank sends itself is rounded
/// too, so that a number is the same on whichever rank it is read.
pub fn all_to_all_floats(
    comm: &dyn Communicator,
    format: WireFormat,
    send: &[f32],
    counts: &[usize],
    recv: &mut [f32],
    received: &[usize],
) -> Result<()> {
    match format {
        WireFormat::F32 => {
            let bytes = |counts: &[usize]| -> Vec<usize> { counts.iter().map(|&c| c * size_of::<f32>()).collect() };
            let recv = bytemuck::cast_slice_mut(recv);
            comm.all_to_all_bytes(bytemuck::cast_slice(send), &bytes(counts), recv, &bytes(received))
        }
        WireFormat::Bf16 => {
            let halves = all_to_all_known(comm, &wire::narrow(send), counts, received)?;
            wire::widen(&halves, recv);
            Ok(())
        }
    }
}

/// Concatenates every rank's `send` in rank order; ranks may send different numbers of elements.
/// Returns the elements and how many came from each rank.
pub fn all_gather<T: Pod>(comm: &dyn Communicator, send: &[T]) -> Result<(Vec<T>, Vec<usize>)> {
    let counts: Vec<usize> =
        comm.exchange_counts(&vec![send.len() as u64; comm.size()])?.into_iter().map(|c| c as usize).collect();
    let bytes: Vec<usize> = counts.iter().map(|&c| c * size_of::<T>()).collect();
    let mut recv = vec![T::zeroed(); counts.iter().sum()];
    comm.all_gather_bytes(bytemuck::cast_slice(send), bytemuck::cast_slice_mut(&mut recv), &bytes)?;
    Ok((recv, counts))
}

/// [`all_gather`] for equal blocks, into a buffer of `size × block.len()` elements.
pub fn all_gather_into<T: Pod>(comm: &dyn Communicator, block: &[T], out: &mut [T]) -> Result<()> {
    debug_assert_eq!(out.len(), block.len() * comm.size());
    let bytes = vec![size_of_val(block); comm.size()];
    comm.all_gather_bytes(bytemuck::cast_slice(block), bytemuck::cast_slice_mut(out), &bytes)
}

/// Gathers each rank's bytes (a serialised message), by rank.
pub fn all_gather_messages(comm: &dyn Communicator, message: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (bytes, counts) = all_gather(comm, message)?;
    let mut rest = bytes.as_slice();
    Ok(counts
        .iter()
        .map(|&n| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            head.to_vec()
        })
        .collect())
}

/// Sends `message` from `root` to every rank; the argument is ignored elsewhere.
pub fn broadcast(comm: &dyn Communicator, root: usize, message: &[u8]) -> Result<Vec<u8>> {
    let mine: &[u8] = if comm.rank() == root { message } else { &[] };
    Ok(all_gather(comm, mine)?.0)
}

/// Replaces `values` by its sum over ranks, added in rank order: the same bits on every rank. Meant for
/// short vectors (a Gram matrix, counts): it moves `size × len` numbers.
pub fn all_reduce_sum<T>(comm: &dyn Communicator, values: &mut [T]) -> Result<()>
where
    T: Pod + std::ops::AddAssign,
{
    all_reduce_with(comm, values, |a, b| *a += b)
}

/// The element-wise maximum over ranks.
pub fn all_reduce_max<T: Pod + PartialOrd>(comm: &dyn Communicator, values: &mut [T]) -> Result<()> {
    all_reduce_with(comm, values, |a, b| {
        if b > *a {
            *a = b;
        }
    })
}

fn all_reduce_with<T: Pod>(comm: &dyn Communicator, values: &mut [T], combine: impl Fn(&mut T, T)) -> Result<()> {
    if comm.size() == 1 || values.is_empty() {
        return Ok(());
    }
    let mut all = vec![T::zeroed(); values.len() * comm.size()];
    all_gather_into(comm, values, &mut all)?;
    let mut ranks = all.chunks_exact(values.len());
    if let Some(first) = ranks.next() {
        values.copy_from_slice(first);
    }
    for rank in ranks {
        for (value, &other) in values.iter_mut().zip(rank) {
            combine(value, other);
        }
    }
    Ok(())
}

/// `send` holds one block of `out.len()` elements for each rank; `out` becomes the sum, in rank order,
/// of the blocks that every rank sent here, which travel as `format` says and are added as f32. One rank rounds nothing.
pub fn reduce_scatter_sum(comm: &dyn Communicator, format: WireFormat, send: &[f32], out: &mut [f32]) -> Result<()> {
    let block = out.len();
    debug_assert_eq!(send.len(), block * comm.size());
    if comm.size() == 1 {
        out.copy_from_slice(send);
        return Ok(());
    }
    let counts = vec![block; comm.size()];
    let mut received = vec![0.0; send.len()];
    all_to_all_floats(comm, format, send, &counts, &mut received, &counts)?;
    out.copy_from_slice(&received[..block]);
    for rank in 1..comm.size() {
        let part = &received[rank * block..(rank + 1) * block];
        for (sum, &value) in out.iter_mut().zip(part) {
            *sum += value;
        }
    }
    Ok(())
}

/// Makes one rank's failure everybody's: returns the values of all ranks' success, or the error of the
/// lowest failing rank on every rank, marked as [agreed](Error::agreed) so that it is printed once. For
/// whatever is likely to fail on several ranks at once (reading data, a full disk, growing tables), where one
/// clear message is wanted rather than one from each. Success costs one exchange of a byte a rank.
pub fn agree<T>(comm: &dyn Communicator, mine: Result<T>) -> Result<T> {
    if comm.size() == 1 {
        return mine;
    }
    let mut flags = vec![0u8; comm.size()];
    all_gather_into(comm, &[u8::from(mine.is_err())], &mut flags)?;
    let Some(first) = flags.iter().position(|&f| f == 1) else {
        return mine;
    };
    let report = match &mine {
        Err(error) if comm.rank() == first => serde_json::to_vec(error).unwrap_or_default(),
        _ => Vec::new(),
    };
    let report = broadcast(comm, first, &report)?;
    let error: Error = match mine {
        Err(error) if comm.rank() == first => error,
        _ => serde_json::from_slice(&report)
            .map_err(|e| Error::internal(format!("the error of rank {first} could not be read: {e}")))?,
    };
    Err(error.agreed())
}
