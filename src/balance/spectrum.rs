//! Eigenvalues of a small Gram matrix, for the methods that need its pseudo-inverse or its square root.
//!
//! `nalgebra` is built without its `std` feature, so every number comes from plain loops: the same bits on
//! every rank.

use crate::error::{Error, Result};
use nalgebra::{DMatrix, SymmetricEigen};

/// Eigenvalues below this share of the largest count as zero. Gradients are f32: where one task's is a
/// combination of the others', rounding leaves an eigenvalue of about 1e-14, which must not be inverted.
const TOLERANCE: f64 = 1e-12;

/// Iterations of the QR algorithm; two or three an eigenvalue are usual.
const ITERATIONS: usize = 10_000;

/// The positive eigenvalues of a symmetric positive semi-definite matrix, and their vectors.
pub(super) struct Spectrum {
    /// Eigenvalues above the tolerance, in descending order.
    pub values: Vec<f64>,
    /// The unit eigenvector of each.
    vectors: Vec<Vec<f64>>,
}

impl Spectrum {
    /// Decomposes a row-major n × n matrix.
    ///
    /// # Errors
    /// The QR algorithm does not converge, which no finite matrix is known to cause.
    pub fn new(matrix: &[f64], n: usize) -> Result<Self> {
        if n == 0 {
            return Ok(Self { values: Vec::new(), vectors: Vec::new() });
        }
        let eigen = SymmetricEigen::try_new(DMatrix::from_row_slice(n, n, matrix), f64::EPSILON, ITERATIONS)
            .ok_or_else(|| Error::numeric("the eigenvalues of the tasks' Gram matrix were not found"))?;
        let largest = eigen.eigenvalues.iter().copied().fold(0.0, f64::max);
        let mut kept: Vec<usize> = (0..n).filter(|&i| eigen.eigenvalues[i] > TOLERANCE * largest).collect();
        kept.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]));
        let vector = |i: usize| eigen.eigenvectors.column(i).iter().copied().collect();
        Ok(Self {
            values: kept.iter().map(|&i| eigen.eigenvalues[i]).collect(),
            vectors: kept.iter().map(|&i| vector(i)).collect(),
        })
    }

    /// Σ f(λ) v vᵀ b over the eigenvalues λ and their vectors v.
    pub fn apply(&self, b: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut product = vec![0.0; b.len()];
        for (&value, vector) in self.values.iter().zip(&self.vectors) {
            let along: f64 = vector.iter().zip(b).map(|(v, b)| v * b).sum();
            let factor = f(value) * along;
            product.iter_mut().zip(vector).for_each(|(p, v)| *p += factor * v);
        }
        product
    }

    /// The pseudo-inverse times `b`: of all x that come closest to Ax = b, the shortest.
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        self.apply(b, |value| 1.0 / value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{assert_close, gram_of};
    use proptest::prelude::*;

    #[test]
    fn a_rank_deficient_matrix_is_inverted_on_its_range() {
        let spectrum = Spectrum::new(&[2.0, 2.0, 2.0, 2.0], 2).unwrap();
        assert_close(&spectrum.values, &[4.0], 1e-14);
        assert_close(&spectrum.solve(&[3.0, 1.0]), &[0.5, 0.5], 1e-14);
        assert!(Spectrum::new(&[0.0; 9], 3).unwrap().values.is_empty());
        assert!(Spectrum::new(&[], 0).unwrap().solve(&[]).is_empty());
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn the_matrix_is_the_sum_of_its_parts(rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 5), 1..8)) {
            let n = rows.len();
            let gram = gram_of(&rows);
            let spectrum = Spectrum::new(&gram, n).unwrap();
            for k in 0..n {
                let mut unit = vec![0.0; n];
                unit[k] = 1.0;
                assert_close(&spectrum.apply(&unit, |value| value), &gram[k * n..(k + 1) * n], 1e-11);
            }
            prop_assert!(spectrum.values.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }
}
