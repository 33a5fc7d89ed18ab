//! Checkpoints that belong to another job, are damaged, or were left by a killed run.

use crate::common::text_of;
use crate::fixture::{Fixture, assert_refused, columns, tandem};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A fixture with a finished run of two checkpoints.
fn trained() -> Fixture {
    let fixture = Fixture::new();
    let output = fixture.train(&["--set", "checkpoint.every=3 steps"]);
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(fixture.checkpoints(), ["step-00000003", "step-00000006"]);
    fixture
}

fn resume(fixture: &Fixture, sets: &[&str]) -> std::process::Output {
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    fixture.train(&[&["--resume", "--set", "train.epochs=2"], sets.as_slice()].concat())
}

#[test]
fn a_checkpoint_of_another_job_is_refused_with_the_difference_also_under_mpi() {
    let fixture = trained();
    let before = fixture.checkpoints();
    for (set, parts) in [
        ("model.bottom=[32]", ["`model.bottom[0]` is 32, and 64 in", "model.bottom[0]"]),
        (
            "model={kind: mmoe, experts: 2, expert: [4], tower: [4]}",
            ["`model.kind` is mmoe, and shared_bottom", "model"],
        ),
        ("features.user.dim=8", ["`features[1].dim` is 8, and 4 in", "features[1].dim"]),
        ("tasks.buy.name=purchase", ["`tasks[1].name` is purchase, and buy in", "tasks[1].name"]),
        ("optimizer.dense.kind=sgd", ["`optimizer.dense.kind` is sgd, and adam in", "optimizer.dense.kind"]),
        (
            "optimizer.sparse.kind=adam",
            ["`optimizer.sparse.kind` is adam, and rowwise_adagrad", "optimizer.sparse.kind"],
        ),
        ("tables.user.optimizer={kind: sgd}", ["`tables.user.optimizer.kind` is sgd, and not set", "tables.user"]),
        ("balance.kind=cagrad", ["`balance.kind` is cagrad, and uniform in", "balance.kind"]),
        ("seed=5", ["`seed` is 5, and 17 in", "seed"]),
        ("train.global_batch=40", ["`train.global_batch` is 40, and 20 in", "train.global_batch"]),
        ("checkpoint.buckets=8", ["`checkpoint.buckets` is 8, and 4 in", "checkpoint.buckets"]),
    ] {
        assert_refused(&resume(&fixture, &[set]), 2, &[&parts[..], &["set it back", "--run-dir"]].concat());
    }
    let more = ["--resume", "--set", "train.epochs=2", "--set", "seed=5"];
    if let Some(output) = fixture.train_on(2, &more) {
        assert_refused(&output, 2, &["`seed` is 5, and 17 in"]);
    }
    assert_eq!(fixture.checkpoints(), before);
    fixture.assert_evaluates();
    // And with the job as it was, it goes on.
    let output = resume(&fixture, &["optimizer.dense.lr=0.1"]);
    assert!(output.status.success(), "{}", text_of(&output));
}

#[test]
fn other_training_rows_are_refused() {
    let fixture = trained();
    fixture.write("train/1.parquet", columns(40..79));
    let parts = ["the training rows are not those of the checkpoint", "data.train", "restore the files"];
    assert_refused(&resume(&fixture, &[]), 1, &parts);
    std::fs::remove_file(fixture.path("train/1.parquet")).unwrap();
    assert_refused(&resume(&fixture, &[]), 1, &parts);
    fixture.assert_evaluates();
}

/// What can happen to the newest checkpoint's files, and what the message must say.
type Damage = (fn(&PathBuf), &'static [&'static str]);

