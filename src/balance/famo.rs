//! FAMO (Liu et al., NeurIPS 2023): fast adaptive multitask optimisation. All losses are to fall at the same *rate*, at
//! the price of one more forward pass instead of K backward passes:
//!
//!   z = softmax(ξ)       w_k = c · z_k/(L_k − b_k + ε)  with Σ w = 1       after the step, on the same batch:
//!   ξ ← Adam(∂z/∂ξ · [log(L_k − b_k + ε) − log(L_k' − b_k + ε)] + γξ)
//!
//! It needs losses only, so the tasks' own parameters are weighted too.

use super::softmax::{backward, softmax};
use super::{Balancer, KEY, Needs, Signal, adam, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: famo}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Learning rate of ξ.
    lr: f64,
    /// γ: how strongly ξ is drawn to 0.
    weight_decay: f64,
    /// Least value b_k that each loss can reach, in the order of the job; 0 for all where the list is empty.
    least: Vec<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { lr: 0.025, weight_decay: 1e-3, least: Vec::new() }
    }
}

/// Keeps a loss at its least value from dividing by zero.
const EPSILON: f64 = 1e-8;

#[derive(Debug)]
struct Famo {
    options: Options,
    /// `[ξ, m, v, t]` of each task.
    state: Vec<f64>,
    /// log(L_k − b_k + ε) before the step. Only of use within a step, so it is not saved.
    before: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let tasks = names.len();
    let mut options: Options = component.options(KEY)?;
    if !(options.lr >= 0.0 && options.lr.is_finite() && options.weight_decay >= 0.0) {
        return Err(Error::job("famo needs an `lr` and a `weight_decay` ≥ 0").at("key", KEY));
    }
    if options.least.is_empty() {
        options.least = vec![0.0; tasks];
    }
    if options.least.len() != tasks {
        return Err(Error::job(format!("{} values for {tasks} tasks", options.least.len()))
            .at("key", "balance.least")
            .fix("give one for each task, or leave the list out"));
    }
    component.resolve(&options)?;
    Ok(Box::new(Famo { options, state: adam::start(0.0, tasks), before: vec![0.0; tasks] }))
}

impl Famo {
    fn log_gap(&self, losses: &[f64], task: usize) -> f64 {
        libm::log((losses[task] - self.options.least[task]).max(0.0) + EPSILON)
    }

    /// z of the tasks that are there.
    fn shares(&self, tasks: &[usize]) -> Vec<f64> {
        softmax(&tasks.iter().map(|task| self.state[task * adam::WIDTH]).collect::<Vec<_>>())
    }
}

impl Balancer for Famo {
    fn needs(&self) -> Needs {
        Needs::Losses
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Losses)?;
        let present = signal.present();
        let mut weights = vec![0.0; signal.present.len()];
        let mut logs = Vec::with_capacity(present.len());
        for (&task, z) in present.iter().zip(self.shares(&present)) {
            self.before[task] = self.log_gap(signal.losses, task);
            logs.push(libm::log(z) - self.before[task]);
        }
        // z_k/D_k over its sum is a softmax of logarithms, which no small loss can overflow.
        for (&task, weight) in present.iter().zip(softmax(&logs)) {
            weights[task] = weight;
        }
        Ok(weights)
    }

    fn looks_back(&self) -> bool {
        true
    }

    fn look_back(&mut self, losses: &[f64], present: &[bool]) -> Result<()> {
        let tasks: Vec<usize> = (0..present.len()).filter(|&task| present[task]).collect();
        if let Some(&task) = tasks.iter().find(|&&task| !losses[task].is_finite()) {
            let what = format!("the loss after the step is {}", losses[task]);
            return Err(Error::numeric(what).at("task index", task));
        }
        let fallen: Vec<f64> = tasks.iter().map(|&task| self.before[task] - self.log_gap(losses, task)).collect();
        let gradients = backward(&self.shares(&tasks), &fallen);
        for (&task, gradient) in tasks.iter().zip(gradients) {
            let state = &mut self.state[task * adam::WIDTH..][..adam::WIDTH];
            adam::update(state, gradient + self.options.weight_decay * state[0], self.options.lr);
        }
        Ok(())
    }

    remembers!(state);
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, method, of_losses, try_method};

    #[test]
    fn the_first_weights_are_inverse_to_the_losses() {
        let mut balancer = method("{kind: famo}", 3);
        let weights = balancer.weights(&of_losses(&[1.0, 2.0, 4.0], &[true; 3])).unwrap();
        assert_close(&weights, &[4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0], 1e-7);
    }

    #[test]
    fn the_task_that_fell_most_loses_weight() {
        let mut balancer = method("{kind: famo}", 2);
        let weights = balancer.weights(&of_losses(&[1.0, 1.0], &[true; 2])).unwrap();
        assert!(balancer.looks_back());
        balancer.look_back(&[0.5, 1.0], &[true; 2]).unwrap();
        // ∂z/∂ξ·(log 2, 0) = ¼·(log 2, −log 2): Adam's first step moves ξ by ∓0.025.
        assert_close(&[balancer.state()[0], balancer.state()[4]], &[-0.025, 0.025], 1e-6);
        let later = balancer.weights(&of_losses(&[1.0, 1.0], &[true; 2])).unwrap();
        assert!(later[0] < weights[0] && (later[0] + later[1] - 1.0).abs() < 1e-12, "{later:?}");
    }

    #[test]
    fn an_absent_task_keeps_its_logit() {
        let mut balancer = method("{kind: famo}", 3);
        let weights = balancer.weights(&of_losses(&[1.0, 0.0, 1.0], &[true, false, true])).unwrap();
        assert_close(&weights, &[0.5, 0.0, 0.5], 1e-12);
        balancer.look_back(&[0.9, 0.0, 0.7], &[true, false, true]).unwrap();
        assert_eq!(balancer.state()[4..8], [0.0; 4]);
        assert!(balancer.look_back(&[f64::NAN, 0.0, 1.0], &[true, false, true]).is_err());
    }

    #[test]
    fn a_loss_at_its_least_value_is_no_division_by_zero() {
        let mut balancer = method("{kind: famo, least: [0.5, 0]}", 2);
        let weights = balancer.weights(&of_losses(&[0.5, 1.0], &[true; 2])).unwrap();
        assert!(weights.iter().all(|w| w.is_finite()));
        assert!(try_method("{kind: famo, least: [0.5]}", 2).unwrap_err().to_string().contains("one for each task"));
    }
}
