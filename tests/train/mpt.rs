//! MPT-Rec: environments of rows that survive shuffling, stops and other numbers of ranks, and a new task that leaves the
//! old ones exactly as they were.

use crate::common::job::{How, Workplace, newest, train};
use crate::common::state::{State, assert_identical};
use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use tandem::comm::threads;
use tandem::config::Checked;
use tandem::data::store::Local;
use tandem::train::predict;
use tandem::train::run::Ending;
use tandem::train::trained::Trained;

/// 11 steps an epoch; environments are assigned after the first and the second.
const STAGE_1: &[&str] = &[
    "tasks=[{name: click, label: click}, {name: buy, label: buy, where: click}]",
    "model={kind: mpt, expert: [8, 6], tower: [4], l2: 0.001}",
    "optimizer={dense: {kind: adam, lr: 0.01}, sparse: {kind: adam, lr: 0.01}}",
    "train.epochs=3",
];

const STAGE_2: &[&str] = &[
    "tasks=[{name: click, label: click}, {name: buy, label: buy, where: click}, {name: like, label: genre, positive: [1]}]",
    "model={kind: mpt, expert: [8, 6], tower: [4], l2: 0.001, new_tasks: [like]}",
    "optimizer={dense: {kind: adam, lr: 0.01}, sparse: {kind: adam, lr: 0.01}}",
    "train.epochs=3",
    "freeze.loaded=true",
];

fn stage_2(place: &Workplace, overrides: &[&str]) -> Checked {
    let from = format!("init_from={}", place.path("stage1").display());
    place.job(&[STAGE_2, &[&from], overrides].concat())
}

/// `(pred_click, pred_buy)` of every row of `data.valid`, bit for bit.
fn predictions(place: &Workplace, run: &str, out: &str) -> Vec<(u32, u32)> {
    let out = place.path(out);
    let data = vec![place.path("valid/*.parquet").display().to_string()];
    let options =
        predict::Options { data, out: out.clone(), global_batch: 64, resume: false, nulls_for_missing: false };
    let scored = threads::run(1, threads::Options::default(), |comm| {
        let mut trained = Trained::load(&comm, &newest(&place.path(run)))?;
        predict::predict(&comm, &mut trained, Arc::new(Local), &options)
    });
    scored.into_iter().for_each(|rows| assert_eq!(rows.unwrap_or_else(|error| panic!("{error}")).rows, 60));
    let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Vec<(u32, u32)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let of = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Float32Type>().values().clone();
        let (click, buy) = (of("pred_click"), of("pred_buy"));
        rows.extend(click.iter().zip(buy.iter()).map(|(click, buy)| (click.to_bits(), buy.to_bits())));
    }
    rows
}

#[test]
fn both_stages_are_the_same_on_any_number_of_ranks() {
    let place = Workplace::with_log(250);
    for (stage, job) in [("1", place.job(STAGE_1)), ("2", stage_2(&place, &[]))] {
        let alone = place.path(&format!("stage{stage}"));
        train(&job, 1, &alone, How::default());
        let state = State::read(&newest(&alone));
        assert_eq!(state.row_classes.len(), if stage == "1" { 250 } else { 0 }, "a byte a row");
        for ranks in [2, 4] {
            let run_dir = place.path(&format!("stage{stage}-{ranks}"));
            train(&job, ranks, &run_dir, How::default());
            let other = State::read(&newest(&run_dir));
            assert_eq!(state.row_classes, other.row_classes, "stage {stage}, {ranks} ranks");
            state.assert_close(&other, 5e-4, &format!("stage {stage}, {ranks} ranks"));
        }
    }
}

#[test]
fn environments_come_from_the_seed_first_and_then_from_the_model() {
    let place = Workplace::with_log(250);
    let classes = |name: &str, overrides: &[&str]| {
        let run_dir = place.path(name);
        train(&place.job(&[STAGE_1, overrides].concat()), 2, &run_dir, How::default());
        State::read(&newest(&run_dir)).row_classes
    };
    let drawn = classes("drawn", &["train.max_steps=11"]);
    assert_eq!(drawn, classes("unmoved", &["model.clustering_interval=3"]), "none are due before the third epoch ends");
    assert_ne!(drawn, classes("seed", &["train.max_steps=11", "seed=18"]));
    let assigned = classes("assigned", &["train.max_steps=12"]);
    assert_ne!(drawn, assigned);
    // A row without a click carries no label of `buy`, so it is a row of `click`.
    let not_clicked = (0..250).filter(|&row| crate::common::log::click(row) == 0);
    assert!(not_clicked.clone().count() > 50);
    not_clicked.for_each(|row| assert_eq!(assigned[row as usize], 0, "row {row}"));
    assert!(assigned.contains(&1));
}

