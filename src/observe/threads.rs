//! CPU threads of a rank. Ranks of one machine share its cores, and would slow each other down if each took
//! them all.

use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};
use sysinfo::System;

/// Starts this rank's compute threads: `wanted`, else the machine's cores divided by the ranks on it. Returns
/// their number. The calling thread is one of them, so that it works instead of waiting for another thread to
/// wake up. Collective; called once, before anything computes.
pub fn start(wanted: Option<usize>, comm: &dyn Communicator) -> Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = wanted.unwrap_or(cores / ranks_here(comm)?).max(1);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .thread_name(|i| format!("compute-{i}"))
        .build_global()
        .map_err(|e| Error::internal(format!("compute threads cannot be started: {e}")))?;
    Ok(threads)
}

/// Ranks on this rank's machine, this one included.
fn ranks_here(comm: &dyn Communicator) -> Result<usize> {
    let name = System::host_name().unwrap_or_default();
    let names = collectives::all_gather_messages(comm, name.as_bytes())?;
    Ok(names.iter().filter(|other| other.as_slice() == name.as_bytes()).count().max(1))
}

/// Keeps candle from starting threads of its own. For element-wise operations it starts one per core of the
/// machine, whatever the ranks on it, and they spin while they wait for each other: with as many ranks as cores a
/// step took twice as long. tandem's layers run on this rank's rayon threads and do not need them.
///
/// # Safety
/// Changes the environment: call it first thing in `main`, while there is no other thread.
pub unsafe fn keep_candle_on_one_thread() {
    // SAFETY: the caller promises that no other thread reads the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
}
