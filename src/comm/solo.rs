//! One rank, no transport: collectives copy.

use super::layout::{check_all_gather, check_all_to_all, check_one_each};
use super::{Comm, Communicator, Traffic, print_failure};
use crate::error::Result;
use std::rc::Rc;

/// The communicator of a run without `mpirun`.
#[derive(Debug, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange_counts(&self, send: &[u64]) -> Result<Vec<u64>> {
        check_one_each("exchange_counts", 1, send.len())?;
        Ok(send.to_vec())
    }

    fn all_to_all_bytes(
        &self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<()> {
        check_all_to_all(self, send, send_counts, recv, recv_counts)?;
        recv.copy_from_slice(send);
        Ok(())
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], recv_counts: &[usize]) -> Result<()> {
        check_all_gather(self, send, recv, recv_counts)?;
        recv.copy_from_slice(send);
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn split(&self, _: u32) -> Result<Comm> {
        Ok(Rc::new(Solo))
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        if !message.is_empty() {
            print_failure("error", message);
        }
        std::process::exit(code)
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn backend(&self) -> String {
        "solo".to_string()
    }
}
