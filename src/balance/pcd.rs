//! Priority-constrained descent (TMLR 2026, arXiv 2606.29521; after TorchJD's implementation): the update follows
//! the gradient of one primary task as closely as it can while every other task gets at least the fraction τ of the
//! progress that a step along its own gradient would give.
//!
//!   d̃ = argmin ½‖d − g̃_p‖²  subject to  ⟨g̃_j, d⟩ ≥ τ‖g̃_j‖² for j ≠ p,  g̃_k = g_k/√(v_k + ε),
//!
//! where v_k is the moving average of ‖g_k‖²; then d̃ is given the length of g_p. By duality d̃ = g̃_p + Σ μ_j g̃_j
//! with μ ≥ 0 from a small quadratic problem. If the tasks cannot all be served, the update is g_p.

use super::gram::Scaled;
use super::solvers::nonnegative_quadratic;
use super::task_name::TaskName;
use super::{Balancer, KEY, Needs, Signal, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: pcd}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Name of the primary task.
    primary: TaskName,
    /// Fraction of its own progress that every other task is guaranteed.
    tau: f64,
    /// Share of the old average in the moving average of ‖g_k‖²; bias-corrected.
    beta: f64,
    /// Added to the average before its root is taken.
    epsilon: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { primary: TaskName::default(), tau: 0.02, beta: 0.999, epsilon: 1e-8 }
    }
}

/// Violation of a constraint, over the lengths in it, above which the constraints contradict each other.
const CONTRADICTION: f64 = 1e-6;

/// A direction shorter than this share of its parts has cancelled to rounding.
const CANCELLED: f64 = 1e-7;

#[derive(Debug)]
struct Pcd {
    options: Options,
    /// Number of the primary task.
    primary: usize,
    /// The moving average of ‖g_k‖² and the number of its updates, of each task.
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let mut options: Options = component.options(KEY)?;
    let primary = options.primary.number("primary", names)?;
    let bad = |name: &str, value: String, fix: &str| {
        Err(Error::job(format!("{name} is {value}")).at("key", format!("{KEY}.{name}")).fix(fix))
    };
    if !(0.0..=1.0).contains(&options.tau) {
        return bad("tau", options.tau.to_string(), "give a number from 0 to 1");
    }
    if !(0.0..1.0).contains(&options.beta) {
        return bad("beta", options.beta.to_string(), "give a number from 0 to below 1");
    }
    if !(options.epsilon >= 0.0 && options.epsilon.is_finite()) {
        return bad("epsilon", options.epsilon.to_string(), "give a number ≥ 0");
    }
    component.resolve(&options)?;
    Ok(Box::new(Pcd { options, primary, state: vec![0.0; 2 * names.len()] }))
}

impl Balancer for Pcd {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    /// Without a gradient of the primary task in the batch there is nothing to follow: all weights are 0, but for a
    /// task that is alone.
    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let tasks = signal.present.len();
        let present = signal.present();
        let mut weights = vec![0.0; tasks];
        let scales: Vec<f64> = (0..tasks).map(|k| self.scale(k, signal)).collect();
        if let [only] = present[..] {
            weights[only] = 1.0;
            return Ok(weights);
        }
        let primary = self.primary;
        let moving = |k: usize| signal.present[k] && signal.gram[k * tasks + k] > 0.0;
        if !moving(primary) {
            return Ok(weights);
        }
        let mut order = vec![primary];
        order.extend((0..tasks).filter(|&k| k != primary && moving(k)));
        let gradients = Scaled::new(signal.gram, tasks, &order);
        // Lengths of the g̃_k.
        let lengths: Vec<f64> = order.iter().zip(&gradients.norms).map(|(&k, norm)| scales[k] * norm).collect();
        let y = self.options.direction(&gradients, &lengths);
        let (length, parts) = (gradients.norm(&y), y.iter().map(|y| y.abs()).sum::<f64>());
        if length > CANCELLED * parts {
            for ((&k, y), norm) in order.iter().zip(&y).zip(&gradients.norms) {
                weights[k] = y / length * (gradients.norms[0] / norm);
            }
        }
        Ok(weights)
    }

    remembers!(state);
}

impl Pcd {
    /// Updates the average of task `k`, if it is present, and returns 1/√(v_k + ε), or 0 where that has no value.
    fn scale(&mut self, k: usize, signal: &Signal) -> f64 {
        let Options { beta, epsilon, .. } = self.options;
        let [average, updates] = &mut self.state[2 * k..2 * k + 2] else { return 0.0 };
        if signal.present[k] {
            *average = beta * *average + (1.0 - beta) * signal.gram[k * signal.present.len() + k];
            *updates += 1.0;
        }
        let corrected = *average / (1.0 - libm::pow(beta, updates.max(1.0)));
        let divisor = (corrected + epsilon).sqrt();
        if divisor > 0.0 { 1.0 / divisor } else { 0.0 }
    }
}

