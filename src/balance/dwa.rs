//! Dynamic weight average (Liu, Johns & Davison, CVPR 2019): a task whose loss fell less than the others' over the
//! last two periods gets more weight: w = K·softmax(r/T), r_k = L̄_k(last)/L̄_k(the one before), and 1 before there
//! are two.
//!
//! A period is an epoch, as in the paper, or fewer steps: recommenders often train for one epoch or two.

use super::softmax::softmax;
use super::{Balancer, KEY, LEAST_LOSS, Needs, Signal, memory::remembers};
use crate::config::{Component, Every};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: dwa}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// T: the larger, the more equal the weights.
    temperature: f64,
    /// What a mean loss is taken over.
    period: Every,
}

impl Default for Options {
    fn default() -> Self {
        Self { temperature: 2.0, period: Every::Epochs(1.0) }
    }
}

/// Numbers of state per task: sum and count of the running period's losses, the mean of the last period that the
/// task was in, of the one before, and how many there were.
const WIDTH: usize = 5;

#[derive(Debug)]
struct Dwa {
    options: Options,
    /// The numbers of each task, then the number of the running period.
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    if !(options.temperature > 0.0 && options.temperature.is_finite()) {
        return Err(Error::job(format!("temperature is {}", options.temperature))
            .at("key", "balance.temperature")
            .fix("give a number > 0"));
    }
    if options.period == Every::Never {
        return Err(Error::job("period is never").at("key", "balance.period").fix("give `1 epoch` or `500 steps`"));
    }
    component.resolve(&options)?;
    Ok(Box::new(Dwa { options, state: vec![0.0; names.len() * WIDTH + 1] }))
}

impl Balancer for Dwa {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let (tasks, period) = self.state.split_at_mut(signal.present.len() * WIDTH);
        let now = self.options.period.steps(signal.steps_per_epoch).map_or(0, |steps| signal.step / steps) as f64;
        if now != period[0] {
            tasks.chunks_exact_mut(WIDTH).for_each(close);
            period[0] = now;
        }
        let present = signal.present();
        let mut rates = Vec::with_capacity(present.len());
        for &k in &present {
            let task = &mut tasks[k * WIDTH..(k + 1) * WIDTH];
            rates.push(rate(task) / self.options.temperature);
            task[0] += signal.losses[k];
            task[1] += 1.0;
        }
        let mut weights = vec![0.0; signal.present.len()];
        let count = present.len() as f64;
        present.iter().zip(softmax(&rates)).for_each(|(&k, share)| weights[k] = count * share);
        Ok(weights)
    }

    remembers!(state);
}

/// Ends a period. One that a task was absent from all along is none for it.
fn close(task: &mut [f64]) {
    let [sum, count, last, before, periods] = task else { return };
    if *count > 0.0 {
        (*before, *last) = (*last, *sum / *count);
        *periods += 1.0;
        (*sum, *count) = (0.0, 0.0);
    }
}

/// L̄(last)/L̄(before); 1, no progress and no setback, where there are no two periods.
fn rate(task: &[f64]) -> f64 {
    match *task {
        [_, _, last, before, periods] if periods >= 2.0 => last / before.max(LEAST_LOSS),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::Signal;
    use crate::balance::testing::{assert_close, method, of_losses, try_method};

    /// Weights at each step of epochs of two steps.
    fn run(job: &str, losses: &[[f64; 2]]) -> Vec<Vec<f64>> {
        let mut method = method(job, 2);
        let of = |(step, losses): (usize, &[f64; 2])| {
            let signal = Signal { step: step as u64, steps_per_epoch: 2, ..of_losses(losses, &[true; 2]) };
            method.weights(&signal).unwrap()
        };
        losses.iter().enumerate().map(of).collect()
    }

    #[test]
    fn the_slower_task_gets_more_weight_from_the_third_epoch() {
        // Epoch means (3, 4), (1.5, 4), (1, 1).
        let losses = [[4.0, 4.0], [2.0, 4.0], [1.0, 3.0], [2.0, 5.0], [1.0, 1.0], [1.0, 1.0], [9.0, 9.0]];
        let weights = run("{kind: dwa}", &losses);
        assert!(weights[..4].iter().all(|w| *w == [1.0, 1.0]));
        let share = |a: f64, b: f64| 2.0 / (1.0 + ((b - a) / 2.0).exp());
        for step in [4, 5] {
            assert_close(&weights[step], &[share(0.5, 1.0), share(1.0, 0.5)], 1e-14);
        }
        let (a, b) = (1.0 / 1.5, 0.25);
        assert_close(&weights[6], &[share(a, b), share(b, a)], 1e-14);
    }

    #[test]
    fn a_period_can_be_some_steps() {
        let losses = [[2.0, 1.0], [1.0, 1.0], [5.0, 1.0]];
        let weights = run("{kind: dwa, period: 1 steps, temperature: 1}", &losses);
        let e = 0.5f64.exp();
        assert_close(&weights[2], &[2.0 / (1.0 + e), 2.0 * e / (1.0 + e)], 1e-14);
    }

    #[test]
    fn a_task_that_misses_a_period_keeps_its_means() {
        let mut method = method("{kind: dwa, period: 1 steps}", 2);
        let mut of = |step, losses: [f64; 2], both| {
            let present = [true, both];
            let signal = Signal { step, ..of_losses(&losses, &present) };
            method.weights(&signal).unwrap()
        };
        of(0, [1.0, 4.0], true);
        of(1, [1.0, 2.0], true);
        assert_eq!(of(2, [1.0, 0.0], false), [1.0, 0.0]);
        let w = of(3, [1.0, 1.0], true);
        let share = 2.0 / (1.0 + (-0.25f64).exp());
        assert_close(&w, &[share, 2.0 - share], 1e-14);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for job in ["temperature: 0", "period: never", "period: 3"] {
            let job = format!("{{kind: dwa, {job}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }
}
