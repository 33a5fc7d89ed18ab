//! The one small optimisation problem that most Gram-based methods reduce to: a strictly convex quadratic over
//! non-negative variables; and the linear system inside it.
//!
//! It is solved here rather than by a conic-solver crate for three reasons: the active-set method ends with
//! the exact solution of the last linear system instead of an interior point near it; plain loops give the
//! same bits on every CPU; and K is 2 to 16.

/// Minimises ½ xᵀAx − bᵀx over x ≥ 0 for a symmetric positive definite, row-major n × n matrix `A` (Lawson &
/// Hanson 1974, chapter 23, on the normal equations).
///
/// `A` should be scaled to a unit diagonal. A diagonal pivot that rounding has made non-positive is lifted,
/// so the result is finite for any finite input.
pub(super) fn nonnegative_quadratic(a: &[f64], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    debug_assert_eq!(a.len(), n * n);
    let mut x = vec![0.0; n];
    let mut free = vec![false; n];
    // Variables whose entry did not help because of rounding, until another one moves x.
    let mut refused = vec![false; n];
    // The exact method visits each set of free variables once; in practice about n of them.
    for _ in 0..20 * (n + 1) {
        let Some(entering) = steepest(a, b, &x, &free, &refused) else { break };
        free[entering] = true;
        if !descend(a, b, &mut x, &mut free, entering) {
            free[entering] = false;
            refused[entering] = true;
        } else {
            refused.fill(false);
        }
    }
    x
}

/// The bound variable along which the objective falls most, beyond rounding.
fn steepest(a: &[f64], b: &[f64], x: &[f64], free: &[bool], refused: &[bool]) -> Option<usize> {
    let n = b.len();
    let mut best = None;
    let mut most = 0.0;
    for j in (0..n).filter(|&j| !free[j] && !refused[j]) {
        let (mut slope, mut size) = (b[j], b[j].abs());
        for (a, x) in a[j * n..(j + 1) * n].iter().zip(x) {
            slope -= a * x;
            size += (a * x).abs();
        }
        if slope > 4.0 * f64::EPSILON * size && slope > most {
            most = slope;
            best = Some(j);
        }
    }
    best
}

/// Moves x to the minimum over the free variables, binding those that would become negative. False, with x
/// unchanged, if the `entering` variable itself would.
fn descend(a: &[f64], b: &[f64], x: &mut [f64], free: &mut [bool], entering: usize) -> bool {
    let mut first = true;
    loop {
        let set: Vec<usize> = (0..x.len()).filter(|&j| free[j]).collect();
        let z = solve_free(a, b, &set);
        if first && set.iter().zip(&z).any(|(&j, &z)| j == entering && z <= 0.0) {
            return false;
        }
        first = false;
        // How far x can go towards z before a variable reaches 0.
        let mut reach = 1.0;
        let mut blocking = None;
        for (&j, &z) in set.iter().zip(&z) {
            if z <= 0.0 {
                let ratio = if x[j] > z { x[j] / (x[j] - z) } else { 0.0 };
                if blocking.is_none() || ratio < reach {
                    reach = ratio;
                    blocking = Some(j);
                }
            }
        }
        for (&j, &z) in set.iter().zip(&z) {
            x[j] += reach * (z - x[j]);
        }
        let Some(blocking) = blocking else {
            // Exactly z, without the rounding of the addition.
            for (&j, &z) in set.iter().zip(&z) {
                x[j] = z;
            }
            return true;
        };
        for &j in &set {
            if j == blocking || x[j] <= 0.0 {
                x[j] = 0.0;
                free[j] = false;
            }
        }
    }
}

/// Solves Ax = b for a symmetric positive definite, row-major matrix of any scale: rows and columns are divided by
/// the roots of the diagonal first.
pub(super) fn solve_positive(a: &[f64], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let scale: Vec<f64> = (0..n).map(|k| 1.0 / a[k * n + k].max(f64::MIN_POSITIVE).sqrt()).collect();
    let scaled: Vec<f64> = (0..n * n).map(|i| a[i] * scale[i / n] * scale[i % n]).collect();
    let right: Vec<f64> = b.iter().zip(&scale).map(|(b, s)| b * s).collect();
    let all: Vec<usize> = (0..n).collect();
    solve_free(&scaled, &right, &all).iter().zip(&scale).map(|(z, s)| z * s).collect()
}

