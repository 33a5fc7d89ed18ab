//! What several integration tests need. Each of them compiles its own copy and uses a part of it.
#![allow(dead_code)]

pub mod job;
pub mod log;
pub mod state;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
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
    let output = assert_cmd::Command::from_std(mpirun_command(ranks, program, args)?)
        .timeout(Duration::from_secs(TIMEOUT_S + 30))
        .output()
        .unwrap_or_else(|error| panic!("mpirun -n {ranks} {} {args:?}: {error}", program.display()));
    Some(output)
}

/// What [`mpirun`] runs.
pub fn mpirun_command(ranks: usize, program: &Path, args: &[&str]) -> Option<Command> {
    if let Err(error) = Command::new("mpirun").arg("--version").output() {
        assert!(std::env::var_os("CI").is_none(), "mpirun cannot be started on this CI machine: {error}");
        eprintln!("SKIPPED: mpirun cannot be started ({error}); `apt-get install openmpi-bin libopenmpi-dev`");
        return None;
    }
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &ranks.to_string()])
        .arg(program)
        .args(args)
        .envs(MPI_SETTINGS)
        // `mpirun` ends its ranks itself when it is late; a kill from outside could leave them running.
        .env("MPIEXEC_TIMEOUT", TIMEOUT_S.to_string());
    Some(command)
}

/// Sends a signal, such as `TERM`, to a process.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{name} {process}");
}

/// Waits until the run in `run_dir` that `child` trains has taken its step `step`, and its log says so.
pub fn wait_for_step(child: &mut Child, run_dir: &Path, step: u64) {
    let taken = |line: &str| -> Option<u64> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["event"] == "step").then(|| line["step"].as_u64())?
    };
    let log = run_dir.join("metrics.jsonl");
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.lines().filter_map(taken).any(|taken| taken >= step)) {
        assert!(child.try_wait().expect("a child").is_none(), "the run ended before step {step}");
        std::thread::sleep(Duration::from_millis(5));
    }
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
    // With the features of this test, or all of tandem would be built a second time.
    let features = [
        ("cloud", cfg!(feature = "cloud")),
        ("encoder", cfg!(feature = "encoder")),
        ("mpi", cfg!(feature = "mpi")),
        ("serving", cfg!(feature = "serving")),
    ];
    if features.iter().any(|(_, on)| !on) {
        let on: Vec<&str> = features.iter().filter_map(|(name, on)| on.then_some(*name)).collect();
        cargo.args(["--no-default-features", "--features", &on.join(",")]);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    // What cargo has set for this test would be other values to the build scripts of dependencies that ask for them: half of
    // tandem would be built again, and once more after the test.
    let of_package =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR";
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        cargo.env_remove(name);
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
