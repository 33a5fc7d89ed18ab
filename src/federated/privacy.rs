//! What a client does to its update before it leaves: it is shortened to a longest norm, and Gaussian noise is added to every number
//! (Abadi et al., CCS 2016; by client: McMahan et al., ICLR 2018). The (ε, δ) of it is in [`super::accountant`].
//!
//! Numbers are drawn in floating point, whose low bits are known to tell something of what they hide (Mironov, CCS 2012).

use crate::config::job::Privacy;
use crate::random;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};

/// Covers `update`, all that client number `client` sends in `round`, as one vector.
pub fn cover(privacy: &Privacy, client: usize, round: u64, update: &mut [Vec<f32>]) {
    let norm = update.iter().flatten().map(|&u| f64::from(u) * f64::from(u)).sum::<f64>().sqrt();
    let factor = if norm > privacy.clip { privacy.clip / norm } else { 1.0 };
    let mut generator: Box<dyn RngCore> = match privacy.seed {
        Some(seed) => Box::new(random::stream(seed, &[random::text("federated noise"), client as u64, round])),
        None => Box::new(ChaCha20Rng::from_os_rng()),
    };
    let deviation = privacy.noise * privacy.clip;
    for value in update.iter_mut().flatten() {
        let noise: f64 = if deviation > 0.0 { StandardNormal.sample(&mut *generator) } else { 0.0 };
        *value = (f64::from(*value) * factor + deviation * noise) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(update: &[Vec<f32>]) -> f64 {
        update.iter().flatten().map(|&u| f64::from(u).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn long_updates_are_shortened_as_one_vector_and_short_ones_kept() {
        let privacy = Privacy { clip: 2.0, noise: 0.0, delta: 1e-5, seed: None };
        let mut long = vec![vec![3.0; 4], vec![0.0, -4.0]];
        cover(&privacy, 0, 0, &mut long);
        assert!((norm(&long) - 2.0).abs() < 1e-6);
        assert!((long[1][1] / long[0][0] + 4.0 / 3.0).abs() < 1e-6, "the direction stays");
        let mut short = vec![vec![1.0, 0.5]];
        cover(&privacy, 0, 0, &mut short);
        assert_eq!(short, [[1.0, 0.5]]);
    }

    #[test]
    fn noise_has_the_deviation_that_was_asked_for_and_differs_everywhere() {
        let privacy = Privacy { clip: 0.5, noise: 3.0, delta: 1e-5, seed: Some(1) };
        let draw = |client, round| {
            let mut update = vec![vec![0.0; 20_000]];
            cover(&privacy, client, round, &mut update);
            update.concat()
        };
        let deviation = (draw(0, 0).iter().map(|&u| f64::from(u).powi(2)).sum::<f64>() / 20_000.0).sqrt();
        assert!((deviation - 1.5).abs() < 0.03, "{deviation}");
        assert_eq!(draw(0, 1), draw(0, 1));
        assert!(draw(0, 1) != draw(1, 1) && draw(0, 1) != draw(0, 2));
        let secret = Privacy { seed: None, ..privacy };
        let mut twice = [vec![vec![0.0; 4]], vec![vec![0.0; 4]]];
        twice.iter_mut().for_each(|update| cover(&secret, 0, 0, update));
        assert_ne!(twice[0], twice[1]);
    }
}
