//! `jobs/demo.sh`, the newcomer's first command, small.
#![cfg(feature = "mpi")]

mod common;

use std::process::Command;

#[test]
fn the_demo_on_two_mpi_ranks_prints_each_task_beside_the_best_attainable() {
    if Command::new("mpirun").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "mpirun cannot be started on this CI machine");
        eprintln!("SKIPPED: mpirun cannot be started");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/demo.sh"))
        .env("TANDEM", env!("CARGO_BIN_EXE_tandem"))
        .env("OUT", folder.path().join("demo"))
        .env("ROWS", "30000")
        .output()
        .unwrap();
    let text = common::text_of(&output);
    assert!(output.status.success(), "{text}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for task in ["click", "cart", "buy"] {
        let line =
            printed.lines().find(|line| line.starts_with(&format!("{task} ")) && line.split_whitespace().count() == 3);
        let line = line.unwrap_or_else(|| panic!("no line of {task}: {text}"));
        let numbers: Vec<f64> = line.split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect();
        // So few rows teach a little, and their AUC is itself uncertain by a few percent.
        assert!(numbers[0] > 0.55 && numbers[0] < numbers[1] + 0.05, "{line}");
        assert!((0.75..0.9).contains(&numbers[1]), "{line}");
    }
}
