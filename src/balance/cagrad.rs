//! Conflict-averse gradient descent (Liu et al., NeurIPS 2021): within a ball of radius ρ = c‖g₀‖ around the
//! mean gradient g₀, the direction that helps the worst-off task most,
//!
//!   max_δ min_k ⟨g_k, g₀ + δ⟩ with ‖δ‖ ≤ ρ   (dual: min over the simplex of g_wᵀg₀ + ρ‖g_w‖).
//!
//! For a given improvement t of the worst task the shortest δ is Jᵀλ with λ ≥ 0 from a small quadratic
//! problem, and its length grows with t; so t is found by Newton's method on one number. That is exact, and
//! has no trouble where ‖g_w‖ → 0, the tip of the cone that stops a smooth solver of the dual.

use super::gram::Scaled;
use super::solvers::nonnegative_quadratic;
use super::{Balancer, KEY, Needs, Signal};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: cagrad}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CaGrad {
    /// Radius of the ball, over the norm of the mean gradient. 0 is the mean gradient.
    c: f64,
    /// What the direction is divided by: 0 by 1, 1 by 1 + c², 2 by 1 + c.
    rescale: u8,
}

impl Default for CaGrad {
    fn default() -> Self {
        Self { c: 0.4, rescale: 1 }
    }
}

/// Gradients that cancel to less than this share of their lengths count as cancelling to it: at a
/// Pareto-stationary point δ has no direction, and following rounding would make weights without limit.
const STATIONARY: f64 = 1e-4;

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: CaGrad = component.options(KEY)?;
    if !(options.c >= 0.0 && options.c.is_finite()) {
        return Err(Error::job(format!("c is {}", options.c)).at("key", "balance.c").fix("give a number ≥ 0"));
    }
    if options.rescale > 2 {
        return Err(Error::job(format!("rescale is {}", options.rescale))
            .at("key", "balance.rescale")
            .fix("give 0 (none), 1 (by 1 + c²) or 2 (by 1 + c)"));
    }
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for CaGrad {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let tasks = signal.present.len();
        let mut weights = vec![0.0; tasks];
        let present = signal.present();
        if let [only] = present[..] {
            weights[only] = 1.0;
            return Ok(weights);
        }
        let mean = 1.0 / present.len().max(1) as f64;
        let divisor = match self.rescale {
            0 => 1.0,
            1 => 1.0 + self.c * self.c,
            _ => 1.0 + self.c,
        };
        present.iter().for_each(|&k| weights[k] = mean / divisor);
        // A task whose shared gradient is exactly zero counts in the mean, but it is not the worst-off one:
        // nothing can help it, and heeding it would forbid to help the others.
        let moving: Vec<usize> = present.iter().copied().filter(|&k| signal.gram[k * tasks + k] > 0.0).collect();
        let gradients = Scaled::new(signal.gram, tasks, &moving);
        for (&k, lambda) in moving.iter().zip(improvement(&gradients, mean, self.c).unwrap_or_default()) {
            weights[k] += lambda / divisor;
        }
        Ok(weights)
    }
}

/// λ of δ = Σ λ_k g_k for gradients that are all non-zero, where g₀ = `mean` · Σ g_k; none where g₀ vanishes, so
/// that the ball is a point.
fn improvement(gradients: &Scaled, mean: f64, c: f64) -> Option<Vec<f64>> {
    let y: Vec<f64> = gradients.norms.iter().map(|norm| norm * mean).collect();
    let mean_norm = gradients.norm(&y);
    if c == 0.0 || gradients.norms.is_empty() || mean_norm <= 1e-12 * y.iter().sum::<f64>() {
        return None;
    }
    // In units of ‖g₀‖ along unit gradients u_k: ⟨u_k, g₀⟩/‖g₀‖, and t's factor 1/‖g_k‖ (over the largest).
    let along: Vec<f64> = gradients.times(&y).iter().map(|x| x / mean_norm).collect();
    let least = gradients.norms.iter().copied().fold(f64::INFINITY, f64::min);
    let slope: Vec<f64> = gradients.norms.iter().map(|norm| least / norm).collect();
    let v = shortest_of_length(&gradients.ridged(), &slope, &along, c);
    let length = gradients.norm(&v).max(STATIONARY * v.iter().sum::<f64>());
    let scale = c * mean_norm / length;
    Some(v.iter().zip(&gradients.norms).map(|(v, norm)| v * scale / norm).collect())
}

