//! How much of a shared update each client takes: α of an expert, β of a tower.
//!
//! FedHCA² (Lu et al., CVPR 2024) learns it from the next local training: the aggregated parameters' pseudo-gradient is θ at its start
//! minus θ at its end, so dα = ⟨U, θ_start − θ_end⟩. A client that goes on in the direction of U takes more of it. Unlike its
//! code, which leaves the number outside [0, 1] when it has once come there, the share itself is kept inside.

use crate::config::job::Share;

/// The shares for the next aggregation: `before` are the last ones, `updates` the last shared updates (one for all clients, or one
/// each; empty in the first round), `deltas` what the clients' local training has come to since.
pub fn learn(before: &mut [f64], updates: &[Vec<f32>], deltas: &[Vec<f32>], lr: f64) {
    for (client, share) in before.iter_mut().enumerate() {
        if let Some(update) = of_client(updates, client) {
            *share = (*share + lr * dot(update, &deltas[client])).clamp(0.0, 1.0);
        }
    }
}

/// (1 + cos(Δₛ, Uₛ))/2: the fallback that learns nothing. 1/2 where one of them is zero.
pub fn by_cosine(updates: &[Vec<f32>], deltas: &[Vec<f32>]) -> Vec<f64> {
    let share = |(client, delta): (usize, &Vec<f32>)| {
        let Some(update) = of_client(updates, client) else { return 0.5 };
        let lengths = (dot(delta, delta) * dot(update, update)).sqrt();
        if lengths > 0.0 { (0.5 + 0.5 * dot(delta, update) / lengths).clamp(0.0, 1.0) } else { 0.5 }
    };
    deltas.iter().enumerate().map(share).collect()
}

/// Where the shares of `clients` clients start.
pub fn first(share: Share, init: f64, clients: usize) -> Vec<f64> {
    let value = match share {
        Share::Learned | Share::Cosine => init,
        Share::Fixed(value) => value,
    };
    vec![value; clients]
}

/// The update of a client, where all have the same or each its own.
pub fn of_client(updates: &[Vec<f32>], client: usize) -> Option<&Vec<f32>> {
    if updates.len() == 1 { updates.first() } else { updates.get(client) }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_goes_on_along_the_update_takes_more_of_it() {
        let mut shares = [0.5; 3];
        let deltas = [vec![1.0, 1.0], vec![-2.0, 0.0], vec![100.0, 0.0]];
        learn(&mut shares, &[vec![1.0, 0.0]], &deltas, 0.1);
        assert_eq!(shares, [0.6, 0.3, 1.0]);
        learn(&mut shares, &[], &deltas, 0.1);
        assert_eq!(shares, [0.6, 0.3, 1.0], "nothing to learn from before the first aggregation");
    }

    #[test]
    fn cosines_become_shares() {
        let updates = [vec![1.0, 0.0]];
        assert_eq!(
            by_cosine(&updates, &[vec![2.0, 0.0], vec![0.0, 3.0], vec![-1.0, 0.0], vec![0.0; 2]]),
            [1.0, 0.5, 0.0, 0.5]
        );
    }
}
