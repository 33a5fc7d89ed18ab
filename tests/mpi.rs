//! The `mpi` backend under a real `mpirun`.
#![cfg(feature = "mpi")]

mod common;

use common::{example, mpirun, text_of};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The example that is one rank of each job here.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("mpi_collectives"))
}

fn count(haystack: &[u8], needle: &str) -> usize {
    String::from_utf8_lossy(haystack).matches(needle).count()
}

/// Chunks of 7 bytes send nearly every message through the paths for large ones; 100 bytes mix the two.
#[test]
fn every_collective_answers_right_at_any_chunk_size() {
    for (ranks, chunk_bytes) in [(1, "7"), (2, "7"), (3, "7"), (4, "7"), (3, "100"), (4, "1000000")] {
        let Some(output) = mpirun(ranks, program(), &["check", chunk_bytes]) else { return };
        assert!(output.status.success(), "{ranks} ranks, {chunk_bytes}: {}", text_of(&output));
        let line = format!("checked {ranks} ranks over mpi (");
        assert_eq!(count(&output.stdout, &line), 1, "{}", text_of(&output));
    }
}

#[test]
fn a_failing_rank_ends_the_job_with_its_message_and_code() {
    let Some(output) = mpirun(3, program(), &["fail", "2"]) else { return };
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "rank 2: key `lr` is wrong (line 3)"), 1, "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "key `lr` is wrong"), 1, "{}", text_of(&output));
}

#[test]
fn an_agreed_error_is_printed_once() {
    let Some(output) = mpirun(3, program(), &["agree", "1"]) else { return };
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "error: key `lr` is wrong (line 3)"), 1, "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "key `lr` is wrong"), 1, "{}", text_of(&output));
}

#[test]
fn a_panicking_rank_ends_the_job() {
    let Some(output) = mpirun(3, program(), &["panic", "0"]) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "a planned panic"), 1, "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "rank 0: stopped by the panic above"), 1, "{}", text_of(&output));
}

/// Such a panic goes past the main thread's panic hook.
#[test]
fn a_panicking_compute_thread_ends_the_job() {
    let Some(output) = mpirun(2, program(), &["compute", "1"]) else { return };
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "a planned panic"), 1, "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "rank 1: stopped by the panic above"), 1, "{}", text_of(&output));
}

#[test]
fn an_exit_code_of_success_passes_through_mpirun() {
    let Some(output) = mpirun(2, program(), &["exit", "75"]) else { return };
    assert_eq!(output.status.code(), Some(75), "{}", text_of(&output));
}

/// Processes that are told of each other but see no other rank would each train alone.
#[test]
fn separate_worlds_of_one_rank_are_refused() {
    let output = assert_cmd::Command::new(program())
        .args(["check", "7"])
        .env("SLURM_STEP_ID", "0")
        .env("SLURM_STEP_NUM_TASKS", "4")
        .output()
        .expect("the example runs");
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    assert_eq!(count(&output.stderr, "error: 4 processes were started"), 1, "{}", text_of(&output));
}
