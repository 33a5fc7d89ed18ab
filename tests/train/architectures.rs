//! Architectures whose tasks are chained, or have tables of their own, in whole runs: on any number of ranks, after a
//! resume, under every way to weigh that applies.

use crate::common::job::{How, Seen, Workplace, newest, train, try_train};
use crate::common::log::{self, draw};
use crate::common::state::State;
use std::collections::BTreeSet;
use tandem::comm::threads;
use tandem::train::run::Ending;

/// A chain of three, and the purchase after the click shown by a task that is not trained.
const CHAIN: &str = "tasks=[{name: click, label: click}, {name: buy, label: bought}, {name: like, label: liked}, \
                     {name: cvr, label: bought, where: click, weight: 0}]";
const ESMM: &str =
    "model={kind: esmm, after: {buy: click, like: click}, conditional: {cvr: buy}, bottom: [6], tower: [4]}";
const AITM: &str = "model={kind: aitm, bottom: [6], tower: [4]}";
const AITM_TASKS: &str = "tasks=[{name: click, label: click}, {name: buy, label: bought}, {name: like, label: liked}]";
const STEM: &str = "model={kind: stem, expert: [6], tower: [4]}";
const SINGLE: &str = "model={kind: single_task, bottom: [6], tower: [4]}";
const OWN: &str = "model={kind: single_task, embeddings: own, bottom: [6], tower: [4]}";
const ADMISSION: &str = "tables={user: {admission: {min_count: 3}, eviction: {max_age_steps: 6}}}";

/// The usual log, with purchases and likes that need a click.
fn workplace() -> Workplace {
    let place = Workplace::with_log(120);
    for (file, rows) in [("train/a", 0..40), ("train/b", 40..120), ("valid/a", 10_000..10_060)] {
        let mut columns = log::columns(rows.clone());
        for (name, chance) in [("bought", 0.5), ("liked", 0.3)] {
            let label = |row| Some(i64::from(log::click(row) == 1 && draw(row, name) < chance));
            columns.push((name, log::ints(rows.clone().map(label))));
        }
        log::write(&place.path(&format!("{file}.parquet")), columns, 31);
    }
    place
}

fn run(place: &Workplace, name: &str, ranks: usize, overrides: &[&str]) -> (Seen, State) {
    let run_dir = place.path(name);
    let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
    let seen = train(&place.job(overrides), ranks, &run_dir, how);
    (seen, State::read(&newest(&run_dir)))
}

#[test]
fn they_train_alike_on_any_number_of_ranks() {
    let losses = "balance={kind: uniform}";
    let gradients = "balance={kind: mgda}";
    let rows = "balance={kind: pcgrad, scope: shared+rows}";
    let representation = "balance={kind: cagrad, scope: representation}";
    for (i, overrides) in [
        [CHAIN, ESMM, losses],
        [CHAIN, ESMM, gradients],
        [AITM_TASKS, AITM, losses],
        [AITM_TASKS, AITM, rows],
        [STEM, ADMISSION, losses],
        [STEM, ADMISSION, rows],
        [STEM, ADMISSION, representation],
        [SINGLE, ADMISSION, rows],
        [OWN, ADMISSION, losses],
    ]
    .iter()
    .enumerate()
    {
        let place = workplace();
        let (_, alone) = run(&place, &format!("{i} 1"), 1, overrides);
        for ranks in [2, 4] {
            let (_, other) = run(&place, &format!("{i} {ranks}"), ranks, overrides);
            alone.assert_close(&other, 2e-4, &format!("{overrides:?}, {ranks} ranks"));
        }
    }
}

#[test]
fn they_go_on_from_another_number_of_ranks() {
    for (i, overrides) in [[CHAIN, ESMM], [AITM_TASKS, AITM], [STEM, ADMISSION], [OWN, ADMISSION]].iter().enumerate() {
        let place = workplace();
        let (_, straight) = run(&place, &format!("straight {i}"), 1, overrides);
        let (job, run_dir) = (place.job(overrides), place.path(&format!("stopped {i}")));
        let stopped = train(&job, 2, &run_dir, How { stop_after: Some(4), ..How::default() });
        assert_eq!(stopped.ending, Ending::Signal);
        train(&job, 4, &run_dir, How { resume: true, ..How::default() });
        straight.assert_close(&State::read(&newest(&run_dir)), 2e-4, &format!("{overrides:?}"));
    }
}

/// The tables with rows.
fn tables(state: &State) -> BTreeSet<&str> {
    state.rows.keys().map(|(table, _)| table.as_str()).collect()
}

