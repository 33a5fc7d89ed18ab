//! A unit from round to round, the same on every rank.

use super::attend::attend;
use super::average::mean;
use super::coordinate::coordinate;
use super::parts::{Rule, Unit};
use super::shares::{by_cosine, first, learn, of_client};
use crate::config::job::{Federated, Share};
use crate::error::Result;

/// What aggregation knows of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    /// Which parameters it is.
    pub unit: Unit,
    /// The mean of the clients' models, as far as their updates tell; with [`Rule::Mean`] that is each client's.
    pub mean: Vec<f32>,
    /// Shares of the clients.
    pub shares: Vec<f64>,
    /// The last shared update: one for all clients, or one each. Empty before the first round, and with [`Rule::Mean`].
    pub updates: Vec<Vec<f32>>,
}

impl Shared {
    /// A unit before the first round, where all clients' models have the same numbers `start`.
    pub fn new(unit: Unit, start: Vec<f32>, federated: &Federated, clients: usize) -> Self {
        let shares = match unit.rule {
            Rule::Mean => Vec::new(),
            Rule::Coordinate | Rule::Attend => first(share_of(federated, unit.rule), federated.share_init, clients),
        };
        Self { unit, mean: start, shares, updates: Vec::new() }
    }

    /// Takes in what the clients' local training has changed, in client order.
    pub fn aggregate(&mut self, deltas: &[Vec<f32>], weights: &[f64], federated: &Federated) -> Result<()> {
        if self.unit.rule == Rule::Mean {
            self.move_mean(&mean(deltas, weights));
            return Ok(());
        }
        let share = share_of(federated, self.unit.rule);
        if share == Share::Learned {
            learn(&mut self.shares, &self.updates, deltas, federated.share_lr);
        }
        self.updates = match self.unit.rule {
            Rule::Attend => attend(deltas),
            _ => vec![coordinate(deltas, federated.c)?],
        };
        if share == Share::Cosine {
            self.shares = by_cosine(&self.updates, deltas);
        }
        let alike = vec![1.0 / deltas.len() as f64; deltas.len()];
        let mut moved = mean(deltas, &alike);
        for (client, share) in self.shares.iter().enumerate() {
            if let Some(update) = of_client(&self.updates, client) {
                moved.iter_mut().zip(update).for_each(|(moved, &u)| *moved += share * alike[client] * f64::from(u));
            }
        }
        self.move_mean(&moved);
        Ok(())
    }

    fn move_mean(&mut self, by: &[f64]) {
        self.mean.iter_mut().zip(by).for_each(|(mean, by)| *mean = (f64::from(*mean) + by) as f32);
    }

    /// A client's parameters after the aggregation, where its local training ended at `reached`: θ⁻ + Δ + α U.
    pub fn of_client(&self, client: usize, mut reached: Vec<f32>) -> Vec<f32> {
        if self.unit.rule == Rule::Mean {
            return self.mean.clone();
        }
        let share = self.shares[client] as f32;
        if let Some(update) = of_client(&self.updates, client).filter(|_| share != 0.0) {
            reached.iter_mut().zip(update).for_each(|(reached, u)| *reached += share * u);
        }
        reached
    }
}

fn share_of(federated: &Federated, rule: Rule) -> Share {
    if rule == Rule::Attend { federated.beta } else { federated.alpha }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federated::parts::Piece;

    fn federated(yaml: &str) -> Federated {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn shared(rule: Rule, federated: &Federated, start: &[f32]) -> Shared {
        let unit = Unit { name: "u".to_string(), rule, pieces: vec![Piece::Parameter(0)], len: start.len() };
        Shared::new(unit, start.to_vec(), federated, 3)
    }

    const START: [f32; 2] = [1.0, -1.0];
    const THIRDS: [f64; 3] = [1.0 / 3.0; 3];

    fn deltas() -> Vec<Vec<f32>> {
        vec![vec![0.5, 0.0], vec![-1.0, 2.0], vec![2.0, 1.0]]
    }

    /// θ after local training.
    fn reached(delta: &[f32]) -> Vec<f32> {
        START.iter().zip(delta).map(|(s, d)| s + d).collect()
    }

    #[test]
    fn without_a_ball_and_with_full_shares_a_client_takes_the_mean_beside_its_own() {
        let federated = federated("{c: 0, alpha: 1}");
        let mut shared = shared(Rule::Coordinate, &federated, &START);
        shared.aggregate(&deltas(), &THIRDS, &federated).unwrap();
        for (client, delta) in deltas().iter().enumerate() {
            let new = shared.of_client(client, reached(delta));
            // Δ̄ = (0.5, 1).
            assert_eq!(new, [START[0] + delta[0] + 0.5, START[1] + delta[1] + 1.0]);
        }
        assert_eq!(shared.mean, [2.0, 1.0], "θ⁻ + Δ̄ + Δ̄ is the clients' mean");
    }

    #[test]
    fn without_shares_a_client_keeps_the_bits_it_reached() {
        let federated = federated("{alpha: 0, beta: 0}");
        for rule in [Rule::Coordinate, Rule::Attend] {
            let mut shared = shared(rule, &federated, &START);
            shared.aggregate(&deltas(), &THIRDS, &federated).unwrap();
            for (client, delta) in deltas().iter().enumerate() {
                assert_eq!(shared.of_client(client, reached(delta)), reached(delta));
            }
        }
    }

    #[test]
    fn the_mean_of_the_models_is_known_without_sending_them() {
        for (rule, yaml) in [
            (Rule::Coordinate, "{share_init: 0.7}"),
            (Rule::Attend, "{beta: cosine}"),
            (Rule::Coordinate, "{alpha: cosine}"),
        ] {
            let federated = federated(yaml);
            let mut shared = shared(rule, &federated, &START);
            let mut models = vec![START.to_vec(); 3];
            for _ in 0..4 {
                shared.aggregate(&deltas(), &THIRDS, &federated).unwrap();
                for (client, (model, delta)) in models.iter_mut().zip(deltas()).enumerate() {
                    model.iter_mut().zip(&delta).for_each(|(m, d)| *m += d);
                    *model = shared.of_client(client, model.clone());
                }
            }
            for i in 0..2 {
                let mean: f32 = models.iter().map(|model| model[i]).sum::<f32>() / 3.0;
                assert!((mean - shared.mean[i]).abs() < 1e-4, "{yaml}: {mean} and {}", shared.mean[i]);
            }
        }
    }

    #[test]
    fn equal_updates_keep_clients_equal() {
        let federated = federated("{}");
        for rule in [Rule::Mean, Rule::Coordinate, Rule::Attend] {
            let mut shared = shared(rule, &federated, &START);
            for _ in 0..3 {
                shared.aggregate(&vec![vec![0.3, -0.7]; 3], &THIRDS, &federated).unwrap();
            }
            let new: Vec<Vec<f32>> = (0..3).map(|client| shared.of_client(client, vec![5.0, 6.0])).collect();
            assert!(new[0] == new[1] && new[1] == new[2], "{rule:?}: {new:?}");
        }
    }
}
