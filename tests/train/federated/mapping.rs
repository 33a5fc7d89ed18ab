//! It does not matter which client is on which rank.

use super::{How, place, run, states};
use crate::common::{mpirun, text_of};
use std::path::Path;
use tandem::comm::threads;

#[test]
fn clients_alone_on_a_rank_or_several_on_one_come_to_the_same_bits() {
    let place = place();
    for (i, more) in ["federated.method=pf_msmtrec", "federated.embeddings=true"].into_iter().enumerate() {
        let job = place.job(&[more]);
        let of = |ranks: usize| {
            let run_dir = place.path(&format!("run-{i}-{ranks}"));
            run(&job, ranks, &run_dir, How { threads: threads::Options::unruly(ranks as u64), ..How::default() });
            states(&run_dir)
        };
        let alone = of(1);
        assert_eq!(of(2), alone, "{more}");
        assert_eq!(of(3), alone, "{more}");
        // One client on two ranks: sums in another order.
        for (state, other) in alone.iter().zip(of(4)) {
            state.assert_close(&other, 5e-4, more);
        }
    }
}

#[test]
fn clients_on_mpi_ranks_come_to_the_same_models() {
    let place = place();
    let expected = {
        let run_dir = place.path("threads");
        run(&place.job(&[]), 1, &run_dir, How::default());
        states(&run_dir)
    };
    let job = place.job_file().display().to_string();
    // Several clients on one rank, one on each, one on two.
    for ranks in 1..=4 {
        let run_dir = place.path(&format!("mpi-{ranks}"));
        let args = ["--quiet", "train", &job, "--run-dir", &run_dir.display().to_string()];
        let Some(done) = mpirun(ranks, Path::new(env!("CARGO_BIN_EXE_tandem")), &args) else { return };
        assert!(done.status.success(), "{}", text_of(&done));
        for (state, other) in expected.iter().zip(states(&run_dir)) {
            state.assert_close(&other, 5e-4, &format!("{ranks} MPI ranks"));
        }
    }
}
