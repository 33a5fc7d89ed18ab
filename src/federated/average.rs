//! The mean of the clients' updates: FedAvg (McMahan et al., AISTATS 2017).

/// Σ wₛ Δₛ in float64, in client order. The weights sum to 1.
pub fn mean(deltas: &[Vec<f32>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; deltas.first().map_or(0, Vec::len)];
    for (delta, weight) in deltas.iter().zip(weights) {
        sum.iter_mut().zip(delta).for_each(|(sum, &d)| *sum += weight * f64::from(d));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_count_by_their_weights() {
        assert_eq!(mean(&[vec![1.0, 0.0], vec![5.0, -2.0]], &[0.75, 0.25]), [2.0, -0.5]);
        assert!(mean(&[], &[]).is_empty());
    }
}
