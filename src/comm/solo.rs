//! One rank, no transport: collectives copy.

use super::{Communicator, Traffic};
use crate::error::Result;

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
        Ok(send.to_vec())
    }

    fn all_to_all_bytes(&self, send: &[u8], _: &[usize], recv: &mut [u8], _: &[usize]) -> Result<()> {
        recv.copy_from_slice(send);
        Ok(())
    }

    fn all_gather_bytes(&self, send: &[u8], recv: &mut [u8], _: &[usize]) -> Result<()> {
        recv.copy_from_slice(send);
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn abort(&self, code: i32, _message: &str) -> ! {
        std::process::exit(code)
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn backend(&self) -> String {
        "solo".to_string()
    }
}
