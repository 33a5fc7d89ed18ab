//! GradNorm's own choice: the tasks' gradients at the weights of the last shared layer, against a float64 reference, and
//! the comparison of gradients that is made for the log.

use crate::balance::{write, x};
use crate::common::job::{How, Seen, Workplace, newest, train};
use crate::common::state::State;
use std::collections::BTreeMap;
use tandem::train::events::{Notice, Step};

const JOB: &str = "
name: last_layer
data: {train: all.parquet, lanes: 4, shuffle_window: 1}
features:
  - {name: x, kind: vector, length: 4}
tasks:
  - {name: a, label: a}
  - {name: b, label: b, weight: 0.5}
  - {name: c, label: c}
model: {kind: shared_bottom, bottom: [6, 5], tower: [], activation: tanh}
balance: {kind: gradnorm, scope: last_layer, lr: 0.1}
optimizer: {dense: {kind: sgd, lr: 1}}
train: {global_batch: 16, max_steps: 1, log_every: 1}
";

const ROWS: u64 = 16;
const WEIGHTS: [f64; 3] = [1.0, 0.5, 1.0];

fn place() -> Workplace {
    let place = Workplace::new(JOB);
    write(&place.path("all.parquet"), 0..ROWS);
    place
}

fn run(place: &Workplace, name: &str, ranks: usize, overrides: &[&str]) -> (Seen, State) {
    let run_dir = place.path(&format!("{name} {ranks}"));
    let seen = train(&place.job(overrides), ranks, &run_dir, How::default());
    (seen, State::read(&newest(&run_dir)))
}

/// The labels that `write` gives a row.
fn labels(row: u64) -> [bool; 3] {
    let of = |i| x(row, i) > 0.0;
    [of(0), of(0) == (row < 8), x(row, 1) + x(row, 2) > 0.0]
}

/// A layer's `[in, out]` weights and its bias, in float64.
struct Layer {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Layer {
    fn read(state: &State, name: &str) -> Self {
        let of = |part: &str| -> Vec<f64> {
            state.dense[&format!("parameters.{name}.{part}")].iter().map(|&value| f64::from(value)).collect()
        };
        Self { weight: of("weight"), bias: of("bias") }
    }

    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let width = self.bias.len();
        let column = |j: usize| x.iter().enumerate().map(|(i, x)| x * self.weight[i * width + j]).sum::<f64>();
        (0..width).map(|j| column(j) + self.bias[j]).collect()
    }
}

/// The mean losses over all rows for given weights of the last shared layer.
fn losses(state: &State, last: &Layer) -> Vec<f64> {
    let first = Layer::read(state, "bottom.0");
    let towers = ["a", "b", "c"].map(|task| Layer::read(state, &format!("towers.{task}.logits")));
    let mut sums = vec![0.0; 3];
    for row in 0..ROWS {
        let tanh = |z: Vec<f64>| -> Vec<f64> { z.into_iter().map(f64::tanh).collect() };
        let input: Vec<f64> = (0..4).map(|i| f64::from((4.0 * x(row, i)) as f32)).collect();
        let z = tanh(last.forward(&tanh(first.forward(&input))));
        for (k, (tower, label)) in towers.iter().zip(labels(row)).enumerate() {
            let logit = tower.forward(&z)[0];
            let towards = if label { -logit } else { logit };
            sums[k] += WEIGHTS[k] * (1.0 + towards.exp()).ln() / ROWS as f64;
        }
    }
    sums
}

