//! Multiple-gradient descent (Désidéri 2012; Sener & Koltun, NeurIPS 2018): the element of least norm in the
//! convex hull of the gradients, min wᵀGw over the simplex. Where it is not zero, −Σ w_k g_k lowers every loss.

use super::gram::Scaled;
use super::solvers::nonnegative_quadratic;
use super::{Balancer, KEY, LEAST_LOSS, Needs, Signal, weigh_moving};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: mgda}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mgda {
    /// What each gradient is divided by, before the hull is taken and in the update itself.
    normalize: Normalize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Normalize {
    /// Nothing.
    #[default]
    None,
    /// Its norm.
    L2,
    /// The task's loss.
    Loss,
    /// Both.
    #[serde(rename = "loss+")]
    LossPlus,
}

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Mgda = component.options(KEY)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for Mgda {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    /// A task that is present but whose shared gradient is exactly zero (it reaches no shared parameter) is
    /// left out like an absent one: with it the least norm is 0 and no task would ever move.
    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        weigh_moving(signal, |gradients, moving| {
            let divisors: Vec<f64> =
                moving.iter().zip(&gradients.norms).map(|(&k, &norm)| self.divisor(signal.losses[k], norm)).collect();
            let norms = gradients.norms.iter().zip(&divisors).map(|(norm, divisor)| norm / divisor).collect();
            let least = least_norm(&Scaled { norms, cosines: gradients.cosines.clone() });
            Ok(least.iter().zip(&divisors).map(|(w, divisor)| w / divisor).collect())
        })
    }
}

impl Mgda {
    fn divisor(&self, loss: f64, norm: f64) -> f64 {
        let loss = loss.max(LEAST_LOSS);
        match self.normalize {
            Normalize::None => 1.0,
            Normalize::L2 => norm,
            Normalize::Loss => loss,
            Normalize::LossPlus => loss * norm,
        }
    }
}

/// The weights of the least-norm element of the hull of two or more gradients, none of them zero.
fn least_norm(gradients: &Scaled) -> Vec<f64> {
    if let [a, b] = gradients.norms[..] {
        return least_norm_of_two(a, b, gradients.cosines[1]);
    }
    // With v_k = w_k‖g_k‖ the problem is min vᵀCv over v ≥ 0 with Σ v_k/‖g_k‖ = 1. Without the last condition
    // but with a linear term −Σ v_k/‖g_k‖ the solution points the same way, so it only has to be rescaled.
    let least = gradients.norms.iter().copied().fold(f64::INFINITY, f64::min);
    let inverse: Vec<f64> = gradients.norms.iter().map(|norm| least / norm).collect();
    let v = nonnegative_quadratic(&gradients.ridged(), &inverse);
    let w: Vec<f64> = v.iter().zip(&inverse).map(|(v, inverse)| v * inverse).collect();
    let sum: f64 = w.iter().sum();
    w.into_iter().map(|w| w / sum).collect()
}

/// The closed form for norms `a` and `b` and the cosine between the gradients: the foot of the perpendicular
/// from the origin to the segment.
fn least_norm_of_two(a: f64, b: f64, cosine: f64) -> Vec<f64> {
    // Over the square of the larger norm: nothing overflows.
    let larger = a.max(b);
    let (a, b) = (a / larger, b / larger);
    let length = a * a + b * b - 2.0 * a * b * cosine;
    if length <= f64::EPSILON {
        return vec![0.5, 0.5];
    }
    // Both shares from their own formula: 1 − first would lose a small second one.
    let (first, second) = (b * (b - a * cosine) / length, a * (a - b * cosine) / length);
    match (first > 0.0, second > 0.0) {
        (true, true) => vec![first, second],
        (first_counts, _) => vec![f64::from(u8::from(first_counts)), f64::from(u8::from(!first_counts))],
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, gram_of, method, of_gram, scaled_rows, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // (1, 0) and (0, 2): the foot of the perpendicular is 0.8·g₁ + 0.2·g₂.
        assert_close(&weights_of("{kind: mgda}", &gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]), 2), &[0.8, 0.2], 1e-15);
        // (1, 0) and (3, 1): the shorter one alone.
        assert_close(&weights_of("{kind: mgda}", &gram_of(&[vec![1.0, 0.0], vec![3.0, 1.0]]), 2), &[1.0, 0.0], 1e-15);
        assert_close(&weights_of("{kind: mgda}", &[4.0, 4.0, 4.0, 4.0], 2), &[0.5, 0.5], 1e-15);
        assert_close(&weights_of("{kind: mgda}", &[1.0, -1.0, -1.0, 1.0], 2), &[0.5, 0.5], 1e-15);
    }

    #[test]
    fn normalisation_divides_the_gradients_first() {
        let gram = gram_of(&[vec![2.0, 0.0], vec![0.0, 8.0]]);
        let losses = [0.5, 4.0];
        let of = |normalize: &str| {
            let job = format!("{{kind: mgda, normalize: {normalize}}}");
            method(&job, 2).weights(&of_gram(&gram, &losses, &[true, true])).unwrap()
        };
        // Unit gradients share equally: ½ each, over their norms.
        assert_close(&of("l2"), &[0.25, 0.0625], 1e-15);
        // g/L = (4, 0) and (0, 2): shares 0.2 and 0.8, over the losses.
        assert_close(&of("loss"), &[0.4, 0.2], 1e-15);
        // g/(L·norm) has norms 2 and ¼: shares 1/65 and 64/65.
        assert_close(&of("loss+"), &[1.0 / 65.0, 2.0 / 65.0], 1e-15);
    }

    #[test]
    fn a_task_without_a_shared_gradient_does_not_stop_the_others() {
        let gram = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0];
        assert_close(&weights_of("{kind: mgda}", &gram, 3), &[0.8, 0.0, 0.2], 1e-15);
        assert_close(&weights_of("{kind: mgda}", &[0.0; 9], 3), &[1.0 / 3.0; 3], 1e-15);
    }

    #[test]
    fn equal_gradients_share_equally() {
        let gram = gram_of(&vec![vec![1.0, 2.0]; 4]);
        assert_close(&weights_of("{kind: mgda}", &gram, 4), &[0.25; 4], 1e-3);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        /// The conditions of Karush, Kuhn and Tucker for min wᵀGw on the simplex, in the unit of rounding of
        /// each inequality: ‖g_k‖ · Σ w_l‖g_l‖.
        #[test]
        fn the_weights_are_optimal(rows in scaled_rows(1..=8, 12)) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            let w = weights_of("{kind: mgda}", &gram, tasks);
            prop_assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(w.iter().all(|w| *w >= 0.0));
            let norm = |k: usize| gram[k * tasks + k].sqrt();
            let size: f64 = (0..tasks).map(|l| w[l] * norm(l)).sum();
            let products: Vec<f64> =
                (0..tasks).map(|k| (0..tasks).map(|l| gram[k * tasks + l] * w[l]).sum()).collect();
            let squared: f64 = products.iter().zip(&w).map(|(p, w)| p * w).sum();
            for k in 0..tasks {
                prop_assert!(norm(k) == 0.0 || products[k] - squared >= -1e-9 * norm(k) * size,
                    "task {k}: {} < {squared}, w {w:?}", products[k]);
                prop_assert!(norm(k) == 0.0 || squared <= gram[k * tasks + k] + 1e-9 * size * size);
            }
        }
    }
}
