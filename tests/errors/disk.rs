//! Disks that are full.
//!
//! Two ways to fill one: a small disk of the test's own, which needs the right to mount one (as root, or in a
//! namespace where the system allows that), and a limit on the size of files, which needs nothing.

use crate::common::text_of;
use crate::fixture::{Fixture, assert_one_message, assert_refused, names, shell};
use std::process::Output;

/// Runs `script` with a disk of `kib` KiB at `$DISK` inside the fixture's folder, which is gone afterwards. `None`,
/// having said so, where none may be mounted.
fn on_small_disk(fixture: &Fixture, kib: usize, script: &str) -> Option<Output> {
    let disk = fixture.arg("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size={kib}k none {disk}");
    let possible = shell(&format!("unshare -rm sh -c '{mount}'"));
    if !possible.status.success() {
        eprintln!("SKIPPED: no disk can be mounted here: {}", text_of(&possible));
        return None;
    }
    let file = fixture.path("script.sh");
    // `leave N` fills the disk up to N KiB.
    let fill = "leave() { head -c $(( ($(df --output=avail -k \"$DISK\" | tail -1) - $1) * 1024 )) /dev/zero > \"$DISK/filler\"; }";
    std::fs::write(&file, format!("set -u\nDISK={disk}\n{mount}\n{fill}\n{script}\n")).unwrap();
    Some(shell(&format!("unshare -rm sh {}", file.display())))
}

/// `tandem` commands of these scripts say their exit codes on stdout.
fn codes(output: &Output) -> Vec<i32> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    stdout.lines().filter_map(|line| line.strip_prefix("code ")?.parse().ok()).collect()
}

fn has(output: &Output, line: &str) -> bool {
    String::from_utf8_lossy(&output.stdout).lines().any(|printed| printed == line)
}

