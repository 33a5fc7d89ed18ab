//! `tandem train` as a program on one rank.

use crate::common::job::{How, Workplace, newest, train};
use crate::common::state::{State, assert_identical};
use crate::common::{signal, text_of, wait_for_step};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tandem::config;

fn tandem(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(args);
    command
}

fn output(args: &[&str]) -> Output {
    tandem(args).output().expect("tandem starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

#[test]
fn a_dry_run_prints_the_resolved_job_and_writes_nothing() {
    let place = Workplace::with_log(100);
    let (job, run_dir) = (place.job_file(), place.path("run"));
    let done = output(&["train", text(&job), "--run-dir", text(&run_dir), "--dry-run", "--set", "train.epochs=3"]);
    assert_eq!(done.status.code(), Some(0), "{}", text_of(&done));
    let printed = String::from_utf8_lossy(&done.stdout);
    let resolved = config::from_text(&printed, &job, &[]).unwrap_or_else(|error| panic!("{error}\n{printed}")).job;
    assert_eq!((resolved.train.epochs, resolved.data.lanes), (3, Some(24)), "{printed}");
    assert!(printed.contains("activation: relu"), "defaults are filled in: {printed}");
    assert!(!run_dir.exists());
    let missing = output(&["train", text(&job), "--dry-run", "--set", "features.age.column=agee"]);
    assert_eq!(missing.status.code(), Some(1), "{}", text_of(&missing));
    assert!(text_of(&missing).contains("agee"), "{}", text_of(&missing));
}

#[test]
fn the_program_trains_like_the_library() {
    let place = Workplace::with_log(100);
    let (job, run_dir) = (place.job_file(), place.path("run"));
    let done = output(&["--quiet", "train", text(&job), "--run-dir", text(&run_dir)]);
    assert_eq!(done.status.code(), Some(0), "{}", text_of(&done));
    assert!(done.stdout.is_empty() && done.stderr.is_empty(), "{}", text_of(&done));
    let library = place.path("library");
    train(&place.job(&[]), 1, &library, How::default());
    assert_identical(&newest(&library), &newest(&run_dir));
    for name in ["job.yaml", "metrics.jsonl"] {
        assert!(run_dir.join(name).is_file(), "{name}");
    }
    let again = output(&["train", text(&job), "--run-dir", text(&run_dir)]);
    assert_eq!(again.status.code(), Some(2), "{}", text_of(&again));
    assert!(text_of(&again).contains("--resume"), "{}", text_of(&again));
}

#[test]
fn a_signal_saves_and_the_run_goes_on() {
    let place = Workplace::with_log(100);
    let (job, run_dir) = (place.job_file(), place.path("run"));
    let endless =
        ["--set", "train.epochs=1000000", "--set", "train.eval.every=never", "--set", "checkpoint.every=never"];
    let start = |more: &[&str]| {
        let mut command = tandem(&["--quiet", "train", text(&job), "--run-dir", text(&run_dir)]);
        command.args(endless).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("tandem starts")
    };
    for (name, resume) in [("TERM", &[][..]), ("INT", &["--resume"]), ("USR1", &["--resume"])] {
        let before = if resume.is_empty() { 0 } else { step_of(&run_dir) };
        let mut child = start(resume);
        wait_for_step(&mut child, &run_dir, before + 1);
        signal(child.id(), name);
        let done = child.wait_with_output().expect("a child");
        assert_eq!(done.status.code(), Some(75), "SIG{name}: {}", text_of(&done));
        assert!(step_of(&run_dir) > before);
    }
    let last = format!("train.max_steps={}", step_of(&run_dir) + 3);
    let done = start(&["--resume", "--set", &last]).wait_with_output().expect("a child");
    assert_eq!(done.status.code(), Some(0), "{}", text_of(&done));

    let straight = place.path("straight");
    let overrides: Vec<&str> = endless.iter().copied().filter(|word| *word != "--set").chain([last.as_str()]).collect();
    train(&place.job(&overrides), 1, &straight, How::default());
    assert_eq!(State::read(&newest(&straight)), State::read(&newest(&run_dir)));
}

fn step_of(run_dir: &Path) -> u64 {
    tandem::checkpoint::Manifest::read(&newest(run_dir)).unwrap_or_else(|error| panic!("{error}")).step
}
