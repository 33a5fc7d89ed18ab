//! The Gram matrix G = J Jᵀ of the tasks' gradients, and what is read from it.
//!
//! Each rank holds one slice of every task's *globally summed* gradient; [`partial`] is its share, and the
//! sum over ranks is G. (The mean of Grams of unsummed gradients is not: it adds the noise of each rank's
//! rows to the diagonal.)

use rayon::prelude::*;

/// Elements of a slice that one thread takes at a time. Fixed, so that the order of additions does not depend
/// on the number of threads.
const BLOCK: usize = 1 << 14;

/// Row-major K × K matrix of ⟨g_k, g_l⟩ in float64. `gradients` holds one slice of each of the `tasks` gradients,
/// one after the other, all of one length.
pub fn partial(gradients: &[f32], tasks: usize) -> Vec<f64> {
    let len = gradients.len().checked_div(tasks).unwrap_or(0);
    debug_assert_eq!(gradients.len(), len * tasks);
    let rows: Vec<&[f32]> = (0..tasks).map(|task| &gradients[task * len..(task + 1) * len]).collect();
    partial_of(&rows)
}

/// [`partial`] of gradients that stand apart, all of one length.
pub fn partial_of(rows: &[&[f32]]) -> Vec<f64> {
    let tasks = rows.len();
    let len = rows.first().map_or(0, |row| row.len());
    let blocks: Vec<Vec<f64>> = (0..len.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| {
            let of = |task: usize| &rows[task][block * BLOCK..((block + 1) * BLOCK).min(len)];
            let mut products = Vec::with_capacity(tasks * (tasks + 1) / 2);
            for k in 0..tasks {
                products.extend((0..=k).map(|l| dot(of(k), of(l))));
            }
            products
        })
        .collect();
    let mut gram = vec![0.0; tasks * tasks];
    for products in &blocks {
        let mut products = products.iter();
        for k in 0..tasks {
            for (l, product) in (0..=k).zip(products.by_ref()) {
                gram[k * tasks + l] += product;
            }
        }
    }
    for k in 0..tasks {
        for l in 0..k {
            gram[l * tasks + k] = gram[k * tasks + l];
        }
    }
    gram
}