impl Options {
    /// d̃ in unit gradients, the primary task first, for g̃_k of the given `lengths`.
    fn direction(&self, gradients: &Scaled, lengths: &[f64]) -> Vec<f64> {
        let n = lengths.len();
        let matrix = gradients.ridged();
        let others: Vec<f64> = (1..n).flat_map(|j| matrix[j * n + 1..(j + 1) * n].to_vec()).collect();
        // ⟨u_j, d⟩ ≥ τ·length_j, of which the primary gradient brings cosine·length_0.
        let missing: Vec<f64> = (1..n).map(|j| self.tau * lengths[j] - gradients.cosines[j * n] * lengths[0]).collect();
        let mut y = vec![lengths[0]];
        y.extend(nonnegative_quadratic(&others, &missing));
        let along = gradients.times(&y);
        let most = lengths.iter().copied().fold(0.0, f64::max);
        if (1..n).any(|j| along[j] < self.tau * lengths[j] - CONTRADICTION * most) {
            y[1..].fill(0.0);
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::gram::quadratic;
    use crate::balance::testing::{assert_close, combine, gram_of, method, of_gram, try_method, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // (3, 0) and (−1, 1) with τ = 0: d is the part of g̃₁ = (1, 0) orthogonal to g₂, (½, ½), as long as g₁:
        // (3/√2)(1, 1) = a(3, 0) + b(−1, 1), so b = 3/√2 and 3a = 2b.
        let gram = gram_of(&[vec![3.0, 0.0], vec![-1.0, 1.0]]);
        let b = 3.0 / 2f64.sqrt();
        assert_close(&weights_of("{kind: pcd, tau: 0, epsilon: 0}", &gram, 2), &[2.0 * b / 3.0, b], 1e-10);
        // Without conflict, and enough progress: the primary gradient.
        let gram = gram_of(&[vec![3.0, 0.0], vec![1.0, 1.0]]);
        assert_close(&weights_of("{kind: pcd}", &gram, 2), &[1.0, 0.0], 0.0);
        // The other way round.
        let w = weights_of("{kind: pcd, primary: task 1}", &gram, 2);
        assert_close(&w, &[0.0, 1.0], 0.0);
    }

    #[test]
    fn tasks_that_cannot_all_be_served_are_left_alone() {
        let gram = gram_of(&[vec![0.0, 1.0], vec![1.0, 0.0], vec![-1.0, 0.0]]);
        assert_eq!(weights_of("{kind: pcd, tau: 0.1}", &gram, 3), [1.0, 0.0, 0.0]);
        // Opposite to the primary, with no progress asked: nothing is left of it.
        assert_eq!(weights_of("{kind: pcd, tau: 0}", &[1.0, -1.0, -1.0, 1.0], 2), [0.0, 0.0]);
    }

    #[test]
    fn without_the_primary_task_nothing_moves() {
        let gram = gram_of(&[vec![0.0, 0.0], vec![1.0, 0.0], vec![0.0, 1.0]]);
        let mut pcd = method("{kind: pcd}", 3);
        assert_eq!(pcd.weights(&of_gram(&gram, &[1.0; 3], &[false, true, true])).unwrap(), [0.0; 3]);
        assert_eq!(pcd.weights(&of_gram(&gram, &[1.0; 3], &[true; 3])).unwrap(), [0.0; 3]);
        // An absent task's average stands still.
        assert_eq!(pcd.state()[1], 1.0);
        assert_eq!(pcd.state()[3], 2.0);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for job in ["primary: other", "tau: 1.1", "beta: 1", "epsilon: -1"] {
            let job = format!("{{kind: pcd, {job}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        /// At the first step g̃_k is the unit gradient: each other task gets its fraction, and the update has the
        /// primary gradient's length.
        #[test]
        fn each_task_gets_its_fraction(
            rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), 2..6),
            tau in 0.0f64..0.2,
        ) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            let w = weights_of(&format!("{{kind: pcd, tau: {tau}, epsilon: 0}}"), &gram, tasks);
            let d = combine(&rows, &w);
            let norm = |k: usize| gram[k * tasks + k].sqrt();
            prop_assert!((quadratic(&gram, &w).sqrt() - norm(0)).abs() < 1e-6 * norm(0));
            // d = d̃·‖g_p‖/‖d̃‖, and the primary's own weight in d̃ is 1/‖g_p‖.
            let stretch = w[0] * norm(0);
            for j in 1..tasks {
                let along: f64 = rows[j].iter().zip(&d).map(|(x, y)| x * y).sum::<f64>() / norm(j);
                prop_assert!(along >= (tau - 1e-6) * stretch, "task {j}: {along}, {stretch}");
                prop_assert!(w[j] >= 0.0);
                // Complementary: a task that gets more than its fraction has not bent the update.
                prop_assert!(w[j] < 1e-9 || (along - tau * stretch).abs() < 1e-6 * stretch);
            }
        }
    }
}
