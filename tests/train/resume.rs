//! A run that is stopped and resumed ends like one that was not: bit for bit on the same number of ranks, up to
//! the order of sums on another.

use crate::common::job::{How, Workplace, newest, train};
use crate::common::state::{State, assert_identical};
use std::path::Path;
use tandem::checkpoint::{self, CheckpointDir, DenseState, Manifest, Snapshot};
use tandem::comm::threads;
use tandem::train::run::Ending;
use tandem::train::trained::Trained;

const RESUME: How = How { resume: true, stop_after: None, threads: QUIET, compute: 1 };
const QUIET: threads::Options = threads::Options { seed: 0, max_delay_us: 0, reorder: true, crash: None };

fn stop_after(steps: u64) -> How {
    How { stop_after: Some(steps), ..RESUME }
}

/// Everything that a checkpoint must carry: moments, row state, log-variances, running moments, schedule, ids
/// that wait for admission, and dropped rows.
pub const MUCH_STATE: &[&str] = &[
    "model={kind: mmoe, experts: 2, expert: [8], tower: [4], dropout: 0.2, norm: batch}",
    "balance={kind: uncertainty, lr: 0.05}",
    "optimizer={dense: {kind: adam, lr: 0.01}, sparse: {kind: adam, lr: 0.01}, schedule: {kind: cosine, warmup: 20 steps}}",
    "tables={user: {admission: {min_count: 3}, eviction: {max_age_steps: 4}}, item_hour: {admission: \
     {probability: 0.3}, eviction: {max_rows: 64}}}",
    "train.eval.every=25 steps",
    "checkpoint.every=60 steps",
];

/// 250 rows make 11 steps an epoch, so step 100 is inside an epoch.
fn half_way_is_no_trace(ranks: usize, overrides: &[&str]) {
    let place = Workplace::with_log(250);
    let job = place.job(&[overrides, &["train.epochs=19", "train.max_steps=200"]].concat());
    let (straight, stopped) = (place.path("straight"), place.path("stopped"));
    let seen = train(&job, ranks, &straight, How::default());
    assert_eq!((seen.ending, seen.step), (Ending::Done, 200));

    let seen = train(&job, ranks, &stopped, stop_after(100));
    assert_eq!((seen.ending, seen.step), (Ending::Signal, 100));
    let seen = train(&job, ranks, &stopped, RESUME);
    assert_eq!((seen.ending, seen.step), (Ending::Done, 200));
    assert_identical(&newest(&straight), &newest(&stopped));
}

#[test]
fn two_hundred_steps_are_one_hundred_and_one_hundred() {
    half_way_is_no_trace(1, MUCH_STATE);
}

#[test]
fn two_hundred_steps_are_one_hundred_and_one_hundred_on_two_ranks() {
    half_way_is_no_trace(2, MUCH_STATE);
}

#[test]
fn two_hundred_steps_are_one_hundred_and_one_hundred_with_the_gram_matrix() {
    half_way_is_no_trace(
        3,
        &[
            "model={kind: ple, shared_experts: 1, task_experts: 1, levels: [[6], [6]], tower: [4]}",
            "balance.kind=pcgrad",
            "optimizer={dense: {kind: sgd, lr: 0.05, momentum: 0.9}, sparse: {kind: sgd, lr: 0.05, momentum: 0.5}}",
        ],
    );
}

#[test]
fn two_hundred_steps_are_one_hundred_and_one_hundred_of_sequences() {
    half_way_is_no_trace(
        2,
        &[
            "model={kind: dtrn, feed_forward: 6, head: {kind: mmoe, experts: 2, expert: [6], tower: [4], dropout: 0.2}}",
            "features.history={name: history, kind: sequence, table: item, max_len: 4, pooling: none}",
            "features.recent.pooling=none",
        ],
    );
}