/// Solves A_SS z = b_S by Cholesky decomposition.
fn solve_free(a: &[f64], b: &[f64], set: &[usize]) -> Vec<f64> {
    let (n, m) = (b.len(), set.len());
    let mut l = vec![0.0; m * m];
    for i in 0..m {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * m + k] * l[j * m + k]).sum();
            let rest = a[set[i] * n + set[j]] - dot;
            l[i * m + j] = if i == j { rest.max(f64::EPSILON).sqrt() } else { rest / l[j * m + j] };
        }
    }
    let mut z: Vec<f64> = set.iter().map(|&j| b[j]).collect();
    for i in 0..m {
        let dot: f64 = (0..i).map(|k| l[i * m + k] * z[k]).sum();
        z[i] = (z[i] - dot) / l[i * m + i];
    }
    for i in (0..m).rev() {
        let dot: f64 = (i + 1..m).map(|k| l[k * m + i] * z[k]).sum();
        z[i] = (z[i] - dot) / l[i * m + i];
    }
    z
}

/// The point of the probability simplex that is nearest to `x` (Held, Wolfe & Crowder 1974): max(x − θ, 0) with the θ
/// that makes the sum 1. Empty for an empty slice.
pub(super) fn project_onto_simplex(x: &[f64]) -> Vec<f64> {
    let mut sorted = x.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (mut sum, mut theta) = (0.0, 0.0);
    for (count, &value) in (1..).zip(&sorted) {
        sum += value;
        let candidate = (sum - 1.0) / f64::from(count);
        if value > candidate {
            theta = candidate;
        }
    }
    x.iter().map(|x| (x - theta).max(0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::gram_of;
    use proptest::prelude::*;

    #[test]
    fn a_bound_variable_stays_at_zero() {
        assert_eq!(nonnegative_quadratic(&[4.0, 0.0, 0.0, 4.0], &[1.0, -1.0]), [0.25, 0.0]);
        assert_eq!(nonnegative_quadratic(&[1.0], &[-3.0]), [0.0]);
        assert!(nonnegative_quadratic(&[], &[]).is_empty());
    }

    #[test]
    fn a_variable_that_entered_can_leave_again() {
        // Alone x₀ = 1; with x₁ the free minimum has x₀ < 0, so x₀ must go: x = (0, 1.6).
        let x = nonnegative_quadratic(&[1.0, 0.9, 0.9, 1.0], &[1.0, 1.6]);
        assert!(x[0] == 0.0 && (x[1] - 1.6).abs() < 1e-15, "{x:?}");
        let x = nonnegative_quadratic(&[1.0, 0.99, 0.0, 0.99, 1.0, 0.1, 0.0, 0.1, 1.0], &[1.0, 0.995, 0.5]);
        assert!(x.iter().all(|x| *x >= 0.0));
    }

    #[test]
    fn the_nearest_point_of_the_simplex() {
        assert_eq!(project_onto_simplex(&[0.25, 0.75]), [0.25, 0.75]);
        assert_eq!(project_onto_simplex(&[3.0, 1.0]), [1.0, 0.0]);
        assert_eq!(project_onto_simplex(&[-1.0, -1.0, -5.0]), [0.5, 0.5, 0.0]);
        assert!(project_onto_simplex(&[]).is_empty());
    }

    #[test]
    fn systems_of_any_scale_are_solved() {
        // x = (1e12, 1e-12).
        let x = solve_positive(&[4e-24, 2.0, 2.0, 4e24], &[6e-12, 6e12]);
        assert!((x[0] * 1e-12 - 1.0).abs() < 1e-14 && (x[1] * 1e12 - 1.0).abs() < 1e-14, "{x:?}");
        assert!(solve_positive(&[], &[]).is_empty());
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn solutions_meet_the_optimality_conditions(
            rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 5), 1..8),
            b in prop::collection::vec(-1.0f64..1.0, 8),
        ) {
            // More rows than columns make the matrix singular but for the ridge.
            let n = rows.len();
            let mut a = gram_of(&rows);
            for k in 0..n {
                a[k * n + k] += 1e-6;
            }
            let b = &b[..n];
            let x = nonnegative_quadratic(&a, b);
            let size = 1.0 + x.iter().sum::<f64>();
            for j in 0..n {
                let slope: f64 = (0..n).map(|k| a[j * n + k] * x[k]).sum::<f64>() - b[j];
                prop_assert!(x[j] >= 0.0);
                prop_assert!(slope >= -1e-12 * size, "slope {slope} at {j}");
                prop_assert!(x[j] == 0.0 || slope.abs() <= 1e-9 * size, "slope {slope} at free {j}");
            }
        }
    }
}