const DAMAGES: [Damage; 6] = [
    (
        |path| std::fs::write(path.join("dense.safetensors"), "x").unwrap(),
        &["dense.safetensors", "has 1 bytes instead of", "move", "step-00000006"],
    ),
    (
        |path| {
            let file = path.join("buckets-00001-00001.safetensors");
            let mut bytes = std::fs::read(&file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&file, bytes).unwrap();
        },
        &["buckets-00001-00001.safetensors", "has checksum", "move", "step-00000006"],
    ),
    (
        |path| std::fs::remove_file(path.join("buckets-00002-00002.safetensors")).unwrap(),
        &["buckets-00002-00002.safetensors", "cannot be read", "move", "step-00000006"],
    ),
    (
        |path| std::fs::write(path.join("manifest.json"), "{\"format\": 1").unwrap(),
        &["manifest.json", "damaged", "step-00000006"],
    ),
    (
        |path| {
            let manifest = std::fs::read_to_string(path.join("manifest.json")).unwrap();
            let newer = manifest.replacen("\"format\": 2", "\"format\": 99", 1);
            std::fs::write(path.join("manifest.json"), newer).unwrap();
        },
        &["manifest.json", "format 99", "version of tandem"],
    ),
    (|path| std::fs::remove_file(path.join("manifest.json")).unwrap(), &["no readable manifest", "step-00000006"]),
];

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_taken() {
    for (damage, parts) in DAMAGES {
        let fixture = trained();
        let newest = fixture.path("run/checkpoints/step-00000006");
        damage(&newest);
        assert_refused(&resume(&fixture, &[]), 1, parts);
        let eval = tandem(&["eval", &newest.display().to_string(), "--data", &fixture.arg("valid")]);
        assert_eq!(eval.status.code(), Some(1), "{}", text_of(&eval));
        // As the message says.
        std::fs::rename(&newest, fixture.path("aside")).unwrap();
        fixture.assert_evaluates();
        let output = resume(&fixture, &[]);
        assert!(output.status.success(), "{}", text_of(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("going on after step 3"), "{}", text_of(&output));
    }
}

#[test]
fn damage_is_said_once_under_mpi() {
    let fixture = trained();
    let newest = fixture.path("run/checkpoints/step-00000006");
    std::fs::write(newest.join("dense.safetensors"), "x").unwrap();
    let Some(output) = fixture.train_on(2, &["--resume", "--set", "train.epochs=2"]) else { return };
    assert_refused(&output, 1, &["dense.safetensors", "has 1 bytes instead of"]);
}

#[test]
fn what_is_no_checkpoint_is_said() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path("run/checkpoints/step-00000009.partial")).unwrap();
    for path in ["nowhere", "job.yaml", "train", "run"] {
        // A folder of Parquet files is a log to it.
        for command in [&["inspect"][..], &["inspect", "--json"]].into_iter().filter(|_| path != "train") {
            let output = tandem(&[command, &[fixture.arg(path).as_str()]].concat());
            assert_refused(&output, 1, &["there is no checkpoint here", path, "step-NNNNNNNN"]);
        }
        let output = tandem(&["eval", &fixture.arg(path), "--data", &fixture.arg("valid")]);
        assert_refused(&output, 1, &["there is no checkpoint here", path]);
    }
    std::fs::create_dir_all(fixture.path("garbage")).unwrap();
    for garbage in [&b"not json"[..], b"{}", b"[1]", b"\xff\xfe", b"{\"format\":1}"] {
        std::fs::write(fixture.path("garbage/manifest.json"), garbage).unwrap();
        assert_refused(&tandem(&["inspect", &fixture.arg("garbage")]), 1, &["garbage/manifest.json"]);
    }
}

/// A run that is killed at any moment goes on from its newest whole checkpoint, and sweeps what it left.
#[test]
fn a_killed_run_goes_on() {
    let fixture = Fixture::new();
    let job = fixture.arg("job.yaml");
    let endless = ["train", &job, "--set", "train.epochs=100000", "--set", "checkpoint.every=2 steps"];
    let mut run = Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(endless)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("tandem starts");
    let give_up = Instant::now() + Duration::from_secs(100);
    while !fixture.checkpoints().iter().any(|name| name > &"step-00000020".to_string()) {
        assert!(Instant::now() < give_up, "no checkpoint: {:?}", fixture.checkpoints());
        assert!(run.try_wait().expect("a child").is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    run.kill().expect("killed");
    run.wait().expect("reaped");
    // A kill inside a save leaves such a folder; whether this one did is up to its timing.
    let left = fixture.path("run/checkpoints/step-00000001.partial");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("dense.safetensors"), "cut").unwrap();
    // So does a kill inside a line.
    let log = fixture.path("run/metrics.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{whole}{{\"event\":\"step\",\"st")).unwrap();

    fixture.assert_evaluates();
    let newest = fixture.checkpoints().iter().filter_map(|name| name.strip_prefix("step-")?.parse::<u64>().ok()).max();
    let more = newest.unwrap() + 4;
    let output =
        fixture.train(&["--resume", "--set", "train.epochs=100000", "--set", &format!("train.max_steps={more}")]);
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(fixture.checkpoints().iter().all(|name| !name.ends_with(".partial")), "{:?}", fixture.checkpoints());
    let mut steps = Vec::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        if event["event"] == "step" {
            steps.push(event["step"].as_u64().unwrap());
        }
    }
    assert_eq!(steps, (1..=more).collect::<Vec<_>>(), "every step is in the log once");
}
