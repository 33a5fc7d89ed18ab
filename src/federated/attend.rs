//! Attention of each client over all clients' updates of a tower: FedHCA²'s cross attention (Lu et al., CVPR 2024),
//!
//!   Aₛ = Σₜ softmax(Δₛ Δₛ'ᵀ/√dim)ₜ Δₜ.

use super::average::mean;
use crate::balance::{gram, softmax};

/// A of each client, in client order.
pub fn attend(deltas: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let clients = deltas.len();
    let rows: Vec<&[f32]> = deltas.iter().map(Vec::as_slice).collect();
    let scale = 1.0 / (rows.first().map_or(1, |row| row.len().max(1)) as f64).sqrt();
    let products = gram::partial_of(&rows);
    let of_client = |products: &[f64]| {
        let scores: Vec<f64> = products.iter().map(|p| p * scale).collect();
        mean(deltas, &softmax(&scores)).into_iter().map(|a| a as f32).collect()
    };
    products.chunks_exact(clients.max(1)).map(of_client).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_attends_to_updates_like_its_own() {
        let found = attend(&[vec![3.0, 0.0], vec![0.0, 3.0]]);
        let (own, other) = ((9.0 / 2f64.sqrt()).exp(), 1.0);
        let share = (own / (own + other)) as f32;
        for (found, expected) in
            found.concat().iter().zip([3.0 * share, 3.0 - 3.0 * share, 3.0 - 3.0 * share, 3.0 * share])
        {
            assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
        }
    }

    #[test]
    fn equal_updates_stay_what_they_are() {
        assert_eq!(attend(&vec![vec![0.5, -2.0]; 4]), vec![vec![0.5, -2.0]; 4]);
    }
}
