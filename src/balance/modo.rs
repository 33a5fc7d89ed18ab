//! MoDo (Chen et al., NeurIPS 2023): multi-objective gradient with double sampling. Like MoCo, λ follows the gradient of
//! ½‖Jᵀλ‖² step by step, but without a bias and without keeping gradients: its two factors come from independent parts
//! of the batch,
//!
//!   λ ← Π_simplex(λ − γ (J(ξ₁) J(ξ₂)ᵀ + ρI) λ)        d = J(ξ₃)ᵀλ
//!
//! The batch is cut into three parts by the rows' positions.

use super::sdmgrad::{PARTS, crossed};
use super::solvers::project_onto_simplex;
use super::{Balancer, KEY, Needs, Signal, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: modo}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Step size γ of λ.
    gamma: f64,
    /// ρ: how strongly λ is drawn to equal weights.
    rho: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { gamma: 1e-3, rho: 0.1 }
    }
}

#[derive(Debug)]
struct MoDo {
    options: Options,
    /// λ of each task.
    lambda: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let tasks = names.len();
    let options: Options = component.options(KEY)?;
    if ![options.gamma, options.rho].iter().all(|v| *v >= 0.0 && v.is_finite()) {
        return Err(Error::job("modo needs `gamma` and `rho` ≥ 0").at("key", KEY));
    }
    component.resolve(&options)?;
    Ok(Box::new(MoDo { options, lambda: vec![1.0 / tasks as f64; tasks] }))
}

impl Balancer for MoDo {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn parts(&self) -> usize {
        PARTS
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let present = signal.present();
        let n = present.len();
        let cross = crossed(signal, &present);
        let old = project_onto_simplex(&present.iter().map(|&task| self.lambda[task]).collect::<Vec<_>>());
        let Options { gamma, rho } = self.options;
        let slope = |k: usize| (0..n).map(|l| cross[k * n + l] * old[l]).sum::<f64>() + rho * old[k];
        let moved: Vec<f64> = (0..n).map(|k| old[k] - gamma * slope(k)).collect();
        let tasks = signal.present.len();
        let mut weights = vec![0.0; PARTS * tasks];
        for (&task, lambda) in present.iter().zip(project_onto_simplex(&moved)) {
            self.lambda[task] = lambda;
            weights[(PARTS - 1) * tasks + task] = lambda;
        }
        Ok(weights)
    }

    remembers!(lambda);
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, gram_of, method, of_gram};

    #[test]
    fn one_step_by_hand_and_many_to_the_least_norm() {
        let rows = [vec![1.0, 0.0], vec![0.0, 2.0]];
        let gram = gram_of(&[rows.clone(), rows.clone(), rows].concat());
        let mut balancer = method("{kind: modo, gamma: 0.1, rho: 0}", 2);
        let signal = of_gram(&gram, &[1.0; 2], &[true; 2]);
        // (½, ½) − 0.1·(½, 2) = (0.45, 0.3), plus ⅛ each.
        assert_close(&balancer.weights(&signal).unwrap()[4..], &[0.575, 0.425], 1e-12);
        for _ in 0..500 {
            balancer.weights(&signal).unwrap();
        }
        assert_close(&balancer.state(), &[0.8, 0.2], 1e-9);
    }
}