/// The Gram matrix of ∂L_k/∂W of the last shared layer, by central differences.
fn reference(state: &State) -> Vec<f64> {
    const H: f64 = 1e-5;
    let mut last = Layer::read(state, "bottom.1");
    let mut gradients = vec![Vec::new(); 3];
    for i in 0..last.weight.len() {
        let mut at = |step: f64| {
            last.weight[i] += step;
            let losses = losses(state, &last);
            last.weight[i] -= step;
            losses
        };
        let (up, down) = (at(H), at(-H));
        (0..3).for_each(|k| gradients[k].push((up[k] - down[k]) / (2.0 * H)));
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    (0..9).map(|i| dot(&gradients[i / 3], &gradients[i % 3])).collect()
}

fn gram(step: &Step) -> Vec<f64> {
    let norms: Vec<f64> = step.grad_norms.values().map(|norm| norm.as_f64().expect("a number")).collect();
    (0..9).map(|i| step.cosines[i / 3][i % 3] * norms[i / 3] * norms[i % 3]).collect()
}

fn weights(step: &Step) -> Vec<f64> {
    step.weights.values().map(|weight| weight.as_f64().expect("a number")).collect()
}

fn assert_near(a: &[f64], b: &[f64], tolerance: f64, what: &str) {
    let size = b.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let near = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * size);
    assert!(near, "{what}: {a:?} and {b:?}");
}

#[test]
fn the_last_shared_layers_gradients_are_those_of_a_float64_reference_on_any_number_of_ranks() {
    let place = place();
    let (_, start) = run(&place, "start", 1, &["optimizer.dense.lr=1e-30"]);
    let want = reference(&start);
    for ranks in [1, 2, 4] {
        let (seen, _) = run(&place, "gram", ranks, &[]);
        let step = seen.steps()[0];
        assert_eq!(step.scope, Some("last_layer"));
        assert_near(&gram(step), &want, 5e-5, &format!("{ranks} ranks"));
    }
    // Another layer's gradients, or their sum with the bias's, would not do.
    let (seen, _) = run(&place, "all", 1, &["balance={kind: gradnorm}"]);
    assert!((gram(seen.steps()[0])[0] / want[0] - 1.0).abs() > 0.05, "all shared parameters are another thing");
}

/// In bf16 all hidden layers are one operation, of which the last layer's weights still count alone.
#[test]
fn the_last_shared_layer_is_the_last_in_bf16_too() {
    let place = place();
    let model = "model={kind: shared_bottom, bottom: [32, 16], tower: [], activation: tanh}";
    let (_, start) = run(&place, "start", 1, &[model, "optimizer.dense.lr=1e-30"]);
    let (seen, _) = run(&place, "rounded", 2, &[model, "precision=bf16"]);
    assert_near(&gram(seen.steps()[0]), &reference(&start), 5e-2, "bf16");
}

#[test]
fn the_update_is_the_weighted_sum_whatever_is_passed_with_the_heads() {
    let place = place();
    for model in [
        "model={kind: shared_bottom, bottom: [6, 5], tower: [4], norm: batch}",
        "model={kind: shared_bottom, bottom: [6], tower: [4]}",
        "model={kind: mmoe, experts: 3, expert: [6, 5], tower: [4], norm: layer}",
        "model={kind: ple, shared_experts: 1, task_experts: 1, levels: [[6], [5]], tower: [4]}",
    ] {
        // The first weights of GradNorm are equal: the plain sum.
        let first = |balance: &str| run(&place, balance, 2, &[model, balance]).1;
        let (plain, last) = (first("balance={kind: uniform}"), first("balance={kind: gradnorm, scope: last_layer}"));
        for (name, values) in plain.dense.iter().filter(|(name, _)| name.starts_with("parameters.")) {
            let as_f64 = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            assert_near(&as_f64(&last.dense[name]), &as_f64(values), 1e-5, &format!("{model}: {name}"));
        }
        std::fs::remove_dir_all(place.path("balance={kind: uniform} 2")).unwrap();
        std::fs::remove_dir_all(place.path("balance={kind: gradnorm, scope: last_layer} 2")).unwrap();
    }
}

#[test]
fn its_weights_are_the_same_on_any_number_of_ranks() {
    let place = place();
    let of = |ranks| {
        let (seen, _) =
            run(&place, "many", ranks, &["train={global_batch: 8, epochs: 6, max_steps: 12, log_every: 1}"]);
        weights(seen.steps().last().unwrap())
    };
    let alone = of(1);
    assert!(alone.iter().any(|w| (w - 1.0).abs() > 0.05), "{alone:?} has learned");
    for ranks in [2, 4] {
        assert_near(&of(ranks), &alone, 1e-3, &format!("{ranks} ranks"));
    }
}

