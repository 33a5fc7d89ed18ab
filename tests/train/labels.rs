//! Losses divide by the labels of the global batch: a task may have labels on one rank only, or none at all.

use crate::common::job::{How, Seen, Workplace, newest, train};
use crate::common::log::{self, draw};
use crate::common::state::State;
use serde_json::{Map, Value};
use tandem::comm::threads;

/// Four lanes of 12 rows in the order of the file, 4 rows of each a step: three steps.
const JOB: &str = "
name: labels
data: {train: log.parquet, valid: log.parquet, lanes: 4, shuffle_window: 1, weight: importance}
features:
  - {name: x, kind: numeric}
  - {name: user, kind: categorical, dim: 3}
tasks:
  - {name: always, label: a}
  - {name: one_rank, label: b, where: early}
  - {name: some_steps, label: c, kind: regression}
  - {name: never, label: d}
model: {kind: mmoe, experts: 2, expert: [6], tower: [3]}
train: {global_batch: 16, epochs: 2, log_every: 1}
checkpoint: {buckets: 16}
";

const METHODS: [&str; 5] = ["uniform", "uncertainty", "mgda", "pcgrad", "cagrad"];

fn workplace() -> Workplace {
    let place = Workplace::new(JOB);
    let rows = 0..48u64;
    let label = |row: u64, what: &str| i64::from(draw(row, what) < 0.5);
    let some_steps = |row: u64| (row % 12 / 4 != 1).then(|| draw(row, "c"));
    let columns = vec![
        ("x", log::floats(rows.clone().map(|row| Some(draw(row, "x"))))),
        ("user", log::ints(rows.clone().map(|row| Some((row % 7) as i64)))),
        ("importance", log::floats(rows.clone().map(|row| Some(0.5 + draw(row, "importance"))))),
        ("early", log::ints(rows.clone().map(|row| Some(i64::from(row < 12))))),
        ("a", log::ints(rows.clone().map(|row| Some(label(row, "a"))))),
        ("b", log::ints(rows.clone().map(|row| Some(label(row, "b"))))),
        ("c", log::floats(rows.clone().map(some_steps))),
        ("d", log::ints(rows.map(|_| None))),
    ];
    log::write(&place.path("log.parquet"), columns, 100);
    place
}

fn number(of: &Map<String, Value>, task: &str) -> f64 {
    of[task].as_f64().unwrap_or_else(|| panic!("{task} is no finite number in {of:?}"))
}

/// What the steps and evaluations of a run must say about these labels.
fn check_losses(seen: &Seen, method: &str) {
    assert_eq!(seen.steps().len(), 6);
    for step in seen.steps() {
        let labelled = [("always", true), ("one_rank", true), ("some_steps", step.step % 3 != 2), ("never", false)];
        for (task, labelled) in labelled {
            let (loss, weight) = (number(&step.losses, task), number(&step.weights, task));
            assert_eq!(loss > 0.0, labelled, "{method}, step {}: the loss of {task} is {loss}", step.step);
            assert!(labelled || weight == 0.0, "{method}, step {}: the weight of {task} is {weight}", step.step);
        }
        assert!(step.grad_norm.is_finite() && step.grad_norm > 0.0);
    }
    for (_, tasks) in seen.evaluations() {
        assert_eq!((tasks[1].get("rows"), tasks[3].get("rows")), (Some(12.0), Some(0.0)));
        assert_eq!(tasks[3].get("auc"), None);
        assert!(tasks[..3].iter().all(|task| task.get("loss").is_some()));
    }
}

#[test]
fn labels_on_one_rank_only_train_as_on_one_rank() {
    let place = workplace();
    for method in METHODS {
        let job = place.job(&[&format!("balance.kind={method}")]);
        let run = |ranks: usize| {
            let run_dir = place.path(&format!("{method}{ranks}"));
            let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
            check_losses(&train(&job, ranks, &run_dir, how), method);
            State::read(&newest(&run_dir))
        };
        let alone = run(1);
        for ranks in 2..=4 {
            alone.assert_close(&run(ranks), 1e-4, &format!("{method}, {ranks} ranks"));
        }
    }
}

#[test]
fn a_task_without_labels_leaves_its_own_parameters_alone() {
    let place = workplace();
    for method in METHODS {
        let tower = |steps: u64| {
            let run_dir = place.path(&format!("{method} {steps}"));
            train(
                &place.job(&[&format!("balance.kind={method}"), &format!("train.max_steps={steps}")]),
                2,
                &run_dir,
                How::default(),
            );
            let dense = State::read(&newest(&run_dir)).dense;
            let of = |task: &str| {
                let name = format!("parameters.towers.{task}.");
                dense.iter().filter(|(key, _)| key.starts_with(&name)).map(|(_, v)| v.clone()).collect::<Vec<_>>()
            };
            assert!(!of("never").is_empty(), "{:?}", dense.keys());
            (of("never"), of("always"))
        };
        let (first, last) = (tower(1), tower(6));
        assert_eq!(first.0, last.0, "{method}");
        assert_ne!(first.1, last.1, "{method}");
    }
}
