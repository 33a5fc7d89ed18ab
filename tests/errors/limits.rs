//! Numbers that run away and tables that grow too large.

use crate::common::text_of;
use crate::fixture::{Fixture, assert_refused, columns, tandem, with};
use arrow::array::{ArrayRef, Int64Array};
use std::process::Output;
use std::sync::Arc;

#[test]
fn divergence_names_the_task_and_the_row_also_under_mpi() {
    for ranks in [1, 2] {
        let fixture = Fixture::new();
        let more = ["--set", "optimizer.dense.lr=1e30", "--set", "checkpoint.every=1 steps"];
        let Some(output) = fixture.train_on(ranks, &more) else { return };
        let parts =
            ["the loss of task `click` is not finite", ".parquet", "row group", "row ", "after step", "learning rates"];
        assert_refused(&output, 1, &parts);
        assert!(!fixture.checkpoints().is_empty());
        assert_replays(&output);
    }
}

/// The command that the message ends with finds the same.
fn assert_replays(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (_, command) = stderr.split_once("`tandem replay ").expect("the message says how to replay");
    let (folder, _) = command.split_once('`').expect("a whole command");
    let replayed = tandem(&["replay", folder]);
    assert_eq!(replayed.status.code(), Some(1), "{}", text_of(&replayed));
    let text = String::from_utf8_lossy(&replayed.stdout);
    assert!(text.contains("the loss of task `click` is not finite") && text.contains("as in the run"), "{text}");
    let replayed = tandem(&["replay", folder, "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&replayed.stdout).expect("--json prints JSON");
    assert_eq!((&found["finite"], &found["same"], &found["rows"]), (&false.into(), &true.into(), &20.into()));
    assert_eq!(found["finding"]["task"], "click");
    let nothing = tandem(&["replay", "."]);
    assert_refused(&nothing, 1, &["there is no step to replay here", "non_finite.json"]);
}

/// A run that dies of one more step's weights must not pass off the last ones as predictions.
#[test]
fn a_diverged_model_is_not_evaluated() {
    let fixture = Fixture::new();
    let more = ["--set", "optimizer.dense.lr=1e38", "--set", "train.max_steps=1"];
    let parts = ["the prediction of task `click` is", "valid/0.parquet", "has diverged"];
    assert_refused(&fixture.train(&more), 1, &parts);
}

/// 1000 users a file, each seen once.
fn many_users(fixture: &Fixture) {
    for file in 0..3i64 {
        let users: ArrayRef = Arc::new((file * 10_000..file * 10_000 + 1000).collect::<Int64Array>());
        fixture.write(&format!("train/{file}.parquet"), with(columns(0..1000), "user", users));
    }
}

#[test]
fn a_table_too_large_for_memory_names_itself_and_the_way_out_also_under_mpi() {
    for ranks in [1, 2] {
        let fixture = Fixture::new();
        many_users(&fixture);
        // Pages of 256 KiB: room for those of `city` and the first of `user`, on each rank.
        let dim = ["--set", "features.user.dim=256", "--set", "checkpoint.every=2 steps"];
        let limit = ["--set", "memory_limit=1700 KiB"];
        let Some(output) = fixture.train_on(ranks, &[&dim[..], &limit].concat()) else { return };
        assert_refused(
            &output,
            1,
            &["table `user`", "`memory_limit` leaves", "raise `memory_limit`", "eviction.max_rows"],
        );
        fixture.assert_evaluates();
        // What the message says to do works, and what was learnt is kept.
        let evict = ["--set", "tables.user.eviction={max_rows: 100}", "--resume"];
        let Some(output) = fixture.train_on(ranks, &[&dim[..], &limit, &evict].concat()) else { return };
        assert!(output.status.success(), "{}", text_of(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("going on after step"), "{}", text_of(&output));
    }
}

/// The limit was for the ranks that trained.
#[test]
fn a_limit_on_memory_does_not_bind_other_commands_also_under_mpi() {
    let fixture = Fixture::new();
    many_users(&fixture);
    let more = ["--set", "features.user.dim=64", "--set", "memory_limit=1400 KiB"];
    let Some(output) = fixture.train_on(2, &more) else { return };
    assert!(output.status.success(), "{}", text_of(&output));
    fixture.assert_evaluates();
    assert_refused(
        &fixture.train(&[&more[..], &["--resume"]].concat()),
        1,
        &["embedding table", "`memory_limit` leaves"],
    );
}