/// The v ≥ 0 of δ = Σ v_k u_k, shortest with ⟨u_k, δ⟩ ≥ t·slope_k − along_k for all k, where t makes ‖δ‖ = c.
fn shortest_of_length(matrix: &[f64], slope: &[f64], along: &[f64], c: f64) -> Vec<f64> {
    let solve = |t: f64| {
        let bound: Vec<f64> = slope.iter().zip(along).map(|(s, a)| t * s - a).collect();
        let v = nonnegative_quadratic(matrix, &bound);
        // At the minimum vᵀAv = vᵀb: the squared length without a matrix product.
        let squared: f64 = v.iter().zip(&bound).map(|(v, b)| v * b).sum();
        (v, squared.max(0.0).sqrt())
    };
    // One condition alone is as long as this at `t`, so ‖δ(t)‖ > c; the length is convex in t, so Newton's
    // method comes down to the root from there without passing it.
    let mut t = slope.iter().zip(along).map(|(s, a)| (c * 1.001 + a) / s).fold(f64::INFINITY, f64::min);
    let (mut v, mut length) = solve(t);
    for _ in 0..100 {
        // d‖δ‖/dt = slopeᵀv/‖δ‖.
        let rate = v.iter().zip(slope).map(|(v, s)| v * s).sum::<f64>() / length;
        let next = t - (length - c) / rate;
        if next.is_nan() || next >= t {
            break;
        }
        let (next_v, next_length) = solve(next);
        if next_length <= 0.0 {
            break;
        }
        (t, v, length) = (next, next_v, next_length);
        if length <= c * (1.0 + 1e-14) {
            break;
        }
    }
    v
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, combine, gram_of, method, scaled_rows, try_method, weights_of};
    use proptest::prelude::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn orthogonal_gradients_of_one_length_are_helped_alike() {
        // g₀ = (½, ½) and by symmetry δ = 0.4·g₀: both weights ½·1.4/1.16.
        let w = weights_of("{kind: cagrad}", &gram_of(&[vec![1.0, 0.0], vec![0.0, 1.0]]), 2);
        assert_close(&w, &[0.5 * 1.4 / 1.16; 2], 1e-12);
        let w = weights_of("{kind: cagrad, rescale: 0}", &gram_of(&[vec![1.0, 0.0], vec![0.0, 1.0]]), 2);
        assert_close(&w, &[0.5 * 1.4; 2], 1e-12);
        let w = weights_of("{kind: cagrad, rescale: 2}", &gram_of(&[vec![1.0, 0.0], vec![0.0, 1.0]]), 2);
        assert_close(&w, &[0.5; 2], 1e-12);
    }

    #[test]
    fn the_worst_task_gets_all_help_where_it_stays_the_worst() {
        // (1, 0) and (10, 1): g₀ = (5.5, ½), and the first stays worst: δ = ρ·g₁.
        let w = weights_of("{kind: cagrad, rescale: 0}", &gram_of(&[vec![1.0, 0.0], vec![10.0, 1.0]]), 2);
        assert_close(&w, &[0.5 + 0.4 * 30.5f64.sqrt(), 0.5], 1e-12);
    }

    #[test]
    fn opposite_gradients_stay_finite() {
        for gram in [[1.0, -1.0, -1.0, 1.0], [1.0, -2.0, -2.0, 4.0], [1e24, -1.0, -1.0, 1e-24], [0.0; 4]] {
            let w = weights_of("{kind: cagrad}", &gram, 2);
            assert!(w.iter().all(|w| w.is_finite()), "{gram:?}: {w:?}");
        }
    }

    #[test]
    fn a_task_without_a_shared_gradient_does_not_keep_help_from_the_others() {
        // g₀ = ½g₁ and δ = 0.4·½·g₁.
        let w = weights_of("{kind: cagrad, rescale: 0}", &[1.0, 0.0, 0.0, 0.0], 2);
        assert_close(&w, &[0.7, 0.5], 1e-12);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for job in ["{kind: cagrad, c: -1}", "{kind: cagrad, rescale: 3}", "{kind: cagrad, C: 0.1}"] {
            assert!(try_method(job, 2).is_err(), "{job}");
        }
        assert_eq!(method("{kind: cagrad}", 2).needs(), crate::balance::Needs::Gram);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn with_c_zero_it_is_the_mean(rows in scaled_rows(2..=8, 12)) {
            let w = weights_of("{kind: cagrad, c: 0}", &gram_of(&rows), rows.len());
            assert_close(&w, &vec![1.0 / rows.len() as f64; rows.len()], 0.0);
        }

        /// Strong duality: the worst task's ⟨g_k, g₀ + δ⟩ is as large as the dual bound at w ∝ λ, and ‖δ‖ = ρ.
        #[test]
        fn the_direction_is_optimal(rows in scaled_rows(2..=8, 2), c in 0.05f64..0.95) {
            let tasks = rows.len();
            let w = weights_of(&format!("{{kind: cagrad, c: {c}, rescale: 0}}"), &gram_of(&rows), tasks);
            let mean = combine(&rows, &vec![1.0 / tasks as f64; tasks]);
            let lambda: Vec<f64> = w.iter().map(|w| w - 1.0 / tasks as f64).collect();
            let delta = combine(&rows, &lambda);
            let size: f64 = rows.iter().map(|r| dot(r, r).sqrt()).fold(0.0, f64::max);
            let rho = c * dot(&mean, &mean).sqrt();
            let share: f64 = lambda.iter().sum();
            let long: f64 = lambda.iter().zip(&rows).map(|(l, r)| l * dot(r, r).sqrt()).sum();
            // A stationary point, or a zero gradient, has no such direction.
            prop_assume!(rho > 1e-6 * size && long > 0.0 && rho > 2e-4 * long);
            // A Gram matrix holds squares: where large gradients cancel in the mean, its norm is less exact.
            let rounding = 1e-13 * size * size / rho;
            prop_assert!((dot(&delta, &delta).sqrt() - rho).abs() < 1e-8 * rho + rounding);
            prop_assert!(lambda.iter().all(|l| *l >= -1e-15 * share.abs()));
            let direction: Vec<f64> = mean.iter().zip(&delta).map(|(m, d)| m + d).collect();
            let worst = rows.iter().map(|r| dot(r, &direction)).fold(f64::INFINITY, f64::min);
            let bound = (dot(&delta, &mean) + rho * rho) / share;
            prop_assert!(worst <= bound + 1e-9 * size * size);
            // Towards a stationary point λ grows, and the ridge on it with its square.
            let ridge = 1e-12 * (long / rho).powi(2);
            let tolerance = size * ((1e-7 + ridge) * dot(&direction, &direction).sqrt() + rounding);
            prop_assert!(bound - worst < tolerance, "{bound} − {worst} ≥ {tolerance}");
        }

        #[test]
        fn any_scale_is_finite(rows in scaled_rows(2..=8, 12)) {
            let w = weights_of("{kind: cagrad}", &gram_of(&rows), rows.len());
            prop_assert!(w.iter().all(|w| w.is_finite() && *w >= 0.0), "{w:?}");
        }
    }
}
