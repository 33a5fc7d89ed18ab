//! The methods that need gradients see those of the global batch. Each control is what a trainer would compute
//! that balances on every rank and sums afterwards; it must come out elsewhere.

use crate::common::job::{How, Seen, Workplace, newest, train};
use crate::common::log::{self, draw};
use crate::common::state::State;
use std::ops::Range;
use std::path::Path;
use tandem::balance::{self, Signal};
use tandem::config::{Component, to_yaml};

/// One step of SGD with rate 1, so that the parameters move by the update direction itself. Four lanes, whose rows
/// keep the order of the file: two ranks have its halves.
const JOB: &str = "
name: balance
data: {train: all.parquet, lanes: 4, shuffle_window: 1}
features:
  - {name: x, kind: vector, length: 4}
tasks:
  - {name: a, label: a}
  - {name: b, label: b}
  - {name: c, label: c}
model: {kind: shared_bottom, bottom: [6], tower: []}
optimizer: {dense: {kind: sgd, lr: 1}}
train: {global_batch: 16, max_steps: 1, log_every: 1}
";

const METHODS: [&str; 3] = ["{kind: mgda}", "{kind: pcgrad}", "{kind: cagrad, c: 0.4}"];

/// A quarter of feature i of a row.
pub fn x(row: u64, i: u64) -> f64 {
    draw(row, &format!("x{i}")) - 0.5
}

/// Tasks that agree in the first half of the rows and not in the second.
pub fn write(path: &Path, rows: Range<u64>) {
    let mut lists = arrow::array::ListBuilder::new(arrow::array::Float64Builder::new());
    for row in rows.clone() {
        (0..4).for_each(|i| lists.values().append_value(4.0 * x(row, i)));
        lists.append(true);
    }
    let label = |of: &dyn Fn(u64) -> bool| log::ints(rows.clone().map(|row| Some(i64::from(of(row)))));
    let columns: log::Columns = vec![
        ("x", std::sync::Arc::new(lists.finish())),
        ("a", label(&|row| x(row, 0) > 0.0)),
        ("b", label(&|row| (x(row, 0) > 0.0) == (row < 8))),
        ("c", label(&|row| x(row, 1) + x(row, 2) > 0.0)),
    ];
    log::write(path, columns, 100);
}

struct Bench {
    place: Workplace,
}

impl Bench {
    fn new() -> Self {
        let place = Workplace::new(JOB);
        write(&place.path("all.parquet"), 0..16);
        write(&place.path("first.parquet"), 0..8);
        write(&place.path("second.parquet"), 8..16);
        Self { place }
    }

    /// One step over a file of `rows` rows.
    fn step(&self, method: &str, file: &str, rows: usize, ranks: usize) -> Step {
        let run_dir = self.place.path(&format!("{file} {ranks} {method}"));
        let job = self.place.job(&[
            &format!("balance={method}"),
            &format!("data.train={file}.parquet"),
            &format!("train.global_batch={rows}"),
        ]);
        let seen = train(&job, ranks, &run_dir, How::default());
        Step::new(&seen, State::read(&newest(&run_dir)))
    }

    /// What each of two ranks would do alone.
    fn halves(&self, method: &str) -> [Step; 2] {
        ["first", "second"].map(|file| self.step(method, file, 8, 1))
    }
}

struct Step {
    losses: Vec<f64>,
    weights: Vec<f64>,
    gram: Vec<f64>,
    grad_norm: f64,
    /// All parameters after the step.
    parameters: Vec<f64>,
}

impl Step {
    fn new(seen: &Seen, state: State) -> Self {
        let step = seen.steps()[0];
        let numbers = |map: &serde_json::Map<String, serde_json::Value>| -> Vec<f64> {
            map.values().map(|v| v.as_f64().expect("a number")).collect()
        };
        let norms = numbers(&step.grad_norms);
        let gram = |(k, row): (usize, &Vec<f64>)| -> Vec<f64> {
            row.iter().zip(&norms).map(|(cosine, norm)| cosine * norm * norms[k]).collect()
        };
        let parameters = state.dense.into_iter().filter(|(name, _)| name.starts_with("parameters."));
        Self {
            losses: numbers(&step.losses),
            weights: numbers(&step.weights),
            gram: step.cosines.iter().enumerate().flat_map(gram).collect(),
            grad_norm: step.grad_norm,
            parameters: parameters.flat_map(|(_, values)| values).map(f64::from).collect(),
        }
    }
}

/// The weights that `method` gives at the first step for a Gram matrix.
fn weights(method: &str, losses: &[f64], gram: &[f64], seed: u64) -> Vec<f64> {
    let mut component: Component = serde_yaml::from_str(method).unwrap();
    let mut balancer = balance::build(&mut component, &["a", "b", "c"].map(str::to_string)).unwrap();
    balancer
        .method
        .weights(&Signal { losses, present: &[true; 3], gram, step: 0, steps_per_epoch: 1, total_steps: 1, seed })
        .unwrap()
}

fn mean(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[test]
fn weights_are_those_of_the_global_batch_on_any_number_of_ranks() {
    let bench = Bench::new();
    for method in METHODS {
        let alone = bench.step(method, "all", 16, 1);
        for ranks in [2, 3, 4] {
            let step = bench.step(method, "all", 16, ranks);
            assert!(distance(&alone.weights, &step.weights) < 1e-4, "{method}: {:?} {:?}", alone.weights, step.weights);
            assert!(distance(&alone.parameters, &step.parameters) < 1e-4 * alone.grad_norm, "{method}, {ranks} ranks");
        }
    }
}

#[test]
fn the_mean_of_each_ranks_gram_matrix_gives_other_weights() {
    let bench = Bench::new();
    let seed =
        serde_yaml::from_str::<serde_yaml::Value>(&to_yaml(&bench.place.job(&[])).unwrap()).unwrap()["seed"].as_u64();
    let seed = seed.expect("a resolved job has a seed");
    for method in METHODS {
        let step = bench.step(method, "all", 16, 2);
        let check = weights(method, &step.losses, &step.gram, seed);
        assert!(distance(&step.weights, &check) < 1e-6, "the control balances as the run does: {check:?}");
        let [first, second] = bench.halves(method);
        assert!(distance(&mean(&first.losses, &second.losses), &step.losses) < 1e-6, "the halves are the ranks' rows");
        let control = weights(method, &step.losses, &mean(&first.gram, &second.gram), seed);
        assert!(distance(&step.weights, &control) > 0.02, "{method}: {:?} and {control:?}", step.weights);
    }
}

#[test]
fn balancing_on_each_rank_before_the_sum_moves_elsewhere() {
    let bench = Bench::new();
    let gap = |method: &str| {
        let step = bench.step(method, "all", 16, 2);
        let [first, second] = bench.halves(method);
        distance(&step.parameters, &mean(&first.parameters, &second.parameters)) / step.grad_norm
    };
    let uniform = gap("{kind: uniform}");
    assert!(uniform < 1e-5, "without balancing the order does not matter: {uniform}");
    for method in METHODS {
        let gap = gap(method);
        assert!(gap > 0.02, "{method}: {gap}");
    }
}
