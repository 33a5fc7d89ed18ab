//! Scenarios: numbered alike on any number of ranks, kept by checkpoints, and reported each on its own.

use crate::common::job::{EVERY_FEATURE, How, Seen, Workplace, assert_same_metrics, newest, train, try_train};
use crate::common::log;
use crate::common::state::{State, assert_identical};
use arrow::array::{ArrayRef, StringArray};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tandem::comm::threads;
use tandem::config::job::Paths;
use tandem::data::schema::Purpose;
use tandem::data::store::{Local, Store};
use tandem::metric::Report;
use tandem::observe::Stages;
use tandem::train::dataset::Dataset;
use tandem::train::events::Notice;
use tandem::train::trained::Trained;

/// The page of a row: none, or one of three; `new` is a fourth, which only rows for evaluation have.
fn page(row: u64) -> Option<&'static str> {
    let pages = [Some("shop"), Some("home"), None, Some("feed"), Some("home")];
    if row % 17 == 3 && row >= 10_000 { Some("new") } else { pages[(row % 5) as usize] }
}

fn columns(rows: Range<u64>) -> log::Columns {
    let page: ArrayRef = Arc::new(rows.clone().map(page).collect::<StringArray>());
    log::columns(rows).into_iter().chain([("page", page)]).collect()
}

fn place() -> Workplace {
    let place = Workplace::new(EVERY_FEATURE);
    log::write(&place.path("train/a.parquet"), columns(0..90), 31);
    log::write(&place.path("train/b.parquet"), columns(90..250), 50);
    log::write(&place.path("valid/a.parquet"), columns(10_000..10_060), 25);
    place
}

const SCENARIO: &str = "data.scenario=page";

fn reports(seen: &Seen) -> Vec<&Report> {
    let mut reports = Vec::new();
    for notice in &seen.notices {
        if let Notice::Eval(e) = notice {
            reports.push(&e.report);
        }
    }
    reports
}

/// The metrics of a checkpoint over `data.valid`, on `ranks` ranks.
fn evaluate(place: &Workplace, checkpoint: &Path, ranks: usize) -> Report {
    let reports = threads::run(ranks, threads::Options::unruly(ranks as u64), |comm| {
        let mut trained = Trained::load(&comm, checkpoint)?;
        let store: Arc<dyn Store> = Arc::new(Local);
        let paths = Paths::One("valid".to_string());
        trained.job.data.root = Some(place.path("").display().to_string());
        let valid = Dataset::open(&comm, &store, &trained.job, Some(&paths), Purpose::Evaluate)?.unwrap();
        valid.evaluate(&comm, &mut trained.trainable, &trained.statistics, 16, &Stages::start())
    });
    let mut reports: Vec<Report> = reports.into_iter().map(|rank| rank.unwrap_or_else(|e| panic!("{e}"))).collect();
    assert!(reports.iter().all(|report| *report == reports[0]), "ranks differ");
    reports.swap_remove(0)
}

#[test]
fn metrics_of_each_scenario_are_those_of_its_rows() {
    let place = place();
    let run_dir = place.path("run");
    let seen = train(&place.job(&[SCENARIO]), 2, &run_dir, How::default());
    let last = reports(&seen).pop().unwrap().clone();
    let rows = |name: Option<&str>| {
        let known = |row: &u64| page(*row).filter(|page| *page != "new");
        (10_000..10_060).filter(|row| known(row) == name).count() as u64
    };
    let names = [Some("feed"), Some("home"), Some("shop"), None];
    let heads: Vec<_> = last.scenarios.iter().map(|s| (s.scenario.as_deref(), s.rows)).collect();
    assert_eq!(heads, names.map(|name| (name, rows(name))));
    assert!(rows(None) > 12, "some rows have no page, some a new one");
    for (task, whole) in last.tasks.iter().enumerate() {
        let of_scenarios = last.scenarios.iter().map(|s| s.tasks[task].get("rows").unwrap());
        assert_eq!(of_scenarios.sum::<f64>(), whole.get("rows").unwrap());
    }
    // Exact whatever the number of ranks; that the numbers are right, `metric::scenarios` tests.
    let one = evaluate(&place, &newest(&run_dir), 1);
    for ranks in 2..=3 {
        assert_eq!(evaluate(&place, &newest(&run_dir), ranks), one, "{ranks} ranks");
    }
    assert_eq!(one.scenarios.len(), 4);
}

