//! Softmax over a few tasks, with the same bits on every machine.

/// exp(x_k)/Σ exp(x_l), without overflow.
pub(super) fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = x.iter().map(|x| libm::exp(x - most)).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
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
}