/// The state holds what makes the tests above hard.
#[test]
fn the_compared_state_is_not_trivial() {
    let place = Workplace::with_log(250);
    let run_dir = place.path("run");
    train(&place.job(MUCH_STATE), 2, &run_dir, How::default());
    let state = State::read(&newest(&run_dir));
    let has =
        |part: &str| state.dense.iter().any(|(name, values)| name.contains(part) && values.iter().any(|&x| x != 0.0));
    for part in ["running_mean", "running_variance", "optimizer.m", "optimizer.v", "parameters."] {
        assert!(has(part), "{part} of {:?}", state.dense.keys());
    }
    assert!(state.waiting("user") > 0 && state.waiting("item_hour") > 0, "ids wait for admission");
    assert_eq!(state.sightings("price_bucket"), 500, "2 epochs of 250 rows");
    assert!(state.sightings("user") < 500 && state.sightings("item_hour") < 500, "rows were dropped");
    assert_eq!(state.balance.len(), 16);
}

#[test]
fn any_step_can_be_the_last_before_a_stop() {
    let place = Workplace::with_log(250);
    let job = place.job(&[MUCH_STATE, &["train.epochs=2"]].concat());
    let straight = place.path("straight");
    assert_eq!(train(&job, 2, &straight, How::default()).step, 22);
    for stops in [&[1][..], &[10], &[11], &[21], &[22], &[7, 4, 5], &[1, 1, 1, 1]] {
        let run_dir = place.path(&format!("{stops:?}"));
        for &steps in stops {
            assert_eq!(train(&job, 2, &run_dir, stop_after(steps)).ending, Ending::Signal);
        }
        assert_eq!(train(&job, 2, &run_dir, RESUME).step, 22);
        assert_identical(&newest(&straight), &newest(&run_dir));
    }
}

const COUNTS: [usize; 6] = [1, 2, 3, 4, 5, 7];

#[test]
fn any_number_of_ranks_goes_on_from_any_other() {
    let place = Workplace::with_log(250);
    let job =
        place.job(&["train.max_steps=14", "balance={kind: cagrad, c: 0.4}", "optimizer.sparse={kind: adam, lr: 0.01}"]);
    let straight = place.path("straight");
    train(&job, 1, &straight, How::default());
    let straight = State::read(&newest(&straight));
    for before in COUNTS {
        let stopped = place.path(&format!("{before}"));
        train(&job, before, &stopped, stop_after(7));
        for after in COUNTS {
            let run_dir = place.path(&format!("{before}-{after}"));
            copy(&newest(&stopped), &run_dir.join("checkpoints/step-00000007"));
            assert_eq!(train(&job, after, &run_dir, RESUME).step, 14);
            straight.assert_close(&State::read(&newest(&run_dir)), 2e-4, &format!("{before} ranks, then {after}"));
        }
    }
}

#[test]
fn a_checkpoint_does_not_know_how_many_ranks_wrote_it() {
    let place = Workplace::with_log(250);
    let trained = place.path("run");
    train(&place.job(MUCH_STATE), 1, &trained, How::default());
    let original = newest(&trained);
    for ranks in COUNTS {
        let run_dir = place.path(&format!("again{ranks}"));
        save_again(&original, &run_dir, ranks);
        if [1, 2, 4].contains(&ranks) {
            assert_identical(&original, &newest(&run_dir));
        }
        assert_eq!(State::read(&original), State::read(&newest(&run_dir)), "{ranks} ranks");
    }
}

/// Loads a checkpoint into `ranks` ranks and saves it from there.
fn save_again(original: &Path, run_dir: &Path, ranks: usize) {
    let results = threads::run(ranks, QUIET, |comm| {
        let mut trainable = Trained::load(&comm, original)?.trainable;
        let (dense, store) = (&trainable.dense, &trainable.store);
        let dense =
            DenseState { names: dense.moment_names().to_vec(), moments: dense.gather_moments(comm.as_ref(), store)? };
        let manifest = Manifest::read(original)?;
        let embeddings = &mut trainable.embeddings;
        let snapshot = Snapshot { manifest, store, dense, embeddings, only: None, row_classes: None };
        checkpoint::begin(comm.as_ref(), &CheckpointDir::of_run(run_dir), snapshot)?.finish(comm.as_ref())
    });
    results.into_iter().for_each(|rank| rank.unwrap_or_else(|error| panic!("{error}")));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