#[test]
fn a_model_that_does_not_read_the_scenario_trains_as_without() {
    let place = place();
    let state = |overrides: &[&str], name: &str| {
        train(&place.job(overrides), 1, &place.path(name), How::default());
        State::read(&newest(&place.path(name)))
    };
    assert_eq!(state(&[SCENARIO], "with"), state(&[], "without"));
}

/// The multi-scenario architectures, small; a bias before a norm would have no gradient but rounding errors.
const MODELS: [&str; 3] = [
    "model={kind: star, bottom: [8], tower: [4], auxiliary: [4], scenario_dim: 3, dropout: 0.2}",
    "model={kind: pepnet, personal: [user], gate: 5, tower: [8, 4], scenario_dim: 3}",
    "model={kind: m2m, experts: 2, expert: [8, 4], attention: 3, knowledge: [4], scenario_dim: 3}",
];
const MOMENTUM: &str = "optimizer.dense={kind: sgd, lr: 0.02, momentum: 0.9}";

#[test]
fn multi_scenario_models_train_alike_on_any_number_of_ranks() {
    let place = place();
    for (number, (model, balance)) in MODELS
        .into_iter()
        .zip(["balance.kind=uniform", "balance.kind=mgda", "balance={kind: cagrad, c: 0.4}"])
        .enumerate()
    {
        let job = place.job(&[SCENARIO, MOMENTUM, model, balance]);
        let run = |ranks: usize| {
            let run_dir = place.path(&format!("{number}-{ranks}"));
            let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
            let seen = train(&job, ranks, &run_dir, how);
            (seen, State::read(&newest(&run_dir)))
        };
        let (alone, state) = run(1);
        for ranks in [2, 4] {
            let (seen, other) = run(ranks);
            state.assert_close(&other, 5e-4, &format!("{model} on {ranks} ranks"));
            for (one, many) in reports(&alone).into_iter().zip(reports(&seen)) {
                assert_same_metrics(&one.tasks, &many.tasks, 5e-3, model);
                assert_eq!(one.scenarios.len(), many.scenarios.len());
            }
        }
        let tested = evaluate(&place, &newest(&place.path(&format!("{number}-1"))), 3);
        assert_eq!(tested.scenarios.last().unwrap().scenario, None, "rows of \"other\" are scored");
    }
}

#[test]
fn multi_scenario_models_are_resumed_without_a_trace() {
    let place = place();
    for (number, model) in MODELS.into_iter().enumerate() {
        let job = place.job(&[SCENARIO, model, "optimizer.dense={kind: adam, lr: 0.01}"]);
        let (straight, stopped) = (place.path(&format!("straight{number}")), place.path(&format!("stopped{number}")));
        train(&job, 2, &straight, How::default());
        train(&job, 2, &stopped, How { stop_after: Some(7), ..How::default() });
        train(&job, 2, &stopped, How { resume: true, ..How::default() });
        assert_identical(&newest(&straight), &newest(&stopped));
    }
}

#[test]
fn a_run_goes_on_with_its_own_scenarios_only() {
    let place = place();
    let run_dir = place.path("run");
    let stop = How { stop_after: Some(3), ..How::default() };
    train(&place.job(&[SCENARIO]), 1, &run_dir, stop);
    for other in [&["data.scenario=hour"][..], &[]] {
        let errors = try_train(&place.job(other), 2, &run_dir, How { resume: true, ..How::default() });
        for error in errors {
            assert_eq!(error.unwrap_err().place("key"), Some("data.scenario"));
        }
    }
    let without = place.path("without");
    train(&place.job(&[]), 1, &without, stop);
    let error = try_train(&place.job(&[SCENARIO]), 1, &without, How { resume: true, ..How::default() }).remove(0);
    assert_eq!(error.unwrap_err().place("key"), Some("data.scenario"));
    assert_eq!(train(&place.job(&[SCENARIO]), 3, &run_dir, How { resume: true, ..How::default() }).step, 22);
}
