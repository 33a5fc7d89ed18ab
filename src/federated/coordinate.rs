//! Conflict coordination: CAGrad (Liu et al., NeurIPS 2021) over the clients' updates instead of the tasks' gradients, as FedHCA²
//! (Lu et al., CVPR 2024) has it. Only their N × N Gram matrix is needed to solve it.

use super::average::mean;
use crate::balance::{self, Signal, gram};
use crate::config::Component;
use crate::error::Result;
use serde_yaml::Value;

/// U = Σ wₛ Δₛ, the update within a ball of radius `c`‖Δ̄‖ around the mean that helps the worst-off client most, over 1 + c².
pub fn coordinate(deltas: &[Vec<f32>], c: f64) -> Result<Vec<f32>> {
    let clients = deltas.len();
    let rows: Vec<&[f32]> = deltas.iter().map(Vec::as_slice).collect();
    let mut cagrad = Component::named("cagrad");
    cagrad.options.insert(Value::from("c"), Value::from(c));
    let signal = Signal {
        losses: &vec![0.0; clients],
        present: &vec![true; clients],
        gram: &gram::partial_of(&rows),
        step: 0,
        steps_per_epoch: 1,
        total_steps: 1,
        seed: 0,
    };
    // What the method balances is clients here.
    let names: Vec<String> = (0..clients).map(|client| client.to_string()).collect();
    let weights = balance::build(&mut cagrad, &names)?.method.weights(&signal)?;
    Ok(mean(deltas, &weights).into_iter().map(|u| u as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_ball_it_is_the_mean() {
        assert_eq!(coordinate(&[vec![1.0, 0.0], vec![3.0, -4.0]], 0.0).unwrap(), [2.0, -2.0]);
    }

    #[test]
    fn the_client_that_the_mean_would_harm_is_helped() {
        let deltas = [vec![10.0, 0.0], vec![-1.0, 1.0]];
        let along = |u: &[f32], d: &[f32]| u.iter().zip(d).map(|(u, d)| u * d).sum::<f32>();
        let (mean, coordinated) = (coordinate(&deltas, 0.0).unwrap(), coordinate(&deltas, 0.8).unwrap());
        assert!(along(&mean, &deltas[1]) < 0.0);
        assert!(along(&coordinated, &deltas[1]) > along(&mean, &deltas[1]));
    }
}
