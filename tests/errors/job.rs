//! Jobs and command lines that are wrong: exit code 2.

use crate::common::text_of;
use crate::fixture::{Fixture, assert_refused, tandem, tandem_on};
use std::path::Path;

/// An override that is wrong, and what the message must say.
const WRONG_KEYS: [(&str, &[&str]); 14] = [
    ("trian.epochs=2", &["unknown key `trian`", "did you mean `train`"]),
    ("train.epoch=2", &["unknown key `epoch`", "did you mean `epochs`"]),
    ("train.epochs=two", &["train.epochs", "expected a whole number"]),
    ("model.botom=[8]", &["unknown key `botom`", "key model.botom", "did you mean `bottom`"]),
    ("model.kind=mmoee", &["`mmoee`", "key model.kind", "did you mean `mmoe`"]),
    ("balance={kind: cagrad, see: 1}", &["unknown key `see`", "key balance.see", "kind cagrad"]),
    ("balance.kind=cargad", &["`cargad`", "key balance.kind", "cagrad"]),
    ("optimizer.dense.lrr=1", &["unknown key `lrr`", "key optimizer.dense.lrr", "did you mean `lr`"]),
    ("optimizer.sparse.lrr=1", &["unknown key `lrr`", "key optimizer.sparse.lrr"]),
    ("optimizer.schedule.warm=1", &["unknown key `warm`", "key optimizer.schedule.warm"]),
    ("tables.user.evict={max_rows: 3}", &["unknown key `evict`", "key tables.user.evict", "did you mean `eviction`"]),
    ("tables.user.optimizer={kind: adam, beta: 1}", &["unknown key `beta`", "key tables.user.optimizer.beta"]),
    ("train.eval.best.metric=gauc", &["`gauc` is not defined", "key train.eval.best.metric", "auc"]),
    ("memory_limit=2 gigs", &["`2 gigs`", "memory_limit", "2 GiB"]),
];

#[test]
fn a_wrong_key_is_named_with_the_right_one() {
    for (set, parts) in WRONG_KEYS {
        let fixture = Fixture::new();
        let output = fixture.train(&["--set", set]);
        assert_eq!(output.status.code(), Some(2), "{set}: {}", text_of(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        for part in parts.iter().chain(&[set]) {
            assert!(stderr.contains(part), "no {part:?} in: {stderr}");
        }
        assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    }
}

/// Each of these is found by every rank alone.
#[test]
fn a_wrong_key_is_said_once_under_mpi() {
    let fixture = Fixture::new();
    for set in ["train.epoch=2", "model.botom=[8]", "optimizer.schedule.warm=1", "train.eval.best.metric=gauc"] {
        let Some(output) = fixture.train_on(2, &["--set", set]) else { return };
        assert_refused(&output, 2, &[set]);
    }
}

#[test]
fn a_wrong_key_in_the_file_has_its_line() {
    let fixture = Fixture::new();
    let text = std::fs::read_to_string(fixture.path("job.yaml")).unwrap();
    for (from, to, parts) in [
        ("global_batch: 20", "globalbatch: 20", ["line 13", "key train.globalbatch"]),
        ("bottom: [64]", "botom: [64]", ["line 10", "key model.botom"]),
        ("{name: click, label: click}", "{name: click, lable: click}", ["line 8", "key tasks[0].lable"]),
    ] {
        std::fs::write(fixture.path("job.yaml"), text.replace(from, to)).unwrap();
        assert_refused(&fixture.train(&[]), 2, &[&parts[..], &["job.yaml", "did you mean"]].concat());
    }
}

#[test]
fn what_is_no_job_is_said_also_under_mpi() {
    let fixture = Fixture::new();
    let job = fixture.path("job.yaml");
    let train = |path: &Path| tandem(&["train", &path.display().to_string()]);
    assert_refused(&train(&fixture.path("nowhere.yaml")), 2, &["cannot be read", "nowhere.yaml"]);
    assert_refused(&train(&fixture.path("train")), 2, &["name the YAML file"]);
    assert_refused(&train(&fixture.path("train/0.parquet")), 2, &["not UTF-8", "train/0.parquet"]);
    std::fs::write(&job, b"name: caf\xe9\n").unwrap();
    assert_refused(&train(&job), 2, &["not UTF-8", "job.yaml", "line 1", "save the job as UTF-8"]);
    std::fs::write(&job, "").unwrap();
    assert_refused(&train(&job), 2, &["the job file is empty", "job.yaml"]);
    let Some(output) = tandem_on(2, &["train", &fixture.arg("nowhere.yaml")]) else { return };
    assert_refused(&output, 2, &["cannot be read", "nowhere.yaml"]);
}

#[test]
fn a_wrong_override_is_quoted() {
    let fixture = Fixture::new();
    for (set, part) in [
        ("train.epochs", "`key=value`"),
        ("=2", "is empty"),
        ("tasks.clik.weight=2", "did you mean `click`"),
        ("tasks.5.weight=2", "no entry 5"),
    ] {
        assert_refused(&fixture.train(&["--set", set]), 2, &[set, part]);
    }
    assert_refused(&fixture.train(&["--set", "train.epochs=[1"]), 2, &["not YAML", "train.epochs=[1", "in quotes"]);
}

#[test]
fn a_wrong_command_line_is_said_once_under_mpi() {
    for (args, code, part) in [
        (&["train", "--sett", "a=b"][..], 2, "unexpected argument '--sett'"),
        (&["trian"], 2, "unrecognized subcommand"),
        (&["eval", "x", "--data", "y", "--global-batch", "0"], 2, "--global-batch"),
        (&["--help"], 0, "on one rank or many"),
    ] {
        for ranks in [1, 2] {
            let Some(output) = tandem_on(ranks, args) else { return };
            assert_eq!(output.status.code(), Some(code), "{}", text_of(&output));
            let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(said.matches(part).count(), 1, "{ranks} ranks: {said}");
        }
    }
}

#[test]
fn a_run_folder_that_cannot_be_made_is_said_before_the_data_is_read_also_under_mpi() {
    let fixture = Fixture::new();
    let under_a_file = fixture.arg("job.yaml/run");
    // The data is not looked at: its own mistake is not the one reported.
    let output = fixture.train(&["--run-dir", &under_a_file, "--set", "data.train=nowhere"]);
    assert_refused(&output, 1, &["creating the run folder failed", &under_a_file, "--run-dir"]);
    let Some(output) = fixture.train_on(2, &["--run-dir", &under_a_file]) else { return };
    assert_refused(&output, 1, &["creating the run folder failed", &under_a_file]);
}

#[test]
fn a_second_run_in_the_same_folder_is_refused() {
    let fixture = Fixture::new();
    assert!(fixture.train(&[]).status.success());
    assert_refused(&fixture.train(&[]), 2, &["already holds checkpoints", "--resume", "--run-dir"]);
    fixture.assert_evaluates();
}

#[test]
fn more_ranks_than_lanes_is_said_once_under_mpi() {
    let fixture = Fixture::new();
    let Some(output) = fixture.train_on(3, &["--set", "data.lanes=2"]) else { return };
    assert_refused(&output, 2, &["3 ranks cannot share 2 lanes", "data.lanes", "start at most 2 ranks"]);
}
