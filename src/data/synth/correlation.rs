//! The K × K matrices that set the angle between the tasks' effects. Row-major, float64, K small.

use crate::error::{Error, Result};

/// The matrix with ones on the diagonal and `cosine` elsewhere; positive semi-definite exactly when
/// −1/(K−1) ≤ `cosine` ≤ 1.
pub fn equal(k: usize, cosine: f64) -> Vec<f64> {
    (0..k * k).map(|i| if i / k == i % k { 1.0 } else { cosine }).collect()
}

/// The cosine of an angle in degrees, with 90 degrees at exactly 0.
pub fn cosine(angle_degrees: f64) -> f64 {
    let cosine = angle_degrees.to_radians().cos();
    if cosine.abs() < 1e-15 { 0.0 } else { cosine }
}

/// Widest angle, in degrees, that K vectors can have pairwise: the vertices of a simplex.
pub fn widest_angle(k: usize) -> f64 {
    if k < 2 { 180.0 } else { (-1.0 / (k as f64 - 1.0)).acos().to_degrees() }
}

/// Lower-triangular L with L Lᵀ = `matrix`. A matrix that is only semi-definite (angle 0, or the widest
/// angle) has zero pivots: their columns are zero.
pub fn cholesky(matrix: &[f64], k: usize) -> Vec<f64> {
    let mut lower = vec![0.0; k * k];
    for j in 0..k {
        let squares: f64 = lower[j * k..j * k + j].iter().map(|x| x * x).sum();
        let pivot = matrix[j * k + j] - squares;
        if pivot <= 1e-12 * matrix[j * k + j].max(f64::MIN_POSITIVE) {
            continue;
        }
        let root = pivot.sqrt();
        lower[j * k + j] = root;
        for i in j + 1..k {
            let dot: f64 = (0..j).map(|m| lower[i * k + m] * lower[j * k + m]).sum();
            lower[i * k + j] = (matrix[i * k + j] - dot) / root;
        }
    }
    lower
}

/// The inverse of a lower-triangular matrix.
///
/// # Errors
/// A zero on the diagonal: the sources of effects span fewer directions than there are tasks.
pub fn invert_lower(lower: &[f64], k: usize) -> Result<Vec<f64>> {
    let mut inverse = vec![0.0; k * k];
    for i in 0..k {
        let pivot = lower[i * k + i];
        if pivot == 0.0 {
            return Err(Error::job("the columns give fewer independent effects than there are tasks")
                .at("task", i + 1)
                .fix("add categorical or numeric columns, or ask for fewer tasks"));
        }
        for j in 0..=i {
            let dot: f64 = (j..i).map(|m| lower[i * k + m] * inverse[m * k + j]).sum();
            let unit = if i == j { 1.0 } else { 0.0 };
            inverse[i * k + j] = (unit - dot) / pivot;
        }
    }
    Ok(inverse)
}

/// The product of two K × K matrices.
pub fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    (0..k * k).map(|i| (0..k).map(|m| a[i / k * k + m] * b[m * k + i % k]).sum()).collect()
}

/// Mean and covariance of rows of K numbers.
pub fn moments(rows: &[f64], k: usize) -> (Vec<f64>, Vec<f64>) {
    let n = (rows.len() / k).max(1) as f64;
    let mut mean = vec![0.0; k];
    for row in rows.chunks_exact(k) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / n);
    }
    let mut covariance = vec![0.0; k * k];
    for row in rows.chunks_exact(k) {
        for (i, entry) in covariance.iter_mut().enumerate() {
            *entry += (row[i / k] - mean[i / k]) * (row[i % k] - mean[i % k]) / n;
        }
    }
    (mean, covariance)
}

/// Pearson correlations of rows of K numbers.
pub fn correlations(rows: &[f64], k: usize) -> Vec<f64> {
    let (_, covariance) = moments(rows, k);
    let spread = |i: usize| covariance[i * k + i].sqrt().max(f64::MIN_POSITIVE);
    (0..k * k).map(|i| covariance[i] / (spread(i / k) * spread(i % k))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transposed(a: &[f64], k: usize) -> Vec<f64> {
        (0..k * k).map(|i| a[i % k * k + i / k]).collect()
    }

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-9)
    }

    #[test]
    fn factors_multiply_back_also_at_the_singular_ends() {
        for k in 1..6 {
            for angle in [0.0, 45.0, 90.0, 95.0, widest_angle(k)] {
                if angle > widest_angle(k) {
                    continue;
                }
                let matrix = equal(k, angle.to_radians().cos());
                let lower = cholesky(&matrix, k);
                assert!(close(&product(&lower, &transposed(&lower, k), k), &matrix), "K {k}, angle {angle}");
            }
        }
    }

    #[test]
    fn inverse_undoes_and_a_singular_one_is_refused() {
        let lower = cholesky(&equal(4, 0.3), 4);
        assert!(close(&product(&invert_lower(&lower, 4).unwrap(), &lower, 4), &equal(4, 0.0)));
        assert!(invert_lower(&cholesky(&equal(3, 1.0), 3), 3).is_err());
    }

    #[test]
    fn widest_angles_are_those_of_simplexes() {
        assert!((widest_angle(2) - 180.0).abs() < 1e-9);
        assert!((widest_angle(3) - 120.0).abs() < 1e-9);
        assert!((widest_angle(4) - 109.471_220_634).abs() < 1e-6);
    }

    #[test]
    fn correlations_of_known_rows() {
        let rows = [1.0, -2.0, 2.0, -4.0, 3.0, -6.0];
        assert!(close(&correlations(&rows, 2), &[1.0, -1.0, -1.0, 1.0]));
    }
}