/// Id and embedding of the rows of one of the tables of users.
fn values(state: &State, table: &str) -> Vec<(u64, Vec<f32>)> {
    let rows = state.rows.iter().filter(|((name, _), _)| name == table);
    rows.map(|((_, id), row)| (*id, row.floats[..4].to_vec())).collect()
}

#[test]
fn stem_has_a_table_for_each_task_beside_the_shared_one() {
    let place = workplace();
    let few = "tasks=[{name: click, label: click}, {name: buy, label: bought, weight: 0}]";
    let (_, state) = run(&place, "stem", 2, &[STEM, few]);
    for table in ["user", "item", "tags"] {
        for set in ["", ".click", ".buy"] {
            assert!(tables(&state).contains(format!("{table}{set}").as_str()), "{:?}", tables(&state));
        }
    }
    // The same ids in all three, with values of their own.
    let [shared, click, buy] = ["user", "user.click", "user.buy"].map(|table| values(&state, table));
    for ((shared, click), buy) in shared.iter().zip(&click).zip(&buy) {
        assert!(shared.0 == click.0 && shared.0 == buy.0);
        assert!(shared.1 != click.1 && shared.1 != buy.1);
    }
    assert!(!shared.is_empty() && shared.len() == click.len() && shared.len() == buy.len());

    // Without a loss of `buy` its rows stay where they began, whatever `click` learns.
    let (_, longer) = run(&place, "longer", 2, &[STEM, few, "train.epochs=4"]);
    assert_eq!(values(&state, "user.buy"), values(&longer, "user.buy"));
    assert_ne!(values(&state, "user.click"), values(&longer, "user.click"));
}

#[test]
fn networks_with_tables_of_their_own_are_the_models_of_single_jobs() {
    let place = workplace();
    let both = "tasks=[{name: click, label: click}, {name: buy, label: bought}]";
    let (_, together) = run(&place, "together", 1, &[OWN, both]);
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-4 * (1.0 + a.abs()));
    for (task, label) in [("click", "click"), ("buy", "bought")] {
        let one = format!("tasks=[{{name: {task}, label: {label}}}]");
        let (_, alone) = run(&place, task, 1, &[OWN, &one]);
        for (name, values) in alone.dense.iter().filter(|(name, _)| name.starts_with("parameters.")) {
            assert!(close(values, &together.dense[name]), "{name}");
        }
        for (key, row) in &alone.rows {
            assert!(close(&row.floats, &together.rows[key].floats), "{key:?}");
        }
        assert!(!alone.rows.is_empty());
    }
}

#[test]
fn the_conversion_rate_is_evaluated_and_never_has_a_loss() {
    let place = workplace();
    let (seen, _) = run(&place, "esmm", 1, &[CHAIN, ESMM]);
    for step in seen.steps() {
        assert_eq!(step.losses["cvr"].as_f64(), Some(0.0));
    }
    let (_, tasks) = seen.evaluations().into_iter().next_back().unwrap();
    let rows = |task: usize| tasks[task].get("rows").unwrap();
    assert!(tasks[3].get("auc").is_some());
    assert!(rows(3) < rows(1), "on clicked rows only");

    // With no loss but the click's, the network of the purchase stays where it began.
    let still = CHAIN
        .replace("label: bought}", "label: bought, weight: 0}")
        .replace("label: liked}", "label: liked, weight: 0}");
    let after = |name: &str, steps: &str| run(&place, name, 1, &[still.as_str(), ESMM, steps]).1;
    let (first, last) = (after("one", "train.max_steps=1"), after("five", "train.max_steps=5"));
    let of = |state: &State, network: &str| state.dense[&format!("parameters.bottoms.{network}.0.weight")].clone();
    assert_eq!(of(&first, "buy"), of(&last, "buy"));
    assert_ne!(of(&first, "click"), of(&last, "click"));
}

#[test]
fn methods_that_find_nothing_to_compare_say_so() {
    let place = workplace();
    let refusal = |overrides: &[&str]| {
        let ranks = try_train(&place.job(overrides), 2, &place.path("refused"), How::default());
        let error = ranks.into_iter().next().unwrap().unwrap_err();
        assert_eq!(error.place("key"), Some("balance.scope"));
        error.to_string()
    };
    let message = refusal(&[SINGLE, "balance={kind: cagrad}"]);
    assert!(message.contains("`single_task` has none") && message.contains("`uniform`"), "{message}");
    for (tasks, model) in [(CHAIN, ESMM), (AITM_TASKS, AITM)] {
        let message = refusal(&[tasks, model, "balance={kind: mgda, scope: representation}"]);
        assert!(message.contains("last shared representation"), "{message}");
    }
}
