//! The α-fair point of a game of tasks: the y > 0 with (Ay)_k = s_k·y_k^(−1/α) for all k, which is the minimum of
//!
//!   ½ yᵀAy − Σ s_k φ(y_k),  φ′(y) = y^(−1/α).
//!
//! φ is concave, so the minimum is unique, and Newton's method with a line search finds it to rounding: no
//! conic solver, and no sequence of convex approximations. α = 1 is Nash's bargaining solution.

use super::solvers::solve_positive;

/// Iterations of Newton's method. From far away each doubles the smallest y, or divides the largest by 20, so
/// twenty decades take about 70.
const ITERATIONS: usize = 2000;

/// How far towards zero a variable may go in one iteration.
const TO_BOUNDARY: f64 = 0.95;

/// The y > 0 with (`matrix`·y)_k = `s`_k·y_k^(−1/`alpha`), for a symmetric positive definite, row-major matrix of
/// unit diagonal, s > 0 and α > 0.
pub(super) fn fair_point(matrix: &[f64], s: &[f64], alpha: f64) -> Vec<f64> {
    let n = s.len();
    let power = -1.0 / alpha;
    // The solution for orthogonal gradients.
    let mut y: Vec<f64> = s.iter().map(|s| libm::pow(*s, alpha / (alpha + 1.0))).collect();
    for _ in 0..ITERATIONS {
        let pull: Vec<f64> = s.iter().zip(&y).map(|(s, y)| s * libm::pow(*y, power)).collect();
        let descent: Vec<f64> = product(matrix, &y).iter().zip(&pull).map(|(ay, pull)| pull - ay).collect();
        let mut hessian = matrix.to_vec();
        for k in 0..n {
            hessian[k * n + k] -= power * pull[k] / y[k];
        }
        let step = solve_positive(&hessian, &descent);
        let relative = |shrink: f64| step.iter().zip(&y).map(|(p, y)| shrink * p / y).fold(0.0, f64::max);
        let (growth, fall) = (relative(1.0), relative(-1.0));
        if !growth.is_finite() || !fall.is_finite() {
            break;
        }
        let reach = if fall > TO_BOUNDARY { TO_BOUNDARY / fall } else { 1.0 };
        let taken = line_search(matrix, s, power, &y, &step, reach);
        y.iter_mut().zip(&step).for_each(|(y, p)| *y += taken * p);
        if growth.max(fall) <= 4.0 * f64::EPSILON || taken == 0.0 {
            break;
        }
    }
    y
}

/// The longest of `reach`, `reach`/2, `reach`/4, … that does not climb the far side of the valley: the slope along
/// the step is compared, since near the minimum the function's own values do not differ.
fn line_search(matrix: &[f64], s: &[f64], power: f64, y: &[f64], step: &[f64], reach: f64) -> f64 {
    let slope = |t: f64| -> f64 {
        let at: Vec<f64> = y.iter().zip(step).map(|(y, p)| y + t * p).collect();
        let ay = product(matrix, &at);
        (0..y.len()).map(|k| (ay[k] - s[k] * libm::pow(at[k], power)) * step[k]).sum()
    };
    let most = 0.5 * slope(0.0).abs();
    let mut t = reach;
    for _ in 0..60 {
        if slope(t) <= most {
            return t;
        }
        t *= 0.5;
    }
    0.0
}

fn product(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len().max(1)).map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{assert_close, scaled_rows};
    use proptest::prelude::*;

    #[test]
    fn two_tasks_by_hand() {
        // y(1 + c) = 1/y.
        let y = fair_point(&[1.0, 0.5, 0.5, 1.0], &[1.0, 1.0], 1.0);
        assert_close(&y, &[1.0 / 1.5f64.sqrt(); 2], 1e-15);
        // Orthogonal: y = s·y^(−1/2), so y = s^(2/3).
        assert_close(&fair_point(&[1.0, 0.0, 0.0, 1.0], &[8.0, 27.0], 2.0), &[4.0, 9.0], 1e-14);
        assert!(fair_point(&[], &[], 1.0).is_empty());
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        /// The condition itself, in units of the larger side, for factors over six decades.
        #[test]
        fn the_condition_holds(
            rows in scaled_rows(1..=8, 0),
            exponents in prop::collection::vec(-3.0f64..3.0, 8),
            alpha in 0.3f64..4.0,
        ) {
            let n = rows.len();
            let all: Vec<usize> = (0..n).collect();
            let gram = crate::balance::testing::gram_of(&rows);
            prop_assume!((0..n).all(|k| gram[k * n + k] > 1e-6));
            let mut matrix = crate::balance::gram::Scaled::new(&gram, n, &all).cosines;
            (0..n).for_each(|k| matrix[k * n + k] = 1.0 + 1e-6);
            let s: Vec<f64> = exponents[..n].iter().map(|e| 10f64.powf(*e)).collect();
            let y = fair_point(&matrix, &s, alpha);
            for k in 0..n {
                let terms = matrix[k * n..(k + 1) * n].iter().zip(&y).map(|(a, y)| a * y);
                let size: f64 = terms.clone().map(f64::abs).sum();
                let pull = s[k] * y[k].powf(-1.0 / alpha);
                prop_assert!((terms.sum::<f64>() - pull).abs() <= 1e-9 * (size + pull), "task {k} of {y:?}");
            }
        }
    }
}