/// ⟨a, b⟩ in float64, in a fixed order.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    // Eight sums side by side, so that the compiler can use vectors without changing the order.
    let mut lanes = [0.0f64; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    for (a, b) in a.zip(b) {
        for ((sum, &x), &y) in lanes.iter_mut().zip(a).zip(b) {
            *sum += f64::from(x) * f64::from(y);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// ‖g_k‖ of each task.
pub fn norms(gram: &[f64], tasks: usize) -> Vec<f64> {
    (0..tasks).map(|k| gram[k * tasks + k].max(0.0).sqrt()).collect()
}

/// Row-major K × K cosines between the gradients, in [−1, 1]; a zero gradient has cosine 0 with all, and with
/// itself.
pub fn cosines(gram: &[f64], tasks: usize) -> Vec<f64> {
    let norms = norms(gram, tasks);
    let mut cosines = vec![0.0; tasks * tasks];
    for k in (0..tasks).filter(|&k| norms[k] > 0.0) {
        cosines[k * tasks + k] = 1.0;
        for l in (0..tasks).filter(|&l| l != k && norms[l] > 0.0) {
            // Divided one after the other: the product of the norms may overflow or vanish.
            cosines[k * tasks + l] = (gram[k * tasks + l] / norms[k] / norms[l]).clamp(-1.0, 1.0);
        }
    }
    cosines
}

/// wᵀGw = ‖Σ w_k g_k‖².
pub fn quadratic(gram: &[f64], weights: &[f64]) -> f64 {
    let tasks = weights.len();
    (0..tasks).map(|k| weights[k] * (0..tasks).map(|l| gram[k * tasks + l] * weights[l]).sum::<f64>()).sum()
}

/// A Gram matrix without its scale: norms and cosines of some of the tasks. Methods work on unit gradients
/// u_k = g_k/‖g_k‖, so that tasks whose gradients differ by many orders of magnitude stay well conditioned.
pub(super) struct Scaled {
    /// ‖g_k‖ of each chosen task.
    pub norms: Vec<f64>,
    /// Row-major cosines between the chosen tasks.
    pub cosines: Vec<f64>,
}

impl Scaled {
    /// The rows and columns `chosen` of a `tasks × tasks` Gram matrix.
    pub fn new(gram: &[f64], tasks: usize, chosen: &[usize]) -> Self {
        let part: Vec<f64> = chosen.iter().flat_map(|&k| chosen.iter().map(move |&l| gram[k * tasks + l])).collect();
        Self { norms: norms(&part, chosen.len()), cosines: cosines(&part, chosen.len()) }
    }

    /// The cosines with a ridge of 1e-12 on a unit diagonal: positive definite, which makes the minimiser
    /// unique (equal gradients share equally) at the price of 1e-12 in the optimality conditions.
    pub fn ridged(&self) -> Vec<f64> {
        self.ridged_by(1e-12)
    }

    /// The cosines with a given ridge.
    pub fn ridged_by(&self, ridge: f64) -> Vec<f64> {
        let n = self.norms.len();
        let mut matrix = self.cosines.clone();
        for k in 0..n {
            matrix[k * n + k] = 1.0 + ridge;
        }
        matrix
    }

    /// The same for G + `ridge`·trace(G)·I, whose unit "gradients" have an own axis each besides: cosines shrink,
    /// norms grow. Unlike [`Scaled::ridged`] it depends on the scales, and blurs gradients that are shorter than
    /// √ridge of the longest.
    pub fn regularised(&self, ridge: f64) -> Self {
        let n = self.norms.len();
        let longest = self.norms.iter().copied().fold(0.0, f64::max);
        if ridge == 0.0 || longest == 0.0 {
            return Self { norms: self.norms.clone(), cosines: self.cosines.clone() };
        }
        // Over the longest: squares neither overflow nor vanish.
        let relative: Vec<f64> = self.norms.iter().map(|norm| norm / longest).collect();
        let own = ridge * relative.iter().map(|r| r * r).sum::<f64>();
        let grown: Vec<f64> = relative.iter().map(|r| (r * r + own).sqrt()).collect();
        let cosine = |k: usize, l: usize| match k == l {
            true => 1.0,
            false => self.cosines[k * n + l] * (relative[k] / grown[k]) * (relative[l] / grown[l]),
        };
        Self {
            cosines: (0..n * n).map(|i| cosine(i / n, i % n)).collect(),
            norms: grown.iter().map(|g| g * longest).collect(),
        }
    }

    /// ⟨u_k, Σ y_l u_l⟩ for every k.
    pub fn times(&self, y: &[f64]) -> Vec<f64> {
        let rows = self.cosines.chunks_exact(self.norms.len().max(1));
        rows.map(|row| row.iter().zip(y).map(|(c, y)| c * y).sum()).collect()
    }

    /// ‖Σ y_k u_k‖.
    pub fn norm(&self, y: &[f64]) -> f64 {
        self.times(y).iter().zip(y).map(|(c, y)| c * y).sum::<f64>().max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    fn draw(tasks: u64, len: u64) -> Vec<Vec<f32>> {
        (0..tasks).map(|k| (0..len).map(|i| (random::unit(3, &[k, i]) - 0.4) as f32).collect()).collect()
    }

    #[test]
    fn partial_grams_are_the_plain_products_and_add_up_over_slices() {
        for len in [0, 1, 7, 8, 100, BLOCK as u64, 2 * BLOCK as u64 + 13] {
            let rows = draw(3, len);
            let gram = partial(&rows.concat(), 3);
            let cut = len as usize / 3;
            let heads = partial(&rows.iter().flat_map(|r| r[..cut].to_vec()).collect::<Vec<_>>(), 3);
            let tails = partial(&rows.iter().flat_map(|r| r[cut..].to_vec()).collect::<Vec<_>>(), 3);
            for k in 0..3 {
                for l in 0..3 {
                    let plain: f64 = rows[k].iter().zip(&rows[l]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    let i = k * 3 + l;
                    assert!((gram[i] - plain).abs() < 1e-9 * (1.0 + plain.abs()));
                    assert!((heads[i] + tails[i] - plain).abs() < 1e-9 * (1.0 + plain.abs()));
                }
            }
        }
        assert!(partial(&[], 0).is_empty());
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let gradients = draw(2, 5 * BLOCK as u64 + 1).concat();
        let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(with(1).install(|| partial(&gradients, 2)), with(3).install(|| partial(&gradients, 2)));
    }

    #[test]
    fn cosines_are_bounded_and_zero_gradients_have_none() {
        let gram = [4.0, 6.1, 0.0, 6.1, 9.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(cosines(&gram, 3), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(norms(&gram, 3), [2.0, 3.0, 0.0]);
        // Norms whose product leaves the range of float64.
        let tiny = [1e-320, 0.0, 0.0, 1e-320];
        assert!(cosines(&tiny, 2).iter().all(|c| c.is_finite()));
    }

    #[test]
    fn a_regularised_gram_is_the_gram_with_a_ridge_of_its_trace() {
        let gram = [4.0, 3.0, 3.0, 9.0];
        let part = Scaled::new(&gram, 2, &[0, 1]).regularised(0.1);
        for (i, want) in [4.0 + 1.3, 3.0, 3.0, 9.0 + 1.3].into_iter().enumerate() {
            let got = part.cosines[i] * part.norms[i / 2] * part.norms[i % 2];
            assert!((got - want).abs() < 1e-13, "{i}: {got}");
        }
    }

    #[test]
    fn the_quadratic_form_is_the_squared_norm_of_the_sum() {
        // g = (1, 0) and (1, 2): 2g₁ − g₂ = (1, −2).
        assert_eq!(quadratic(&[1.0, 1.0, 1.0, 5.0], &[2.0, -1.0]), 5.0);
    }
}
