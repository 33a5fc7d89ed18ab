//! tandem's balancing methods against TorchJD 0.18's on the same Gram matrices and losses.
//!
//! `torchjd/make_fixtures.py` wrote what TorchJD gives; both compute in float64. How close they must be is stated per
//! method in `GRAM_METHODS` and `LOSS_METHODS`, with the reason where it is not rounding.

#[path = "torchjd/optimality.rs"]
mod optimality;

use serde::Deserialize;
use std::collections::BTreeSet;
use tandem::balance::{self, Signal};

#[derive(Deserialize)]
struct Fixture {
    torchjd: String,
    seed: u64,
    grams: Vec<Gram>,
    entries: Vec<Entry>,
    /// What TorchJD gives where it does not solve the method's equation.
    unsolved: Vec<Entry>,
    losses: Vec<LossEntry>,
}

#[derive(Deserialize)]
struct Gram {
    family: String,
    tasks: usize,
    /// Row-major.
    gram: Vec<f64>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    job: String,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    /// Index into `grams` at each step.
    steps: Vec<usize>,
    weights: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct LossEntry {
    name: String,
    job: String,
    steps_per_epoch: u64,
    losses: Vec<Vec<f64>>,
    weights: Vec<Vec<f64>>,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq)]
enum Measure {
    /// Each w_k‖g_k‖, over their sum.
    Weights,
    /// The norm of the difference of the two updates, over Σ w_k‖g_k‖: for weights that are not unique, or that the
    /// update hardly depends on.
    Update,
    /// The stored numbers are the update's products with the gradients.
    Products,
    /// wᵀGw, which the method minimises: not larger than TorchJD's, and smaller by at most the tolerance times the
    /// largest ‖g_k‖².
    LeastNorm,
}
use Measure::{LeastNorm, Products, Update, Weights};

/// Prefix of the entries' names, measure, tolerance. The first that fits counts.
const GRAM_METHODS: &[(&str, Measure, f64)] = &[
    ("mean", Weights, 1e-12),
    ("sum", Weights, 1e-12),
    ("static", Weights, 1e-12),
    ("pcgrad", Weights, 1e-9),
    ("rlw", Weights, 1e-11),
    ("upgrad_exact", Update, 1e-6),
    ("dual_proj_exact", Update, 1e-6),
    ("upgrad", Weights, 1e-8),
    ("dual_proj", Weights, 1e-8),
    ("crmogm", Weights, 1e-8),
    // Frank and Wolfe's method, which stops after 100 steps or at a step of 1e-3, is still on its way: see `optimality`.
    ("mgda", LeastNorm, 1e-2),
    // The square root of an interior-point solver's tolerance on the objective, which is flat there: see `optimality`.
    ("cagrad", Update, 3e-4),
    ("imtl_g", Weights, 1e-8),
    // Eigenvalues of badly scaled gradients are sure to 1e-16 of the largest; the smallest compared is 1e-10 of it.
    ("aligned_mtl", Weights, 1e-7),
    ("config", Products, 1e-8),
    // Least squares by finite differences, with a tolerance of 1e-8 on the cost.
    ("fairgrad", Weights, 1e-7),
    // A sequence of convex approximations, of which those are compared that end where α_k(Gα)_k = 1 to 1e-5.
    ("nash_mtl", Weights, 1e-4),
    ("gradvac", Weights, 1e-7),
    ("pcd", Update, 1e-6),
];

/// Prefix of the entries' names, tolerance over the largest weight.
const LOSS_METHODS: &[(&str, f64)] =
    &[("gls", 1e-12), ("dwa", 1e-12), ("imtl_l", 1e-10), ("uncertainty", 1e-10), ("stch", 1e-11)];

fn fixture() -> Fixture {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torchjd/gramians.json");
    let fixture: Fixture = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(fixture.torchjd, "0.18.0");
    fixture
}

/// Weights at each step of a fresh method.
fn run<'a>(job: &str, signals: impl Iterator<Item = Signal<'a>>, tasks: usize) -> Vec<Vec<f64>> {
    let names: Vec<String> = (0..tasks).map(|task| task.to_string()).collect();
    let mut method = balance::build(&mut serde_yaml::from_str(job).unwrap(), &names).unwrap();
    signals.map(|signal| method.method.weights(&signal).unwrap()).collect()
}

