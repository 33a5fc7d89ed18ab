//! Exchanges that are under way while a rank computes.

use super::super::layout::{c_layout, unpack};
use super::{Mpi, addressable, packed};
use crate::error::Result;
use ::mpi::datatype::Equivalence;
use ::mpi::ffi;
use ::mpi::raw::AsRaw;
use send_wrapper::SendWrapper;
use std::mem::ManuallyDrop;
use std::ops::Range;

/// An exchange that MPI was handed and nobody has waited for.
pub struct Travelling {
    /// Used by the thread that began it alone.
    request: SendWrapper<ffi::MPI_Request>,
    /// Dropped only after the wait: else MPI may still write there.
    buffers: ManuallyDrop<Buffers>,
    send: Vec<u64>,
    /// Filled at the end.
    received: Vec<u64>,
    send_at: Vec<Range<usize>>,
    recv_at: Vec<Range<usize>>,
}

/// What MPI reads and writes meanwhile.
struct Buffers {
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Counts and starts.
    send_layout: (Vec<i32>, Vec<i32>),
    recv_layout: (Vec<i32>, Vec<i32>),
}

impl Mpi {
    /// Hands the short messages to MPI, which may move them until [`finish`](Self::finish) has `received`. The ranges say
    /// where each message lies, in bytes.
    pub(super) fn begin(
        &self,
        send: &[u64],
        received: Vec<u64>,
        (send_at, recv_at): (Vec<Range<usize>>, Vec<Range<usize>>),
    ) -> Result<Travelling> {
        let (send_counts, recv_counts) = (self.short(&send_at), self.short(&recv_at));
        let mut buffers = Buffers {
            outgoing: packed(bytemuck::cast_slice(send), &send_at, &send_counts),
            // Never without a byte, so that it has an address.
            incoming: vec![0u8; recv_counts.iter().sum::<usize>().max(1)],
            send_layout: c_layout(&send_counts)?,
            recv_layout: c_layout(&recv_counts)?,
        };
        let mut request = std::mem::MaybeUninit::uninit();
        let bytes = u8::equivalent_datatype();
        // SAFETY: the buffers fit their layouts, and their memory stays until `finish` has waited for the request, or for
        // ever.
        let request = unsafe {
            let Buffers { outgoing, incoming, send_layout, recv_layout } = &mut buffers;
            ffi::MPI_Ialltoallv(
                addressable(outgoing).as_ptr().cast(),
                send_layout.0.as_ptr(),
                send_layout.1.as_ptr(),
                bytes.as_raw(),
                incoming.as_mut_ptr().cast(),
                recv_layout.0.as_ptr(),
                recv_layout.1.as_ptr(),
                bytes.as_raw(),
                self.world.as_raw(),
                request.as_mut_ptr(),
            );
            request.assume_init()
        };
        Ok(Travelling {
            request: SendWrapper::new(request),
            buffers: ManuallyDrop::new(buffers),
            send: send.to_vec(),
            received,
            send_at,
            recv_at,
        })
    }

    /// Waits for the short messages, and moves the long ones.
    pub(super) fn finish(&self, travelling: Travelling) -> Vec<u64> {
        let Travelling { request, buffers, send, mut received, send_at, recv_at } = travelling;
        let mut request = request.take();
        // SAFETY: the request is one of `begin`, and no other has waited for it.
        unsafe { ffi::MPI_Wait(&mut request, ffi::RSMPI_STATUS_IGNORE) };
        let Buffers { incoming, recv_layout, .. } = ManuallyDrop::into_inner(buffers);
        let (send, into): (&[u8], &mut [u8]) = (bytemuck::cast_slice(&send), bytemuck::cast_slice_mut(&mut received));
        into[recv_at[self.rank].clone()].copy_from_slice(&send[send_at[self.rank].clone()]);
        let counts = recv_layout.0.into_iter().map(|count| count as usize);
        unpack(&incoming, into, recv_at.iter().map(|at| at.start).zip(counts));
        self.exchange_long(send, &send_at, into, &recv_at);
        received
    }
}
