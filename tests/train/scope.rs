//! What methods look at beside the Gram matrix of the dense gradients: the representation, the rows of tables, the
//! gradients themselves, parts of the batch, the losses after the step. Each is compared with a plainer way to it.

use crate::common::job::{How, Seen, Workplace, newest, train};
use crate::common::state::State;
use std::collections::BTreeMap;
use tandem::comm::threads;

/// One step of SGD with rate 1, so that parameters and rows move by their update direction itself.
const ONE_STEP: [&str; 4] = [
    "optimizer={dense: {kind: sgd, lr: 1}, sparse: {kind: sgd, lr: 1}}",
    "train.max_steps=1",
    "data.shuffle_window=1",
    "train.epochs=1",
];

const PLE: &str = "model={kind: ple, shared_experts: 1, task_experts: 1, levels: [[8], [6]], tower: [4]}";
const MMOE: &str = "model={kind: mmoe, experts: 3, expert: [8], tower: [4]}";
const BOTTOM: &str = "model={kind: shared_bottom, bottom: [8, 6], tower: [4], norm: batch}";

/// Two sequences that each task reads in its own way.
const DTRN: [&str; 3] = [
    "model={kind: dtrn, feed_forward: 6, hypernetwork: 5, head: {kind: mmoe, experts: 2, expert: [8], tower: [4]}}",
    "features.history={name: history, kind: sequence, table: item, max_len: 4, pooling: none}",
    "features.recent.pooling=none",
];

/// Every way to weigh gradients, but for the plain one, that `ranks.rs` has.
const WAYS: [&str; 17] = [
    "{kind: mgda, scope: representation}",
    "{kind: cagrad, scope: representation}",
    "{kind: mgda, scope: shared+rows}",
    "{kind: pcgrad, scope: shared+rows}",
    "{kind: db_mtl}",
    "{kind: moco}",
    "{kind: excess_mtl}",
    "{kind: metabalance, target: buy}",
    "{kind: gradvac, group: layer}",
    "{kind: gradvac, group: matrix}",
    "{kind: gradnorm}",
    "{kind: gradnorm, scope: last_layer}",
    "{kind: famo}",
    "{kind: graddrop, leak: 0.1}",
    "{kind: sdmgrad}",
    "{kind: modo, gamma: 0.1}",
    "{kind: pmtrec, main: buy, lambda_max: 0.8}",
];

struct Bench {
    place: Workplace,
}

/// A run and its end.
struct Ran {
    seen: Seen,
    state: State,
}

impl Bench {
    fn new() -> Self {
        Self { place: Workplace::with_log(250) }
    }

    fn run(&self, name: &str, ranks: usize, overrides: &[&str]) -> Ran {
        let run_dir = self.place.path(&format!("{name} {ranks}"));
        let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
        let seen = train(&self.place.job(overrides), ranks, &run_dir, how);
        Ran { seen, state: State::read(&newest(&run_dir)) }
    }

    fn one_step(&self, name: &str, overrides: &[&str]) -> Ran {
        self.run(name, 1, &[&ONE_STEP, overrides].concat())
    }
}

impl Ran {
    fn weights(&self) -> Vec<f64> {
        self.seen.steps()[0].weights.values().map(|w| w.as_f64().expect("a number")).collect()
    }

    /// The Gram matrix of the first step.
    fn gram(&self) -> Vec<f64> {
        let step = self.seen.steps()[0];
        let norms: Vec<f64> = step.grad_norms.values().map(|n| n.as_f64().expect("a number")).collect();
        let row = |(k, row): (usize, &Vec<f64>)| -> Vec<f64> {
            row.iter().zip(&norms).map(|(cosine, norm)| cosine * norm * norms[k]).collect()
        };
        step.cosines.iter().enumerate().flat_map(row).collect()
    }

    /// How far every parameter and every row moved, by name.
    fn moved(&self, start: &State) -> BTreeMap<String, Vec<f64>> {
        let difference = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
        let dense = self.state.dense.iter().filter(|(name, _)| name.starts_with("parameters."));
        let dense = dense.map(|(name, values)| (name.clone(), difference(values, &start.dense[name])));
        let rows = self
            .state
            .rows
            .iter()
            .map(|(key, row)| (format!("{key:?}"), difference(&row.floats, &start.rows[key].floats)));
        dense.chain(rows).collect()
    }
}

fn assert_near(a: &[f64], b: &[f64], tolerance: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = a.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tolerance * size, "{what}: {a:?} and {b:?}");
    }
}

