//! What several integration tests need. Each of them compiles its own copy and uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Ends a job that hangs, so that its test fails instead. Far above what any of these jobs takes.
const TIMEOUT_S: u64 = 120;

/// Settings of `mpirun` by the environment, since flags differ between MPI libraries: more ranks than cores, which
/// then should not spin (Open MPI 4 reads the first two, 5 the third), and root, as whom containers run tests.
pub const MPI_SETTINGS: [(&str, &str); 5] = [
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("OMPI_MCA_mpi_yield_when_idle", "1"),
    ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
];

/// Runs `program` on `ranks` MPI ranks of this machine.
///
/// Returns `None` where there is no `mpirun`, having said so, for the test to skip the rest; on a CI
/// machine (`CI` is set) that is a failure.
pub fn mpirun(ranks: usize, program: &Path, args: &[&str]) -> Option<Output> {
    if let Err(error) = Command::new("mpirun").arg("--version").output() {
        assert!(std::env::var_os("CI").is_none(), "mpirun cannot be started on this CI machine: {error}");
        eprintln!("SKIPPED: mpirun cannot be started ({error}); `apt-get install openmpi-bin libopenmpi-dev`");
        return None;
    }
    let output = assert_cmd::Command::new("mpirun")
        .args(["-n", &ranks.to_string()])
        .arg(program)
        .args(args)
        .envs(MPI_SETTINGS)
        // `mpirun` ends its ranks itself when it is late; a kill from outside could leave them running.
        .env("MPIEXEC_TIMEOUT", TIMEOUT_S.to_string())
        .timeout(Duration::from_secs(TIMEOUT_S + 30))
        .output()
        .unwrap_or_else(|error| panic!("mpirun -n {ranks} {} {args:?}: {error}", program.display()));
    Some(output)
}

/// The path of `examples/NAME.rs` as a program of this build's profile, brought up to date by cargo:
/// `cargo test --test …` alone does not build examples.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/test-0123
    let profile_dir = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let target_dir = profile_dir.parent().expect("profiles lie in target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", name]).arg("--target-dir").arg(target_dir);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(status.success(), "building the example {name} failed");
    profile_dir.join("examples").join(name)
}

/// Both output streams of a finished program, for assertion messages.
pub fn text_of(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
