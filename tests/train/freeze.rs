//! Runs that begin with another run's checkpoint, and runs that leave parts as they are.

use crate::common::job::{How, Workplace, newest, train, try_train};
use crate::common::state::{Row, State, assert_identical};
use std::collections::BTreeMap;
use std::path::Path;
use tandem::checkpoint::Manifest;
use tandem::config::Checked;
use tandem::train::init::Report;

/// Batch norm and moments of both optimizers.
const BEFORE: &[&str] = &[
    "model={kind: mmoe, experts: 2, expert: [8, 6], tower: [4], norm: batch}",
    "optimizer={dense: {kind: adam, lr: 0.01}, sparse: {kind: adam, lr: 0.01}}",
];

/// A workplace where a run in `before` has been trained.
fn trained() -> Workplace {
    let place = Workplace::with_log(250);
    train(&place.job(BEFORE), 1, &place.path("before"), How::default());
    place
}

fn job(place: &Workplace, overrides: &[&str]) -> Checked {
    let from = format!("init_from={}", place.path("before").display());
    place.job(&[BEFORE, &[&from], overrides].concat())
}

/// What `job` begins with, seen after a step too small to move anything, and the report.
fn begun(job: &Checked, ranks: usize, run_dir: &Path) -> (State, Report) {
    let mut still = job.clone().into_job();
    still.train.max_steps = Some(1);
    still.optimizer.dense = serde_yaml::from_str("{kind: adam, lr: 1.0e-30}").unwrap();
    still.optimizer.sparse = serde_yaml::from_str("{kind: adam, lr: 1.0e-30}").unwrap();
    let seen = train(&Checked::new(still).unwrap(), ranks, run_dir, How::default());
    (State::read(&newest(run_dir)), seen.begun_with.expect("a report"))
}

