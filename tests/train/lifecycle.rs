//! When a run evaluates, saves, stops and refuses to start.

use crate::common::job::{How, Workplace, assert_same_metrics, newest, train, try_train};
use crate::common::log;
use crate::common::state::{State, assert_identical};
use std::path::Path;
use tandem::checkpoint::{self, CheckpointDir, Manifest};
use tandem::train::run::Ending;

const RESUME: How = How { resume: true, ..NEW };
const NEW: How = How {
    resume: false,
    stop_after: None,
    threads: tandem::comm::threads::Options { seed: 0, max_delay_us: 0, reorder: false, crash: None },
    compute: 1,
};

/// One task whose labels in `data.valid` are the opposite of those in `data.train`: the better the model, the
/// worse its evaluation. 5 steps an epoch.
fn contrary() -> Workplace {
    let place = Workplace::new(
        "
name: contrary
data: {train: train.parquet, valid: valid.parquet, test: valid.parquet}
features:
  - {name: user, kind: categorical, dim: 4}
tasks:
  - {name: click, label: click}
model: {kind: shared_bottom, bottom: [8], tower: []}
optimizer: {dense: {kind: adam, lr: 0.02}, sparse: {kind: adam, lr: 0.05}}
train: {global_batch: 24, epochs: 4, eval: {every: 2 steps, best: {metric: logloss}}}
checkpoint: {every: 3 steps, keep: 2, buckets: 16}
",
    );
    let rows = 0..120u64;
    let user = || log::ints(rows.clone().map(|row| Some((row % 10) as i64)));
    let click = |odd: i64| log::ints(rows.clone().map(move |row| Some(i64::from((row % 2) as i64 == odd))));
    log::write(&place.path("train.parquet"), vec![("user", user()), ("click", click(1))], 50);
    log::write(&place.path("valid.parquet"), vec![("user", user()), ("click", click(0))], 50);
    place
}

fn steps_saved(run_dir: &Path) -> Vec<u64> {
    CheckpointDir::of_run(run_dir).steps().unwrap()
}

#[test]
fn the_best_and_the_newest_are_kept_and_the_best_is_tested() {
    let place = contrary();
    for ranks in [1, 3] {
        let run_dir = place.path(&format!("run{ranks}"));
        let seen = train(&place.job(&[]), ranks, &run_dir, NEW);
        assert_eq!((seen.ending, seen.step), (Ending::Done, 20));
        assert_eq!(steps_saved(&run_dir), [2, 18, 20], "the best, and the newest two");
        assert_eq!(checkpoint::resolve(&run_dir).unwrap(), CheckpointDir::of_run(&run_dir).step(2));
        let evaluations = seen.evaluations();
        let steps: Vec<u64> = evaluations.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 2], "every 2 steps, and the test of the best");
        // The test's rows are those of `data.valid`.
        assert_same_metrics(
            &seen.test.as_ref().unwrap().tasks,
            evaluations[0].1,
            1e-9,
            "the best checkpoint is tested",
        );
    }
}

#[test]
fn a_run_that_gets_worse_stops_early_and_stays_stopped() {
    let place = contrary();
    let stop = |patience: usize| place.job(&[&format!("train.eval.stop={{metric: logloss, patience: {patience}}}")]);
    let run_dir = place.path("run");
    let seen = train(&stop(3), 2, &run_dir, NEW);
    assert_eq!((seen.ending, seen.step), (Ending::EarlyStop, 8), "best at 2, worse at 4, 6 and 8");
    assert_eq!(steps_saved(&run_dir), [2, 6, 8]);

    let seen = train(&stop(3), 2, &run_dir, RESUME);
    assert_eq!((seen.ending, seen.step), (Ending::EarlyStop, 8), "resuming does not train on");
    let seen = train(&stop(5), 2, &run_dir, RESUME);
    assert_eq!((seen.ending, seen.step), (Ending::EarlyStop, 12), "with more patience it goes on");

    let straight = place.path("straight");
    train(&stop(5), 2, &straight, NEW);
    assert_eq!(State::read(&newest(&straight)), State::read(&newest(&run_dir)));
}

/// An evaluation that was due at the very step of a signal is made up for.
#[test]
fn a_stop_at_an_evaluation_does_not_lose_it() {
    let place = contrary();
    let job = place.job(&["train.eval.stop={metric: logloss, patience: 3}"]);
    let straight = place.path("straight");
    train(&job, 1, &straight, NEW);
    for stop_after in [2, 4, 8] {
        let run_dir = place.path(&format!("run{stop_after}"));
        let how = How { stop_after: Some(stop_after), ..NEW };
        assert_eq!(train(&job, 1, &run_dir, how).ending, Ending::Signal);
        assert_eq!(train(&job, 1, &run_dir, RESUME).ending, Ending::EarlyStop);
        assert_identical(&newest(&straight), &newest(&run_dir));
        assert!(steps_saved(&run_dir).contains(&2), "the best is kept: {:?}", steps_saved(&run_dir));
    }
}

#[test]
fn without_evaluation_the_newest_are_kept() {
    let place = contrary();
    let run_dir = place.path("run");
    let seen = train(&place.job(&["train.eval.every=never", "checkpoint.keep=3"]), 2, &run_dir, NEW);
    let evaluations: Vec<u64> = seen.evaluations().iter().map(|(step, _)| *step).collect();
    assert_eq!(evaluations, [20], "only the test at the end");
    assert_eq!(steps_saved(&run_dir), [15, 18, 20]);
    let manifest = Manifest::read(&newest(&run_dir)).unwrap();
    assert_eq!((manifest.progress.best, manifest.step, manifest.cursor.epoch), (None, 20, 4));
}

#[test]
fn without_periods_one_checkpoint_is_written_at_the_end() {
    let place = contrary();
    let run_dir = place.path("run");
    let job = |steps: u64| {
        place.job(&["train.eval.every=never", "checkpoint.every=never", &format!("train.max_steps={steps}")])
    };
    assert_eq!(train(&job(7), 2, &run_dir, NEW).step, 7, "inside an epoch");
    assert_eq!(steps_saved(&run_dir), [7]);
    assert_eq!(train(&job(7), 2, &run_dir, RESUME).step, 7, "nothing is left to do");
    assert_eq!(train(&job(9), 2, &run_dir, RESUME).step, 9);
    assert_eq!(train(&job(1000), 2, &run_dir, RESUME).step, 20, "the epochs are a limit too");
    assert_eq!(steps_saved(&run_dir), [9, 20]);
}

#[test]
fn a_folder_with_a_run_is_not_used_for_another() {
    let place = contrary();
    let run_dir = place.path("run");
    let job = place.job(&["train.max_steps=6"]);
    train(&job, 1, &run_dir, NEW);
    let before = State::read(&newest(&run_dir));
    for rank in try_train(&job, 3, &run_dir, NEW) {
        let error = rank.expect_err("the folder is taken");
        assert!(error.exit_code() == 2 && error.to_string().contains("--resume"), "{error}");
    }
    assert_eq!(State::read(&newest(&run_dir)), before);
}

#[test]
fn learning_rates_and_lengths_may_change_on_the_way() {
    let place = contrary();
    let run_dir = place.path("run");
    train(&place.job(&["train.max_steps=6"]), 1, &run_dir, NEW);
    let changed = ["train.max_steps=8", "optimizer.dense.lr=0.001", "train.epochs=9", "checkpoint.keep=1"];
    assert_eq!(train(&place.job(&changed), 2, &run_dir, RESUME).step, 8);
}
