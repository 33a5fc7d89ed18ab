//! Smooth Tchebycheff scalarization (Lin et al., ICML 2024), in logarithms as LibMTL has it: after a warm-up the
//! loss is μ·K·log Σ exp(log(L_k/n_k)/μ), a smooth maximum of how far each task is from its nadir n_k, the mean loss
//! during the warm-up. So w_k = K·softmax(log(L/n)/μ)_k/L_k. During the warm-up it is Σ log L_k: w_k = 1/L_k.

use super::softmax::softmax;
use super::{Balancer, KEY, LEAST_LOSS, Needs, Signal, memory::remembers};
use crate::config::{Component, Every};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: stch}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// μ: the smaller, the closer to the maximum.
    mu: f64,
    /// Length of the warm-up, whose last epoch gives the nadir; all of it, if it is shorter.
    warmup: Every,
}

impl Default for Options {
    fn default() -> Self {
        Self { mu: 1.0, warmup: Every::Epochs(4.0) }
    }
}

/// Numbers of state per task: sum and count of the losses that make the nadir.
const WIDTH: usize = 2;

#[derive(Debug)]
struct Stch {
    options: Options,
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    if !(options.mu > 0.0 && options.mu.is_finite()) {
        return Err(Error::job(format!("mu is {}", options.mu)).at("key", "balance.mu").fix("give a number > 0"));
    }
    if options.warmup == Every::Never {
        return Err(Error::job("warmup is never, and without one there is no nadir")
            .at("key", "balance.warmup")
            .fix("give `1 epoch` or `500 steps`"));
    }
    component.resolve(&options)?;
    Ok(Box::new(Stch { options, state: vec![0.0; WIDTH * names.len()] }))
}

impl Balancer for Stch {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let present = signal.present();
        let loss = |k: usize| signal.losses[k].max(LEAST_LOSS);
        let mut weights = vec![0.0; signal.present.len()];
        let warmup = self.options.warmup.steps(signal.steps_per_epoch).unwrap_or(0);
        if signal.step < warmup {
            if signal.step.saturating_add(signal.steps_per_epoch) >= warmup {
                self.measure(&present, signal.losses);
            }
            present.iter().for_each(|&k| weights[k] = 1.0 / loss(k));
        } else {
            let far: Vec<f64> =
                present.iter().map(|&k| libm::log(loss(k) / self.nadir(k, loss(k))) / self.options.mu).collect();
            let count = present.len() as f64;
            present.iter().zip(softmax(&far)).for_each(|(&k, share)| weights[k] = count * share / loss(k));
        }
        if let [_] = weights[..] {
            present.iter().for_each(|&k| weights[k] = 1.0);
        }
        Ok(weights)
    }

    remembers!(state);
}

impl Stch {
    fn measure(&mut self, present: &[usize], losses: &[f64]) {
        for &k in present {
            self.state[WIDTH * k] += losses[k];
            self.state[WIDTH * k + 1] += 1.0;
        }
    }

    /// A task without a label in all the warm-up starts from its first loss.
    fn nadir(&mut self, k: usize, loss: f64) -> f64 {
        let [sum, count] = &mut self.state[WIDTH * k..WIDTH * (k + 1)] else { return loss };
        if *count == 0.0 {
            (*sum, *count) = (loss, 1.0);
        }
        (*sum / *count).max(LEAST_LOSS)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::Signal;
    use crate::balance::testing::{assert_close, method, of_losses, try_method};

    #[test]
    fn after_the_warm_up_weights_are_the_derivatives_of_the_smooth_maximum() {
        let mut stch = method("{kind: stch, mu: 0.5, warmup: 2 epochs}", 2);
        let mut of = |step, losses: [f64; 2]| {
            let signal = Signal { step, steps_per_epoch: 2, ..of_losses(&losses, &[true; 2]) };
            stch.weights(&signal).unwrap()
        };
        assert_eq!(of(0, [4.0, 0.5]), [0.25, 2.0]);
        of(1, [7.0, 7.0]);
        of(2, [2.0, 1.0]);
        of(3, [4.0, 1.0]);
        // Nadirs 3 and 1, the means of the second epoch.
        let value = |l: [f64; 2]| 0.5 * 2.0 * ((l[0] / 3.0).powi(2) + l[1].powi(2)).ln();
        let losses = [1.5, 0.4];
        let slope = |k: usize| {
            let (mut up, mut down) = (losses, losses);
            up[k] += 1e-6;
            down[k] -= 1e-6;
            (value(up) - value(down)) / 2e-6
        };
        assert_close(&of(4, losses), &[slope(0), slope(1)], 1e-8);
    }

    #[test]
    fn a_warm_up_in_steps_is_averaged_as_a_whole() {
        let mut stch = method("{kind: stch, warmup: 2 steps}", 3);
        let mut of = |step, losses: [f64; 3], third| {
            let present = [true, true, third];
            let signal = Signal { step, steps_per_epoch: 100, ..of_losses(&losses, &present) };
            stch.weights(&signal).unwrap()
        };
        of(0, [1.0, 2.0, 0.0], false);
        of(1, [3.0, 2.0, 0.0], false);
        // L/n = (½, ½) and an absent task; then a task that has its nadir here.
        assert_close(&of(2, [1.0, 1.0, 0.0], false), &[1.0, 1.0, 0.0], 1e-14);
        assert_close(&of(3, [1.0, 1.0, 5.0], true), &[0.75, 0.75, 0.3], 1e-14);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for job in ["mu: 0", "warmup: never", "warmup: 0 steps"] {
            let job = format!("{{kind: stch, {job}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }
}