#[test]
fn every_way_gives_the_same_on_any_number_of_ranks() {
    let bench = Bench::new();
    for (i, way) in WAYS.iter().enumerate() {
        for (model, name) in [(MMOE, "mmoe"), (PLE, "ple")] {
            let balance = format!("balance={way}");
            let overrides = [&balance, model, "optimizer.dense={kind: adam, lr: 0.01}", "train.epochs=1"];
            let run = |ranks| bench.run(&format!("{i} {name}"), ranks, &overrides);
            let alone = run(1);
            for ranks in [2, 4] {
                let many = run(ranks);
                // A draw of GradDrop near its limit, or a weight at the edge of the simplex, magnifies the noise of sums.
                alone.state.assert_close(&many.state, 1e-3, &format!("{way}, {name}, {ranks} ranks"));
                assert_near(&alone.weights(), &many.weights(), 1e-3, way);
            }
        }
    }
}

/// The shared parameters and the rows must move along Σ w_k g_k, which a plain run with the tasks' static weights
/// w_k gives. The heads keep their own gradient, which a run with weights 1 gives.
#[test]
fn the_trunk_moves_along_the_weighted_sum_of_whole_backward_passes() {
    let bench = Bench::new();
    for (m, model) in [&[MMOE][..], &[PLE], &[BOTTOM], &DTRN].into_iter().enumerate() {
        // The initial values: a step of no length.
        let still = ["optimizer.dense.lr=1e-30", "optimizer.sparse.lr=1e-30"];
        let start = bench.one_step(&format!("start {m}"), &[model, &still].concat()).state;
        let plain = bench.one_step(&format!("plain {m}"), model).moved(&start);
        for scope in ["representation", "shared+rows"] {
            let balance = format!("balance={{kind: mgda, scope: {scope}}}");
            let run = bench.one_step(&format!("{scope} {m}"), &[model, &[&balance]].concat());
            let weights = run.weights();
            assert!(weights.iter().filter(|w| **w > 0.01).count() >= 2, "{weights:?} is no test of a sum");
            let given = [1.0, 0.7, 1.0, 1.0];
            let weighted: Vec<String> =
                (0..4).map(|k| format!("tasks[{k}].weight={}", weights[k].max(1e-12) * given[k])).collect();
            let weighted: Vec<&str> = weighted.iter().map(String::as_str).chain(model.iter().copied()).collect();
            let weighted = bench.one_step(&format!("{scope} weighted {m}"), &weighted).moved(&start);
            for (name, moved) in run.moved(&start) {
                // MMoE's and the bottom's own parameters are its gates and towers; of PLE only the towers surely are. DTRN has
                // its tasks' embeddings and refinements too.
                let of_mixture = m != 1 && name.contains("gates");
                let of_dtrn = name.contains("hypernetwork.tasks") || name.contains("refinement");
                let own = name.contains("towers") || of_mixture || of_dtrn;
                let in_doubt = m == 1 && name.contains("tasks");
                if !in_doubt {
                    let want = if own { &plain[&name] } else { &weighted[&name] };
                    assert_near(&moved, want, 2e-4, &format!("{scope}, {model:?}: {name}"));
                }
            }
        }
    }
}

#[test]
fn tasks_with_inputs_of_their_own_give_the_same_on_any_number_of_ranks() {
    let bench = Bench::new();
    let ways = [
        "{kind: cagrad, scope: representation}",
        "{kind: graddrop, leak: 0.1}",
        "{kind: pcgrad, scope: shared+rows}",
        "{kind: db_mtl}",
    ];
    for (i, way) in ways.iter().enumerate() {
        let balance = format!("balance={way}");
        let run = |ranks| {
            bench.run(&format!("dtrn {i}"), ranks, &[&DTRN, &[balance.as_str(), "train.epochs=1"][..]].concat())
        };
        let alone = run(1);
        for ranks in [2, 4] {
            alone.state.assert_close(&run(ranks).state, 1e-3, &format!("{way}, {ranks} ranks"));
        }
    }
}

/// `shared+rows` sees the products of the rows' gradients too: those by which each task alone moves the rows.
#[test]
fn rows_count_in_the_gram_matrix() {
    let bench = Bench::new();
    let start = bench.one_step("start", &["optimizer.dense.lr=1e-30", "optimizer.sparse.lr=1e-30"]).state;
    let tasks = ["click", "buy", "stars", "genre"];
    let alone = tasks.map(|task| {
        let weights: Vec<String> =
            (0..4).filter(|&k| tasks[k] != task).map(|k| format!("tasks[{k}].weight=1e-12")).collect();
        let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
        bench.one_step(task, &weights).moved(&start)
    });
    let product = |a: &BTreeMap<String, Vec<f64>>, b: &BTreeMap<String, Vec<f64>>| -> f64 {
        let rows = a.iter().filter(|(name, _)| !name.starts_with("parameters."));
        rows.map(|(name, a)| a.iter().zip(&b[name]).map(|(x, y)| x * y).sum::<f64>()).sum()
    };
    let dense = bench.one_step("dense", &["balance={kind: mgda}"]).gram();
    let both = bench.one_step("both", &["balance={kind: mgda, scope: shared+rows}"]).gram();
    let want: Vec<f64> = (0..16).map(|i| dense[i] + product(&alone[i / 4], &alone[i % 4])).collect();
    assert_near(&both, &want, 1e-4, "Gram matrix");
    let largest = want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let rows = want.iter().zip(&dense).fold(0.0, |most: f64, (both, dense)| most.max((both - dense).abs()));
    assert!(rows > 1e-3 * largest, "rows matter by ten times the tolerance: {rows} of {largest}");
}