fn of(state: &State, part: &str) -> BTreeMap<String, Vec<f32>> {
    state.dense.iter().filter(|(name, _)| name.starts_with(part)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// The rows' values alone.
fn values(state: &State, dim: impl Fn(&str) -> usize) -> BTreeMap<(String, u64), Vec<f32>> {
    let value = |(key, row): (&(String, u64), &Row)| (key.clone(), row.floats[..dim(&key.0)].to_vec());
    state.rows.iter().map(value).collect()
}

fn dims(path: &Path) -> BTreeMap<String, usize> {
    Manifest::read(path).unwrap().tables.into_iter().map(|table| (table.name, table.dim)).collect()
}

#[test]
fn the_same_job_begins_with_everything_at_any_number_of_ranks() {
    let place = trained();
    let before = State::read(&newest(&place.path("before")));
    let dims = dims(&newest(&place.path("before")));
    for ranks in [1, 2, 3] {
        let (after, report) = begun(&job(&place, &[]), ranks, &place.path(&format!("after{ranks}")));
        assert_eq!(of(&after, "parameters."), of(&before, "parameters."), "{ranks} ranks");
        let known: Vec<_> = before.rows.keys().collect();
        let (was, is) = (values(&before, |table| dims[table]), values(&after, |table| dims[table]));
        assert!(known.iter().all(|key| was[key] == is[key]), "{ranks} ranks");
        let nothing: [&Vec<String>; 6] = [
            &report.parameters.new,
            &report.parameters.left_out,
            &report.parameters.reshaped,
            &report.tables.new,
            &report.tables.left_out,
            &report.statistics.new,
        ];
        assert!(nothing.iter().all(|names| names.is_empty()), "{report}");
        assert_eq!((report.optimizer.as_str(), report.step), ("fresh", 22));
    }
}

#[test]
fn a_kept_optimizer_goes_on_where_a_fresh_one_begins_anew() {
    let place = trained();
    let keep = format!("init_from={{checkpoint: {}, optimizer: keep}}", place.path("before").display());
    let one_step = ["train.max_steps=1"];
    let run = |name: &str, job: &Checked| {
        train(job, 2, &place.path(name), How::default());
        let manifest = Manifest::read(&newest(&place.path(name))).unwrap();
        (State::read(&newest(&place.path(name))), manifest.optimizer.0)
    };
    let (fresh, updates) = run("fresh", &job(&place, &one_step));
    assert_eq!(updates, 1);
    let (kept, updates) = run("kept", &place.job(&[BEFORE, &[&keep], &one_step].concat()));
    assert_eq!(updates, 23);
    assert_ne!(of(&fresh, "optimizer.v"), of(&kept, "optimizer.v"));
    // Another kind of optimizer has other moments, and says so.
    let sgd = ["optimizer.dense={kind: sgd, lr: 1.0e-9}", "train.max_steps=1"];
    let other = place.job(&[BEFORE, &[&keep], &sgd].concat());
    let seen = train(&other, 1, &place.path("sgd"), How::default());
    assert!(seen.begun_with.expect("a report").optimizer.starts_with("fresh: the checkpoint has the moments [m, v]"));
    assert_eq!(Manifest::read(&newest(&place.path("sgd"))).unwrap().optimizer.0, 1);
}

#[test]
fn another_job_takes_what_it_knows_and_says_what_not() {
    let place = trained();
    let other = job(
        &place,
        &[
            "tasks=[{name: click, label: click}, {name: like, label: buy, where: click}]",
            "features.user.dim=6",
            "checkpoint.buckets=16",
        ],
    );
    let before = State::read(&newest(&place.path("before")));
    let (after, report) = begun(&other, 2, &place.path("other"));
    let named = |names: &[String], part: &str| names.iter().any(|name| name.contains(part));
    assert!(named(&report.parameters.loaded, "towers.click"), "{report}");
    assert!(named(&report.parameters.new, "towers.like"), "{report}");
    assert!(named(&report.parameters.left_out, "towers.buy"), "{report}");
    assert!(named(&report.parameters.reshaped, "experts.0.weight"), "{report}");
    assert_eq!(report.tables.reshaped, ["user"]);
    let tower = "parameters.towers.click.logits.weight";
    assert_eq!(after.dense[tower], before.dense[tower]);
    // With other buckets every row still finds its owner.
    let items = |state: &State| state.rows.keys().filter(|(table, _)| table == "item").count();
    assert_eq!(items(&after), items(&before));
}

#[test]
fn a_checkpoint_of_which_nothing_fits_is_refused() {
    let place = trained();
    let nothing = job(
        &place,
        &[
            "features=[{name: colour, column: user, kind: categorical, dim: 5}]",
            "tasks=[{name: other, label: click}]",
            "model={kind: shared_bottom, bottom: [7], tower: [3]}",
        ],
    );
    let error = try_train(&nothing, 1, &place.path("nothing"), How::default()).remove(0).unwrap_err().to_string();
    assert!(error.contains("nothing in the checkpoint"), "{error}");
    let missing = place.job(&["init_from=/nowhere/at/all"]);
    let error = try_train(&missing, 2, &place.path("missing"), How::default()).remove(1).unwrap_err().to_string();
    assert!(error.contains("there is no checkpoint here") && error.contains("init_from"), "{error}");
}

/// Half of the model and half of the tables.
const HALF: &str = "freeze={dense: ['*', '!towers.*', '!experts.1.*'], tables: [user, 'item*', '!item_hour']}";

fn is_frozen(name: &str) -> bool {
    !name.contains("towers.") && !name.contains("experts.1.")
}

#[test]
fn what_is_frozen_keeps_its_bits_under_every_kind_of_balancing() {
    let place = trained();
    let before = State::read(&newest(&place.path("before")));
    let dims = dims(&newest(&place.path("before")));
    let was = values(&before, |table| dims[table]);
    for balance in [
        "{kind: uniform}",
        "{kind: uncertainty}",
        "{kind: mgda}",
        "{kind: pcgrad, scope: shared+rows}",
        "{kind: cagrad, scope: representation}",
        "{kind: pmtrec}",
        "{kind: moco}",
        "{kind: famo}",
    ] {
        let run_dir = place.path(balance);
        let balance = format!("balance={balance}");
        train(&job(&place, &[HALF, "train.max_steps=6", &balance]), 2, &run_dir, How::default());
        let after = State::read(&newest(&run_dir));
        let mut moved = 0;
        for (name, values) in &after.dense {
            let Some(name) = name.strip_prefix("parameters.").or_else(|| name.strip_prefix("buffers.")) else {
                assert!(!is_frozen(name), "{balance}: `{name}` is a moment of what is frozen");
                continue;
            };
            let old = before.dense.get(&format!("parameters.{name}")).or(before.dense.get(&format!("buffers.{name}")));
            if is_frozen(name) {
                assert_eq!(Some(values), old, "{balance}: {name}");
            } else {
                moved += usize::from(Some(values) != old);
            }
        }
        assert!(moved > 0, "{balance}: something is trained");
        let is = values(&after, |table| dims[table]);
        for table in ["user", "item"] {
            let of = |rows: &BTreeMap<(String, u64), Vec<f32>>| -> Vec<_> {
                rows.iter().filter(|((name, _), _)| name == table).map(|(k, v)| (k.clone(), v.clone())).collect()
            };
            assert_eq!(of(&was), of(&is), "{balance}: {table} keeps its rows, and gets none");
        }
        let hours = |rows: &BTreeMap<(String, u64), Vec<f32>>| {
            rows.iter().filter(|((name, _), _)| name == "item_hour").map(|(_, v)| v.clone()).collect::<Vec<_>>()
        };
        assert_ne!(hours(&was), hours(&is), "{balance}: item_hour is trained");
    }
}

#[test]
fn frozen_runs_are_the_same_on_any_number_of_ranks_and_resume() {
    let place = trained();
    // Before a batch norm the gradients of biases cancel to rounding errors, which Adam would make large.
    let sgd = "optimizer.dense={kind: sgd, lr: 0.05, momentum: 0.9}";
    let job = job(&place, &[HALF, sgd, "balance.kind=cagrad", "train.max_steps=10"]);
    let one = place.path("one");
    train(&job, 1, &one, How::default());
    let state = State::read(&newest(&one));
    for ranks in [2, 4] {
        let run_dir = place.path(&format!("{ranks}"));
        train(&job, ranks, &run_dir, How::default());
        state.assert_close(&State::read(&newest(&run_dir)), 2e-4, &format!("{ranks} ranks"));
    }
    let stopped = place.path("stopped");
    train(&job, 1, &stopped, How { stop_after: Some(4), ..How::default() });
    // What it began with may be gone: the run's own checkpoint says what is frozen.
    std::fs::remove_dir_all(place.path("before")).unwrap();
    train(&job, 1, &stopped, How { resume: true, ..How::default() });
    assert_identical(&newest(&one), &newest(&stopped));
}

#[test]
fn a_task_that_reaches_nothing_trained_takes_no_part_in_balancing() {
    let place = trained();
    // Only the tower of `buy` is left: the other three tasks have nothing to say.
    let only = "freeze={loaded: true, dense: ['!towers.buy.*']}";
    for balance in ["uniform", "mgda", "upgrad", "uncertainty"] {
        let run_dir = place.path(balance);
        let job = job(&place, &[only, &format!("balance.kind={balance}"), "train.max_steps=5"]);
        let seen = train(&job, 2, &run_dir, How::default());
        assert!(seen.steps()[0].losses["click"].as_f64().unwrap() >= 0.0);
        let (before, after) = (State::read(&newest(&place.path("before"))), State::read(&newest(&run_dir)));
        let tower = "parameters.towers.buy.logits.weight";
        assert_ne!(before.dense[tower], after.dense[tower], "{balance}: buy is trained");
        assert_eq!(before.rows.keys().collect::<Vec<_>>(), after.rows.keys().collect::<Vec<_>>(), "{balance}");
        let moments: Vec<_> = after.dense.keys().filter(|name| name.starts_with("optimizer.")).collect();
        assert!(moments.iter().all(|name| name.contains("towers.buy")), "{balance}: {moments:?}");
    }
    let all = job(&place, &["freeze={dense: ['*'], tables: ['*']}"]);
    let error = try_train(&all, 1, &place.path("all"), How::default()).remove(0).unwrap_err().to_string();
    assert!(error.contains("nothing is left to train"), "{error}");
}
