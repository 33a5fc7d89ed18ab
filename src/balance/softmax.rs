//! Softmax over a few tasks, with the same bits on every machine.

/// exp(x_k)/Σ exp(x_l), without overflow; empty for an empty slice.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = x.iter().map(|x| libm::exp(x - most)).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

/// What a gradient of the softmax z becomes at its argument: z ⊙ (dz − ⟨z, dz⟩).
pub(super) fn backward(z: &[f64], dz: &[f64]) -> Vec<f64> {
    let mean: f64 = z.iter().zip(dz).map(|(z, dz)| z * dz).sum();
    z.iter().zip(dz).map(|(z, dz)| z * (dz - mean)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one_at_any_size() {
        assert_eq!(softmax(&[3.0, 3.0]), [0.5, 0.5]);
        assert_eq!(softmax(&[1e300, -1e300]), [1.0, 0.0]);
        let shares = softmax(&[0.0, 2f64.ln()]);
        assert!((shares[1] - 2.0 / 3.0).abs() < 1e-15, "{shares:?}");
        assert!(softmax(&[]).is_empty());
    }

    #[test]
    fn the_gradient_is_that_of_differences() {
        let (x, dz) = ([0.3, -1.0, 2.0], [1.0, -2.0, 0.5]);
        let value = |x: &[f64]| softmax(x).iter().zip(dz).map(|(z, d)| z * d).sum::<f64>();
        for (i, gradient) in backward(&softmax(&x), &dz).into_iter().enumerate() {
            let (mut up, mut down) = (x, x);
            up[i] += 1e-6;
            down[i] -= 1e-6;
            assert!((gradient - (value(&up) - value(&down)) / 2e-6).abs() < 1e-8);
        }
    }
}
