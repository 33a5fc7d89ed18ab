//! Clipping of the global gradient norm (Pascanu, Mikolov & Bengio 2013), as `torch.nn.utils.clip_grad_norm_`.

/// The factor for every gradient so that their joint norm is at most `max_norm`:
/// min(1, max_norm / (norm + 1e-6)). `norm` is over all slices of all ranks; a step whose norm is not finite
/// is an error of its own, here it gives 0 or 1.
pub fn factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gradients_are_cut_to_the_limit_and_short_ones_kept() {
        assert!((factor(5.0, 1.0) * 5.0 - 1.0).abs() < 1e-6);
        assert_eq!(factor(5.0, 10.0), 1.0);
        assert_eq!(factor(0.0, 1.0), 1.0);
        assert_eq!(factor(f64::INFINITY, 1.0), 0.0);
    }
}