#[test]
fn kept_gradients_survive_a_change_of_the_number_of_ranks() {
    let bench = Bench::new();
    let vectors = ["{kind: db_mtl}", "{kind: moco}", "{kind: excess_mtl}"];
    let numbers = ["{kind: metabalance}", "{kind: gradvac, group: layer}", "{kind: pmtrec}"];
    for (i, way) in vectors.iter().chain(&numbers).enumerate() {
        let balance = format!("balance={way}");
        let overrides = [balance.as_str(), MMOE, "train.epochs=1", "train.max_steps=10"];
        let straight = bench.run(&format!("straight {i}"), 1, &overrides);
        let run_dir = bench.place.path(&format!("stopped {i}"));
        let job = bench.place.job(&overrides);
        train(&job, 3, &run_dir, How { stop_after: Some(5), ..How::default() });
        let halfway = State::read(&newest(&run_dir));
        let kept = halfway.dense.iter().filter(|(name, _)| name.contains("balance."));
        let moved = kept.filter(|(_, values)| values.iter().any(|v| *v != 0.0)).count();
        assert_eq!(moved > 0, vectors.contains(way), "{way}: vectors as long as a gradient are saved");
        assert!(vectors.contains(way) || halfway.balance.iter().any(|x| *x != 0.0), "{way}: numbers are saved");
        train(&job, 2, &run_dir, How { resume: true, ..How::default() });
        straight.state.assert_close(&State::read(&newest(&run_dir)), 1e-3, way);
    }
}

#[test]
fn famo_answers_to_the_loss_after_the_step() {
    let bench = Bench::new();
    let run = bench.run("famo", 2, &[MMOE, "balance={kind: famo, lr: 0.1}", "train.epochs=1"]);
    let steps = run.seen.steps();
    let of = |i: usize| -> Vec<f64> { steps[i].weights.values().map(|w| w.as_f64().expect("a number")).collect() };
    assert!((of(3).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let logits: Vec<f64> = run.state.balance.iter().step_by(4).copied().collect();
    assert!(logits.iter().any(|x| x.abs() > 0.05), "{logits:?}");
    // A second look with batch norm must not move its running moments twice.
    let once = bench.one_step("norm", &[BOTTOM, "balance={kind: uniform}"]);
    let twice = bench.one_step("norm again", &[BOTTOM, "balance={kind: famo}"]);
    for (name, values) in once.state.dense.iter().filter(|(name, _)| name.contains("running")) {
        assert_eq!(values, &twice.state.dense[name], "{name}");
    }
}

#[test]
fn weights_that_are_used_again_give_what_comparing_the_gradients_again_gives() {
    let bench = Bench::new();
    for (i, max_norm) in ["0", "0.3"].iter().enumerate() {
        let balance = format!("balance={{kind: nash_mtl, update_every: 4, max_norm: {max_norm}}}");
        let run = |name: &str, more: &[&str]| {
            bench.run(&format!("{name} {i}"), 2, &[&[MMOE, &balance, "train.epochs=1"], more].concat())
        };
        // The reference kernels cannot tell heads from the trunk, and compare the gradients at every step.
        let (saving, whole) = (run("saving", &[]), run("whole", &["kernels=reference"]));
        let scopes = |ran: &Ran| [1, 4].map(|step| ran.seen.steps()[step].scope);
        assert_eq!(scopes(&saving), [Some("representation"), Some("shared")], "the log alone looks at the second step");
        assert_eq!(scopes(&whole), [Some("shared"), Some("shared")]);
        whole.state.assert_close(&saving.state, 1e-3, max_norm);
    }
}

#[test]
fn the_reference_kernels_refuse_the_representation() {
    let place = Workplace::with_log(60);
    let job = place.job(&["balance={kind: mgda, scope: representation}", "kernels=reference"]);
    let error = crate::common::job::try_train(&job, 1, &place.path("run"), How::default()).remove(0).unwrap_err();
    assert!(error.to_string().contains("kernels: fused"), "{error}");
}
