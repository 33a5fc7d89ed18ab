//! What the tests of every method share.

use super::{Balance, Balancer, Signal, Slices, build};
use crate::error::Result;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::ops::RangeInclusive;

/// Names of as many tasks: `task 0` and so on.
pub(super) fn names(tasks: usize) -> Vec<String> {
    (0..tasks).map(|task| format!("task {task}")).collect()
}

/// A method from the YAML of its component, or why there is none.
pub(super) fn try_method(job: &str, tasks: usize) -> Result<Balance> {
    build(&mut serde_yaml::from_str(job).unwrap(), &names(tasks))
}

/// [`try_method`] of a job that is right.
pub(super) fn method(job: &str, tasks: usize) -> Box<dyn Balancer> {
    try_method(job, tasks).unwrap().method
}

/// A signal of losses only.
pub(super) fn of_losses<'a>(losses: &'a [f64], present: &'a [bool]) -> Signal<'a> {
    Signal { losses, present, gram: &[], step: 0, steps_per_epoch: 1, total_steps: 1, seed: 1 }
}

/// A signal with a Gram matrix.
pub(super) fn of_gram<'a>(gram: &'a [f64], losses: &'a [f64], present: &'a [bool]) -> Signal<'a> {
    Signal { losses, present, gram, step: 0, steps_per_epoch: 1, total_steps: 1, seed: 1 }
}

/// Weights of a fresh method for a Gram matrix, all tasks present, all losses 1.
pub(super) fn weights_of(job: &str, gram: &[f64], tasks: usize) -> Vec<f64> {
    method(job, tasks).weights(&of_gram(gram, &vec![1.0; tasks], &vec![true; tasks])).unwrap()
}

/// One step of a method that works on slices, on one rank, every column a tensor of its own. `kept` are the method's vectors from the last call, empty at first. Returns the whole
/// direction and the weights.
pub(super) fn sliced(
    method: &mut dyn Balancer,
    rows: &[Vec<f64>],
    losses: &[f64],
    kept: &mut Vec<Vec<f32>>,
    present: &[bool],
) -> (Vec<f64>, Vec<f64>) {
    let (gram, len) = (gram_of(rows), rows[0].len());
    let signal = of_gram(&gram, losses, present);
    let gradients: Vec<f32> = rows.iter().flatten().map(|&x| x as f32).collect();
    let tensors: Vec<_> = (0..len).map(|i| (i, i..i + 1)).collect();
    let layers: Vec<usize> = (0..len).collect();
    let slices = Slices { gradients: &gradients, tasks: rows.len(), tensors: &tensors, layers: &layers };
    let method = method.on_slices().unwrap();
    kept.resize(method.slots().len(), vec![0.0; len]);
    let mut slots: Vec<&mut [f32]> = kept.iter_mut().map(Vec::as_mut_slice).collect();
    let mut direction = vec![0.0; len];
    let weights = method.direction(&signal, &slices, &mut slots, &mut direction, &|_| Ok(())).unwrap();
    (direction.into_iter().map(f64::from).collect(), weights)
}

/// J Jᵀ of gradients as rows.
pub(super) fn gram_of(rows: &[Vec<f64>]) -> Vec<f64> {
    rows.iter().flat_map(|a| rows.iter().map(move |b| a.iter().zip(b).map(|(x, y)| x * y).sum())).collect()
}

/// Jᵀw.
pub(super) fn combine(rows: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; rows[0].len()];
    for (row, weight) in rows.iter().zip(weights) {
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += weight * x);
    }
    sum
}

/// Property tests draw the same cases on every run.
pub(super) fn fixed() -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(17), failure_persistence: None, ..ProptestConfig::default() }
}

/// Gradients of random tasks in up to 6 dimensions (so often linearly dependent), some of them equal or
/// opposite to another, each multiplied by 10^e with |e| ≤ `decades`.
pub(super) fn scaled_rows(tasks: RangeInclusive<usize>, decades: i32) -> impl Strategy<Value = Vec<Vec<f64>>> {
    (1usize..=6).prop_flat_map(move |dims| {
        let row = (prop::collection::vec(-1.0f64..1.0, dims), -decades..=decades, 0usize..20);
        prop::collection::vec(row, tasks.clone()).prop_map(|drawn| {
            let mut rows: Vec<Vec<f64>> = Vec::new();
            for (row, exponent, copy) in drawn {
                let base = match copy {
                    0 => rows.first().cloned().unwrap_or(row),
                    1 => rows.first().map_or(row, |r| r.iter().map(|x| -x).collect()),
                    _ => row,
                };
                let keep_scale = copy < 2 && !rows.is_empty();
                let scale = if keep_scale { 1.0 } else { 10f64.powi(exponent) };
                rows.push(base.iter().map(|x| x * scale).collect());
            }
            rows
        })
    })
}

/// Asserts that the update of `job` lengthens no loss: ⟨g_k, Σ w_l g_l⟩ ≥ 0 for every task, beyond rounding and the
/// ridge of 1e-12 that makes solutions unique.
pub(super) fn assert_no_conflict(job: &str, rows: &[Vec<f64>]) {
    let tasks = rows.len();
    let gram = gram_of(rows);
    let w = weights_of(job, &gram, tasks);
    let norm = |k: usize| gram[k * tasks + k].sqrt();
    let size: f64 = (0..tasks).map(|k| w[k].abs() * norm(k)).sum();
    for k in 0..tasks {
        let along: f64 = (0..tasks).map(|l| gram[k * tasks + l] * w[l]).sum();
        assert!(along >= -1e-10 * norm(k) * size, "task {k}: {along} of {}", norm(k) * size);
    }
}

/// Asserts that two vectors agree element by element.
pub(super) fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance, "{got:?} is not {want:?}");
    }
}
