//! A rank of a small MPI job, for `tests/mpi.rs` and for trying a cluster's MPI by hand:
//!
//! ```text
//! mpirun -n 4 mpi_collectives check 7     # every collective, messages cut into 7-byte chunks
//! mpirun -n 4 mpi_collectives fail 2      # rank 2 fails while the others wait for it
//! mpirun -n 4 mpi_collectives agree 2     # rank 2 fails and all ranks agree on it
//! mpirun -n 4 mpi_collectives panic 2     # rank 2 panics
//! mpirun -n 4 mpi_collectives compute 2   # a compute thread of rank 2 panics
//! mpirun -n 4 mpi_collectives exit 75     # success with an exit code of its own
//! ```

use std::process::exit;
use tandem::comm::{Communicator, collectives, launch, selftest};
use tandem::{Error, Result};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(mode), Some(number)) = (arguments.first(), arguments.get(1).and_then(|n| n.parse::<usize>().ok())) else {
        eprintln!("usage: mpi_collectives check|fail|agree|panic|compute|exit NUMBER");
        exit(2);
    };
    let options = match mode.as_str() {
        "check" => launch::Options { chunk_bytes: number },
        _ => launch::Options::default(),
    };
    exit(launch::run(options, |comm| act(comm.as_ref(), mode, number)));
}

fn act(comm: &dyn Communicator, mode: &str, number: usize) -> Result<i32> {
    let chosen = comm.rank() == number;
    match mode {
        "check" => return check(comm),
        "fail" if chosen => return Err(Error::job("key `lr` is wrong").at("line", 3)),
        "agree" => {
            let mine = if chosen { Err(Error::job("key `lr` is wrong").at("line", 3)) } else { Ok(()) };
            collectives::agree(comm, mine)?;
        }
        "panic" => assert!(!chosen, "a planned panic"),
        "compute" if chosen => rayon::scope(|scope| scope.spawn(|_| panic!("a planned panic"))),
        "exit" => return Ok(number as i32),
        _ => {}
    }
    // The ranks that did not fail wait here, and must not wait for ever.
    comm.barrier()?;
    Ok(0)
}

fn check(comm: &dyn Communicator) -> Result<i32> {
    for seed in 0..20 {
        selftest::check(comm, seed, 60)?;
    }
    if comm.rank() == 0 {
        println!("checked {} ranks over {}", comm.size(), comm.backend());
    }
    Ok(0)
}