/// A first checkpoint, then a full disk, then a freed one.
fn checkpoint_on_a_full_disk(train: &str) {
    let fixture = Fixture::new();
    let (job, valid) = (fixture.arg("job.yaml"), fixture.arg("valid"));
    let script = format!(
        "train() {{ {train} train {job} --run-dir \"$DISK/run\" \"$@\" 2>> \"$DISK/../log\"; echo \"code $?\"; }}\n\
         train --set train.max_steps=2 -q\n\
         leave 20\n\
         train --resume -q 2>> \"$DISK/../log\"\n\
         ls \"$DISK/run/checkpoints\"\n\
         \"$TANDEM\" eval \"$DISK/run\" --data {valid} > /dev/null; echo \"code $?\"\n\
         grep -q shared_bottom \"$DISK/run/job.yaml\" && echo 'job kept'\n\
         rm \"$DISK/filler\"\n\
         train --resume -q\n\
         \"$TANDEM\" inspect \"$DISK/run/checkpoints/step-00000006\" > /dev/null; echo \"code $?\"",
    );
    let Some(output) = on_small_disk(&fixture, 2048, &script) else { return };
    let log = std::fs::read(fixture.path("log")).unwrap_or_default();
    let all = format!("{}\n{}", text_of(&output), String::from_utf8_lossy(&log));
    assert_eq!(codes(&output), [0, 1, 0, 0, 0], "{all}");
    assert!(has(&output, "step-00000002") && has(&output, "job kept"), "{all}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(".partial"), "the disk gets its space back: {all}");
    assert_one_message(&log, &["writing failed: No space left on device", "disk/run", "free space", "--resume"]);
}

#[test]
fn a_full_disk_ends_the_run_and_keeps_the_checkpoint() {
    checkpoint_on_a_full_disk("\"$TANDEM\"");
}

#[test]
fn a_full_disk_ends_all_ranks_under_mpi() {
    if shell("mpirun --version").status.success() {
        checkpoint_on_a_full_disk("mpirun -n 2 \"$TANDEM\"");
    }
}

/// The log grows at every step, and the run must not go on without it.
#[test]
fn a_log_that_fills_the_disk_ends_the_run() {
    let fixture = Fixture::new();
    let script = format!(
        "\"$TANDEM\" train {} --run-dir \"$DISK/run\" -q --set train.max_steps=2; echo \"code $?\"\n\
         leave 24\n\
         \"$TANDEM\" train {0} --run-dir \"$DISK/run\" -q --resume --set train.epochs=1000 \
             --set checkpoint.every=never --set train.eval.every=never; echo \"code $?\"\n\
         \"$TANDEM\" eval \"$DISK/run\" --data {} > /dev/null; echo \"code $?\"",
        fixture.arg("job.yaml"),
        fixture.arg("valid"),
    );
    let Some(output) = on_small_disk(&fixture, 2048, &script) else { return };
    assert_eq!(codes(&output), [0, 1, 0], "{}", text_of(&output));
    assert_one_message(&output.stderr, &["metrics.jsonl", "No space left on device", "--resume"]);
}

#[test]
fn predictions_that_fill_the_disk_end_all_ranks_under_mpi() {
    let fixture = Fixture::new();
    assert!(fixture.train(&[]).status.success());
    let launchers: &[&str] = if shell("mpirun --version").status.success() { &["", "mpirun -n 2"] } else { &[""] };
    for launcher in launchers {
        let script = format!(
            "leave 0\n{launcher} \"$TANDEM\" predict {} --data {} --out \"$DISK/out\"; echo \"code $?\"\nls \"$DISK/out\"",
            fixture.arg("run"),
            fixture.arg("train"),
        );
        let Some(output) = on_small_disk(&fixture, 512, &script) else { return };
        assert_eq!(codes(&output), [1], "{}", text_of(&output));
        let parts = ["writing predictions failed: No space left", "disk/out/part-", "empty folder"];
        assert_one_message(&output.stderr, &parts);
    }
}

#[test]
fn a_synthetic_log_that_fills_the_disk_is_not_taken_for_whole() {
    let fixture = Fixture::new();
    let synth = "\"$TANDEM\" synth \"$DISK/log\" --rows 20000 --files 4";
    let script = format!(
        "{synth}; echo \"code $?\"\nls \"$DISK/log\"\n\"$TANDEM\" train \"$DISK/log/job.yaml\" 2> /dev/null; echo \"code $?\""
    );
    let Some(output) = on_small_disk(&fixture, 256, &script) else { return };
    assert_eq!(codes(&output), [1, 2], "{}", text_of(&output));
    assert!(!has(&output, "synth.json"), "{}", text_of(&output));
    assert_one_message(&output.stderr, &["No space left on device", "disk/log", "fewer --rows"]);
}

/// Every writer, where files may not grow over a few KiB (blocks of 512 bytes).
#[test]
fn a_limit_on_the_size_of_files_is_an_error_like_a_full_disk() {
    let fixture = Fixture::new();
    // A model that is larger than the log of a run that evaluates nothing.
    let wide = ["--set", "model.bottom=[256]", "--set", "train.eval.every=never"];
    assert!(fixture.train(&[&["--set", "train.max_steps=2"], &wide[..]].concat()).status.success());
    let limited = |blocks: usize, command: String| shell(&format!("ulimit -f {blocks}; exec \"$TANDEM\" {command}"));

    let output = limited(48, format!("train {} --resume {}", fixture.arg("job.yaml"), wide.join(" ")));
    assert_refused(&output, 1, &["dense.safetensors", "File too large", "ulimit -f"]);
    assert_eq!(fixture.checkpoints(), ["step-00000002"]);
    fixture.assert_evaluates();

    let predict =
        format!("predict {} --data {} --out {}", fixture.arg("run"), fixture.arg("train"), fixture.arg("out"));
    let output = limited(1, predict);
    assert_refused(&output, 1, &["writing predictions failed", "out/part-", "File too large"]);
    assert!(names(&fixture.path("out")).is_empty());

    let output = limited(1, format!("synth {} --rows 20000 --files 4", fixture.arg("log")));
    assert_refused(&output, 1, &["writing failed", "log/", "File too large"]);
    assert!(!fixture.path("log/synth.json").exists());

    let endless = "--set train.epochs=1000 --set checkpoint.every=never";
    let output = limited(8, format!("train {} --resume {endless} {}", fixture.arg("job.yaml"), wide.join(" ")));
    assert_refused(&output, 1, &["metrics.jsonl", "File too large"]);
    fixture.assert_evaluates();

    // Freed of the limit, the run goes on.
    let output = fixture.train(&[&["--resume"], &wide[..]].concat());
    assert!(output.status.success(), "{}", text_of(&output));
}
