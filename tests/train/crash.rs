//! A rank that dies anywhere ends all ranks, and costs no more than the steps since the last checkpoint.

use crate::common::job::{How, Workplace, newest, train, try_train};
use crate::common::state::assert_identical;
use tandem::checkpoint::CheckpointDir;
use tandem::comm::solo::Solo;
use tandem::comm::threads::{Crash, Options};
use tandem::random::hash;
use tandem::train::trained::Trained;

const RANKS: usize = 3;
const SEEDS: u64 = 24;

/// A crash at any collective call: while data is opened, in a step, an evaluation, a save.
#[test]
fn a_crash_at_any_call_ends_all_ranks_and_the_run_goes_on() {
    let place = Workplace::with_log(100);
    let job = place.job(&["balance.kind=uncertainty", "checkpoint={every: 3 steps, keep: 2, buckets: 16}"]);
    let undisturbed = place.path("undisturbed");
    let schedule = Options { max_delay_us: 20, ..Options::unruly(0) };
    let calls = train(&job, RANKS, &undisturbed, How { threads: schedule, ..How::default() }).calls;

    let mut survivors = 0;
    for seed in 0..SEEDS {
        // One crash in each part of the run, so that all phases are met.
        let call = (calls * seed + hash(seed, &[1]) % calls) / SEEDS;
        let crash = Crash { rank: (hash(seed, &[2]) % RANKS as u64) as usize, call };
        let run_dir = place.path(&format!("{seed}"));
        let options = Options { seed, crash: Some(crash), ..schedule };
        for (rank, result) in
            try_train(&job, RANKS, &run_dir, How { threads: options, ..How::default() }).into_iter().enumerate()
        {
            let error = result.expect_err("a rank crashed").to_string();
            assert!(error.contains(&format!("crashed at collective call {call}")), "{crash:?}, rank {rank}: {error}");
        }
        if let Some(newest) = CheckpointDir::of_run(&run_dir).newest().unwrap() {
            survivors += 1;
            Trained::load(&(std::rc::Rc::new(Solo) as _), &newest).unwrap_or_else(|error| panic!("{crash:?}: {error}"));
        }
        let how = How { resume: true, threads: Options { seed, ..schedule }, ..How::default() };
        train(&job, RANKS, &run_dir, how);
        assert_identical(&newest(&undisturbed), &newest(&run_dir));
    }
    assert!((1..SEEDS).contains(&survivors), "crashes before and after the first checkpoint: {survivors}");
}
