//! Geometric loss strategy (Chennupati et al., CVPR workshops 2019): the loss is the geometric mean (Π L_k)^(1/K) of
//! the tasks' losses, so their scales do not matter: w_k = ∂/∂L_k = (Π L)^(1/K)/(K·L_k).

use super::{Balancer, KEY, LEAST_LOSS, Needs, Signal};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: gls}`: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gls {}

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Gls = component.options(KEY)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for Gls {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let present = signal.present();
        let logs: Vec<f64> = present.iter().map(|&k| libm::log(signal.losses[k].max(LEAST_LOSS))).collect();
        let count = present.len().max(1) as f64;
        let mean = logs.iter().sum::<f64>() / count;
        let mut weights = vec![0.0; signal.present.len()];
        present.iter().zip(logs).for_each(|(&k, log)| weights[k] = libm::exp(mean - log) / count);
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, method, of_losses};

    fn weights(losses: &[f64], present: &[bool]) -> Vec<f64> {
        method("{kind: gls}", losses.len()).weights(&of_losses(losses, present)).unwrap()
    }

    #[test]
    fn weights_are_the_derivatives_of_the_geometric_mean() {
        // √(2·8) = 4: 4/(2·2) and 4/(2·8).
        assert_close(&weights(&[2.0, 8.0], &[true, true]), &[1.0, 0.25], 1e-14);
        assert_close(&weights(&[2.0, 0.0, 8.0], &[true, false, true]), &[1.0, 0.0, 0.25], 1e-14);
        let losses = [0.3, 1.7, 0.02];
        let geometric = |l: &[f64]| l.iter().product::<f64>().powf(1.0 / 3.0);
        for k in 0..3 {
            let mut more = losses;
            more[k] += 1e-7;
            let slope = (geometric(&more) - geometric(&losses)) / 1e-7;
            assert!((weights(&losses, &[true; 3])[k] - slope).abs() < 1e-5 * slope, "task {k}");
        }
    }

    #[test]
    fn weighted_losses_are_all_alike_and_a_loss_of_zero_is_finite() {
        let losses = [1e-5, 3.0, 40.0];
        let w = weights(&losses, &[true; 3]);
        assert!(w.iter().zip(losses).all(|(w, l)| (w * l / (w * losses[0])).is_finite()));
        assert!((w[0] * losses[0] - w[2] * losses[2]).abs() < 1e-12);
        assert!(weights(&[0.0, 1.0], &[true; 2]).iter().all(|w| w.is_finite()));
    }
}