fn difference(measure: Measure, gram: &Gram, ours: &[f64], theirs: &[f64]) -> f64 {
    let norms = balance::gram::norms(&gram.gram, gram.tasks);
    let sum = |w: &[f64]| w.iter().zip(&norms).map(|(w, norm)| w.abs() * norm).sum::<f64>();
    let apart: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    let largest = |x: &mut dyn Iterator<Item = f64>| x.fold(0.0, |most: f64, x| if x <= most { most } else { x });
    match measure {
        Weights => largest(&mut apart.iter().zip(&norms).map(|(a, norm)| a.abs() * norm)) / sum(theirs),
        Update => balance::gram::quadratic(&gram.gram, &apart).max(0.0).sqrt() / sum(theirs),
        Products => {
            let rows = gram.gram.chunks_exact(gram.tasks);
            let products = rows.map(|row| row.iter().zip(ours).map(|(g, w)| g * w).sum::<f64>());
            largest(&mut products.zip(theirs).zip(&norms).map(|((p, t), norm)| (p - t).abs() / norm)) / sum(ours)
        }
        LeastNorm => {
            let [ours, theirs] = [ours, theirs].map(|w| balance::gram::quadratic(&gram.gram, w));
            let unit = norms.iter().map(|norm| norm * norm).fold(0.0, f64::max);
            assert!(ours <= theirs + 1e-12 * unit, "{ours} is not the least: {theirs}");
            (theirs - ours) / unit
        }
    }
}

#[test]
fn methods_of_the_gram_matrix_agree_with_torchjd() {
    let Fixture { seed, grams, entries, .. } = fixture();
    let mut failures = Vec::new();
    let mut used = BTreeSet::new();
    for Entry { name, job, runs } in &entries {
        let &(prefix, measure, tolerance) = GRAM_METHODS.iter().find(|(prefix, ..)| name.starts_with(prefix)).unwrap();
        used.insert(prefix);
        let mut worst = (0.0, 0);
        for Run { steps, weights } in runs {
            let tasks = grams[steps[0]].tasks;
            let (losses, present) = (vec![1.0; tasks], vec![true; tasks]);
            let signals = (0..).zip(steps).map(|(step, &index)| Signal {
                losses: &losses,
                present: &present,
                gram: &grams[index].gram,
                step,
                steps_per_epoch: 1000,
                total_steps: 1000,
                seed,
            });
            for ((&index, ours), theirs) in steps.iter().zip(run(job, signals, tasks)).zip(weights) {
                let apart = difference(measure, &grams[index], &ours, theirs);
                if apart.is_nan() || apart > worst.0 {
                    worst = (apart, index);
                }
            }
        }
        let (apart, index) = worst;
        println!("{name}: {apart:.1e} over {} runs (limit {tolerance:.0e})", runs.len());
        if apart.is_nan() || apart > tolerance {
            failures.push(format!("{name}: {apart:e} > {tolerance:e} at case {index} ({})", grams[index].family));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(used.len(), GRAM_METHODS.len(), "of these there is no entry for some: {used:?}");
}

#[test]
fn methods_of_the_losses_agree_with_torchjd() {
    let mut used = BTreeSet::new();
    for LossEntry { name, job, steps_per_epoch, losses, weights } in fixture().losses {
        let &(_, tolerance) = LOSS_METHODS.iter().find(|(prefix, _)| name.starts_with(prefix)).unwrap();
        let present = vec![true; losses[0].len()];
        let signals = (0..).zip(&losses).map(|(step, losses)| Signal {
            losses,
            present: &present,
            gram: &[],
            step,
            steps_per_epoch,
            total_steps: steps_per_epoch,
            seed: 0,
        });
        for (step, (ours, theirs)) in run(&job, signals, present.len()).iter().zip(&weights).enumerate() {
            let size = theirs.iter().copied().fold(0.0, f64::max);
            let close = ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= tolerance * size);
            assert!(close, "{name} at step {step}: {ours:?} is not {theirs:?}");
        }
        used.insert(name);
    }
    assert_eq!(used.len(), LOSS_METHODS.len(), "of these there is no entry for some: {used:?}");
}

/// The comparison can fail: every method differs from the plain mean somewhere, by more than its tolerance.
#[test]
fn the_comparison_tells_methods_apart() {
    let Fixture { grams, entries, .. } = fixture();
    for Entry { name, runs, .. } in
        entries.iter().filter(|entry| !["mean", "sum", "config"].contains(&entry.name.as_str()))
    {
        let &(_, _, tolerance) = GRAM_METHODS.iter().find(|(prefix, ..)| name.starts_with(prefix)).unwrap();
        let mut apart = 0.0f64;
        for Run { steps, weights } in runs {
            for (&index, theirs) in steps.iter().zip(weights) {
                let sum: f64 = theirs.iter().sum();
                let mean = vec![sum / theirs.len() as f64; theirs.len()];
                apart = apart.max(difference(Weights, &grams[index], &mean, theirs));
            }
        }
        assert!(apart > 2.0 * tolerance, "{name} is the mean to {apart}");
    }
}
