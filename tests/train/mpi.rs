//! The same job through `mpirun`: what the tests on threads show holds on a real transport.

use crate::common::job::{How, Workplace, newest, train};
use crate::common::state::{State, assert_identical};
use crate::common::{mpirun, mpirun_command, signal, text_of, wait_for_step};
use crate::resume::MUCH_STATE;
use crate::uneven::{FILES, sightings, workplace};
use std::path::Path;
use std::process::{Output, Stdio};

fn tandem(ranks: usize, args: &[&str]) -> Option<Output> {
    mpirun(ranks, Path::new(env!("CARGO_BIN_EXE_tandem")), args)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

/// Trains on `ranks` MPI ranks; the checkpoint's content, or `None` where there is no `mpirun`.
fn train_mpi(place: &Workplace, ranks: usize, run_dir: &Path, more: &[&str]) -> Option<State> {
    let job = place.job_file();
    let args = [&["--quiet", "train", text(&job), "--run-dir", text(run_dir)], more].concat();
    let done = tandem(ranks, &args)?;
    assert!(done.status.success(), "{ranks} ranks: {}", text_of(&done));
    Some(State::read(&newest(run_dir)))
}

/// The state that one thread reaches with the same overrides.
fn expected(place: &Workplace, overrides: &[&str]) -> State {
    let run_dir = place.path("expected");
    train(&place.job(overrides), 1, &run_dir, How::default());
    State::read(&newest(&run_dir))
}

fn as_args<'a>(overrides: &[&'a str]) -> Vec<&'a str> {
    overrides.iter().flat_map(|&text| ["--set", text]).collect()
}

fn one_to_four_ranks(overrides: &[&str]) {
    let place = Workplace::with_log(250);
    let expected = expected(&place, overrides);
    for ranks in 1..=4 {
        let Some(state) = train_mpi(&place, ranks, &place.path(&format!("{ranks}")), &as_args(overrides)) else {
            return;
        };
        expected.assert_close(&state, 2e-4, &format!("{ranks} MPI ranks"));
    }
}

#[test]
fn one_to_four_ranks_train_to_the_same_parameters() {
    one_to_four_ranks(&["balance={kind: cagrad, c: 0.4}", "optimizer.sparse={kind: adam, lr: 0.01}"]);
}

#[test]
fn one_to_four_ranks_train_to_the_same_parameters_with_dropout_and_batch_norm() {
    one_to_four_ranks(&[
        "balance.kind=uncertainty",
        "model={kind: mmoe, experts: 2, expert: [8], tower: [4], dropout: 0.3, norm: batch}",
        "optimizer.dense={kind: sgd, lr: 0.05, momentum: 0.9}",
    ]);
}

#[test]
fn a_reproducible_run_has_the_same_bits_on_one_to_four_ranks() {
    let place = Workplace::with_log(250);
    let run_dirs = [1, 2, 4].map(|ranks| (ranks, place.path(&format!("{ranks}"))));
    for (ranks, run_dir) in &run_dirs {
        let overrides = [MUCH_STATE, &["reproducible=true"]].concat();
        if train_mpi(&place, *ranks, run_dir, &as_args(&overrides)).is_none() {
            return;
        }
        assert_identical(&newest(&run_dirs[0].1), &newest(run_dir));
    }
}

#[test]
fn a_run_goes_on_with_other_ranks() {
    let place = Workplace::with_log(250);
    let expected = expected(&place, &["train.max_steps=14"]);
    let run_dir = place.path("run");
    for (ranks, steps) in [(3, 5), (2, 9), (4, 14)] {
        let steps = format!("train.max_steps={steps}");
        let Some(state) = train_mpi(&place, ranks, &run_dir, &["--resume", "--set", &steps]) else { return };
        if ranks == 4 {
            expected.assert_close(&state, 2e-4, "3, then 2, then 4 ranks");
        }
    }
}

#[test]
fn uneven_files_are_seen_once_an_epoch() {
    let place = workplace(FILES);
    let run_dir = place.path("run");
    if train_mpi(&place, 4, &run_dir, &["--set", "train.epochs=2"]).is_none() {
        return;
    }
    assert_eq!(sightings(&newest(&run_dir)), (0..1007).map(|id| (id, 2)).collect());
}

#[test]
fn a_folder_with_a_run_is_refused_once_for_all_ranks() {
    let place = Workplace::with_log(100);
    let run_dir = place.path("run");
    let Some(before) = train_mpi(&place, 2, &run_dir, &[]) else { return };
    let job = place.job_file();
    let Some(refused) = tandem(3, &["train", text(&job), "--run-dir", text(&run_dir)]) else { return };
    assert_eq!(refused.status.code(), Some(2), "{}", text_of(&refused));
    assert_eq!(text_of(&refused).matches("already holds checkpoints").count(), 1, "{}", text_of(&refused));
    assert_eq!(State::read(&newest(&run_dir)), before);
}

/// Launchers forward SIGUSR1 to the ranks, some only to one of them: all stop at the same step.
#[test]
fn a_signal_saves_on_all_ranks() {
    let place = Workplace::with_log(100);
    let (job, run_dir) = (place.job_file(), place.path("run"));
    let args = ["--quiet", "train", text(&job), "--run-dir", text(&run_dir), "--set", "train.epochs=1000000"];
    let quick = ["--set", "train.eval.every=never", "--set", "checkpoint.every=never"];
    let program = Path::new(env!("CARGO_BIN_EXE_tandem"));
    let Some(mut command) = mpirun_command(2, program, &[&args[..], &quick].concat()) else { return };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun starts");
    wait_for_step(&mut child, &run_dir, 1);
    signal(child.id(), "USR1");
    let done = child.wait_with_output().expect("a child");
    assert_eq!(done.status.code(), Some(75), "{}", text_of(&done));

    let last = format!("train.max_steps={}", State::read(&newest(&run_dir)).position.0.as_u64().expect("a step") + 3);
    let overrides = ["train.epochs=1000000", "train.eval.every=never", &last];
    let resume = [&["--resume"], as_args(&overrides).as_slice()].concat();
    let Some(state) = train_mpi(&place, 2, &run_dir, &resume) else { return };
    expected(&place, &overrides).assert_close(&state, 1e-3, "stopped and resumed");
}
