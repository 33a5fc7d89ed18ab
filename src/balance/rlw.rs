//! Random loss weighting (Lin et al., TMLR 2022): at each step w = softmax of one standard normal draw per task. The
//! litmus test that a balancing method should pass.

use super::softmax::softmax;
use super::{Balancer, KEY, Needs, Signal};
use crate::config::Component;
use crate::error::Result;
use crate::random;
use serde::{Deserialize, Serialize};

/// Options of `{kind: rlw}`: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rlw {}

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Rlw = component.options(KEY)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for Rlw {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let present = signal.present();
        // Drawn by task number, so an absent task does not change the draws of the rest.
        let draws: Vec<f64> = present.iter().map(|&k| normal(signal, k)).collect();
        let mut weights = vec![0.0; signal.present.len()];
        present.iter().zip(softmax(&draws)).for_each(|(&k, weight)| weights[k] = weight);
        Ok(weights)
    }
}

/// A standard normal draw (Box & Muller 1958), with functions whose bits do not depend on the CPU.
fn normal(signal: &Signal, task: usize) -> f64 {
    let draw = |part| random::unit(signal.seed, &[random::text("rlw"), signal.step, task as u64, part]);
    (-2.0 * libm::log(1.0 - draw(0))).sqrt() * libm::cos(std::f64::consts::TAU * draw(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{method, of_losses};

    #[test]
    fn draws_are_standard_normal() {
        let n = 20_000;
        let draws: Vec<f64> = (0..n).map(|step| normal(&Signal { step, ..of_losses(&[1.0], &[true]) }, 0)).collect();
        let moment = |power: i32| draws.iter().map(|x| x.powi(power)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.03 && (moment(2) - 1.0).abs() < 0.04 && (moment(4) - 3.0).abs() < 0.3);
    }

    #[test]
    fn weights_are_positive_sum_to_one_and_change_by_step_only() {
        let mut method = method("{kind: rlw}", 3);
        let mut of =
            |step, present: &[bool]| method.weights(&Signal { step, ..of_losses(&[1.0, 2.0, 3.0], present) }).unwrap();
        let first = of(0, &[true; 3]);
        assert!((first.iter().sum::<f64>() - 1.0).abs() < 1e-15 && first.iter().all(|w| *w > 0.0));
        assert_ne!(of(1, &[true; 3]), first);
        assert_eq!(of(0, &[true; 3]), first);
        // Without the second task the others keep their ratio.
        let without = of(0, &[true, false, true]);
        assert_eq!(without[1], 0.0);
        assert!((without[0] / without[2] - first[0] / first[2]).abs() < 1e-12);
    }
}