#[test]
fn a_stopped_run_goes_on_with_its_environments() {
    let place = Workplace::with_log(250);
    let job = place.job(STAGE_1);
    let (straight, stopped) = (place.path("straight"), place.path("stopped"));
    train(&job, 2, &straight, How::default());
    // Inside an epoch, at its end before environments are assigned, and after that.
    for steps in [5, 6, 1] {
        let seen = train(&job, 2, &stopped, How { resume: true, stop_after: Some(steps), ..How::default() });
        assert_eq!(seen.ending, Ending::Signal);
    }
    train(&job, 2, &stopped, How { resume: true, ..How::default() });
    assert_identical(&newest(&straight), &newest(&stopped));
}

#[test]
fn stage_1_trains_under_every_kind_of_balancing() {
    let place = Workplace::with_log(250);
    for balance in [
        "{kind: uncertainty}",
        "{kind: mgda}",
        "{kind: cagrad, scope: representation}",
        "{kind: upgrad, scope: shared+rows}",
        "{kind: pmtrec}",
        "{kind: modo}",
        "{kind: db_mtl}",
        "{kind: famo}",
    ] {
        let (run_dir, balance) = (place.path(&format!("1{balance}")), format!("balance={balance}"));
        let seen = train(&place.job(&[STAGE_1, &["train.epochs=2", &balance]].concat()), 2, &run_dir, How::default());
        let steps = seen.steps();
        let loss = |step: usize| steps[step].plain_losses["click"].as_f64().expect("a number");
        assert!(loss(steps.len() - 1).is_finite(), "{balance}");
        let parameters = |step: u64| {
            let state = State::read(&run_dir.join(format!("checkpoints/step-{step:08}")));
            state.dense.into_iter().filter(|(name, _)| name.starts_with("parameters.")).collect::<Vec<_>>()
        };
        let (first, last) = (parameters(11), parameters(22));
        let same: Vec<_> = first.iter().zip(&last).filter(|(a, b)| a == b).map(|(a, _)| &a.0).collect();
        assert!(same.is_empty(), "{balance}: {same:?} do not move");
    }
}

#[test]
fn a_new_task_leaves_the_old_ones_exactly_as_they_were() {
    let place = Workplace::with_log(250);
    let stage1 = place.path("stage1");
    let last = |seen: &crate::common::job::Seen| {
        let (_, reports) = *seen.evaluations().last().expect("an evaluation");
        reports[..2].to_vec()
    };
    let before_reports = last(&train(&place.job(STAGE_1), 1, &stage1, How::default()));
    // The checkpoint of which stage 2 begins is the best one: here, the last.
    let from = format!("init_from={}", newest(&stage1).display());
    let job = place.job(&[STAGE_2, &[&from]].concat());
    let seen = train(&job, 1, &place.path("stage2"), How::default());
    let (before, after) = (State::read(&newest(&stage1)), State::read(&newest(&place.path("stage2"))));

    let mut new = Vec::new();
    for (name, values) in after.dense.iter().filter(|(name, _)| name.starts_with("parameters.")) {
        match before.dense.get(name) {
            Some(old) => assert!(old.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}"),
            None => new.push(name.trim_start_matches("parameters.").to_string()),
        }
    }
    assert_eq!(
        new,
        [
            "attention.like.hidden.weight",
            "attention.like.norm.scale",
            "attention.like.norm.shift",
            "attention.like.query.weight",
            "gates.like.weight",
            "prompts.like.vector",
            "towers.like.hidden.0.bias",
            "towers.like.hidden.0.weight",
            "towers.like.logits.bias",
            "towers.like.logits.weight"
        ]
    );
    let start = seen.begun_with.as_ref().expect("a report");
    assert_eq!(start.parameters.left_out, ["adversary.weight", "adversary.bias"]);
    let moved = |name: &str| after.dense[&format!("optimizer.v.{name}")].iter().any(|&v| v > 0.0);
    assert!(new.iter().all(|name| moved(name)), "all that is new is trained");
    assert_eq!(after.dense.keys().filter(|name| name.starts_with("optimizer.")).count(), 2 * new.len());

    let rows = |state: &State| -> Vec<_> { state.rows.keys().cloned().collect() };
    assert_eq!(rows(&before), rows(&after), "no row is new");
    for (key, row) in &after.rows {
        let old = &before.rows[key].floats;
        assert_eq!(row.floats[..], old[..row.floats.len()], "{key:?}: values, and no optimizer state");
    }
    assert_eq!(predictions(&place, "stage1", "before"), predictions(&place, "stage2", "after"));
    for (before, after) in before_reports.iter().zip(last(&seen)) {
        assert_eq!(before.values, after.values, "{}: the metrics of an old task", before.task);
    }
}