/// Tasks that compare no gradients have them compared in the steps that are logged, and train as without.
#[test]
fn comparing_gradients_for_the_log_changes_no_bit() {
    let place = place();
    let model = "model={kind: mmoe, experts: 3, expert: [6], tower: [4], norm: batch, dropout: 0.2}";
    let train_for = "train.max_steps=9";
    for (i, balance) in ["{kind: uniform}", "{kind: famo}", "{kind: nash_mtl, update_every: 4}"].iter().enumerate() {
        let balance = format!("balance={balance}");
        let run_with = |when: &str, every: usize| {
            let name = format!("{i} {when} {every}");
            let log_every = format!("train.log_every={every}");
            let when = format!("train.log_conflict={when}");
            let epochs = "train.epochs=9";
            run(&place, &name, 2, &[&balance, model, train_for, epochs, &log_every, &when])
        };
        let (plain, without) = run_with("never", 4);
        for (when, every) in [("auto", 4), ("every_step", 4), ("auto", 1)] {
            let (seen, with) = run_with(when, every);
            assert_eq!(without, with, "{balance}, {when}");
            assert!(seen.steps().iter().all(|step| step.cosines.len() == 3 && step.grad_norms.len() == 3));
            let scopes: Vec<_> = seen.steps().iter().map(|step| step.scope.unwrap()).collect();
            match i {
                2 => assert!(scopes.contains(&"shared"), "{scopes:?}"),
                _ => assert!(scopes.iter().all(|scope| *scope == "representation"), "{scopes:?}"),
            }
            let counted = match (i, when) {
                // Of Nash-MTL only the steps that it compared in its own scope: 1, 5 and 9.
                (2, _) => 3,
                (_, "every_step") => 9,
                _ => seen.steps().len() as u64,
            };
            let ends: Vec<u64> = seen.notices.iter().filter_map(conflict_steps).collect();
            assert_eq!(ends, [counted], "{balance}, {when}");
        }
        let compared = plain.steps().iter().filter(|step| step.scope.is_some()).count();
        assert_eq!(compared > 0, i == 2, "{balance}: only what the method compares itself");
    }
}

fn conflict_steps(notice: &Notice) -> Option<u64> {
    match notice {
        Notice::End(end) => end.conflict.as_ref().map(|conflict| conflict.steps),
        _ => None,
    }
}

/// The representation's products are a sum over ranks.
#[test]
fn what_is_logged_is_the_same_on_any_number_of_ranks() {
    let place = place();
    let of = |ranks| gram(run(&place, "logged", ranks, &["balance={kind: uniform}"]).0.steps()[0]);
    let alone: Vec<f64> = of(1);
    assert!(alone[0] > 0.0);
    for ranks in [2, 4] {
        assert_near(&of(ranks), &alone, 1e-5, &format!("{ranks} ranks"));
    }
}

#[test]
fn every_architecture_with_a_shared_layer_has_a_last_one() {
    let place = place();
    for model in ["shared_bottom", "mmoe", "cgc", "ple"] {
        let (seen, _) = run(&place, model, 1, &[&format!("model={{kind: {model}}}"), "optimizer.dense.lr=0.1"]);
        assert!(seen.steps()[0].grad_norms.values().all(|norm| norm.as_f64() > Some(0.0)), "{model}");
    }
    run(&place, "one task", 1, &["tasks=[{name: a, label: a}]"]);
}

#[test]
fn the_reference_kernels_refuse_the_last_layer_and_compare_nothing_for_the_log() {
    let place = place();
    let reference = "kernels=reference";
    let error = crate::common::job::try_train(&place.job(&[reference]), 1, &place.path("run"), How::default());
    let error = error.into_iter().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("`scope: last_layer` needs the fused kernels"), "{error}");
    let (seen, _) = run(&place, "plain", 1, &[reference, "balance={kind: uniform}"]);
    let step: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(serde_json::to_value(seen.steps()[0]).unwrap()).unwrap();
    assert!(step.contains_key("weights") && !step.contains_key("scope") && !step.contains_key("cosines"));
}
