//! SDMGrad (Xiao, Ban & Ji, NeurIPS 2023): MGDA for noisy gradients, kept near a preferred direction g₀ (the mean):
//!
//!   min over the simplex of ½‖Jᵀw + λ Jᵀ1/K‖²        d = (Jᵀw + λ Jᵀ1/K) / (1 + λ)
//!
//! The gradient of the objective is a product of two gradients of the losses, which a single batch would give with a
//! bias. So each batch is cut into three parts by the rows' positions, ξ₁ and ξ₂ for w and ξ₃ for the direction:
//! w follows J(ξ₁) J(ξ₂)ᵀ (w + λ1/K) by projected steps from the w of the last batch, in units of the mean squared norm.

use super::solvers::project_onto_simplex;
use super::{Balancer, KEY, Needs, Signal, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: sdmgrad}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Weight of the mean direction.
    lambda: f64,
    /// Projected steps a batch.
    iterations: usize,
    /// Step size. (reconstruction: the paper's depends on the scale of the gradients)
    lr: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { lambda: 0.3, iterations: 20, lr: 0.1 }
    }
}

/// Independent parts of a batch.
pub(super) const PARTS: usize = 3;

#[derive(Debug)]
struct SdmGrad {
    options: Options,
    /// w of each task.
    weights: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let tasks = names.len();
    let options: Options = component.options(KEY)?;
    if !([options.lambda, options.lr].iter().all(|v| *v >= 0.0 && v.is_finite()) && options.iterations <= 10_000) {
        return Err(Error::job("sdmgrad needs `lambda` and `lr` ≥ 0 and at most 10000 `iterations`").at("key", KEY));
    }
    component.resolve(&options)?;
    Ok(Box::new(SdmGrad { options, weights: vec![1.0 / tasks as f64; tasks] }))
}

impl Balancer for SdmGrad {
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
        let scale = (0..n).map(|k| cross[k * n + k].abs()).sum::<f64>() / n.max(1) as f64;
        let mut w = project_onto_simplex(&present.iter().map(|&task| self.weights[task]).collect::<Vec<_>>());
        if scale > 0.0 {
            for _ in 0..self.options.iterations {
                let target: Vec<f64> = w.iter().map(|w| w + self.options.lambda / n as f64).collect();
                let slope = |k: usize| (0..n).map(|l| cross[k * n + l] * target[l]).sum::<f64>() / scale;
                let moved: Vec<f64> = (0..n).map(|k| w[k] - self.options.lr * slope(k)).collect();
                w = project_onto_simplex(&moved);
            }
        }
        let tasks = signal.present.len();
        let mut weights = vec![0.0; PARTS * tasks];
        for (&task, w) in present.iter().zip(w) {
            self.weights[task] = w;
            let towards_mean = self.options.lambda / n as f64;
            weights[(PARTS - 1) * tasks + task] = (w + towards_mean) / (1.0 + self.options.lambda);
        }
        Ok(weights)
    }

    remembers!(weights);
}

/// J(ξ₁) J(ξ₂)ᵀ between the tasks that are there.
pub(super) fn crossed(signal: &Signal, present: &[usize]) -> Vec<f64> {
    let tasks = signal.present.len();
    let side = PARTS * tasks;
    present.iter().flat_map(|&k| present.iter().map(move |&l| signal.gram[k * side + tasks + l])).collect()
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, gram_of, method, of_gram};

    /// The Gram matrix of three equal parts.
    fn tripled(rows: &[Vec<f64>]) -> Vec<f64> {
        gram_of(&[rows, rows, rows].concat())
    }

    #[test]
    fn with_equal_parts_and_no_preference_it_goes_to_the_least_norm() {
        let gram = tripled(&[vec![1.0, 0.0], vec![0.0, 2.0]]);
        let mut balancer = method("{kind: sdmgrad, lambda: 0, iterations: 2000}", 2);
        let weights = balancer.weights(&of_gram(&gram, &[1.0; 2], &[true; 2])).unwrap();
        assert_close(&weights, &[0.0, 0.0, 0.0, 0.0, 0.8, 0.2], 1e-6);
    }

    #[test]
    fn a_strong_preference_is_the_mean() {
        let gram = tripled(&[vec![1.0, 0.0], vec![0.0, 2.0]]);
        let mut balancer = method("{kind: sdmgrad, lambda: 1e9}", 2);
        let weights = balancer.weights(&of_gram(&gram, &[1.0; 2], &[true; 2])).unwrap();
        assert_close(&weights[4..], &[0.5, 0.5], 1e-6);
    }

    #[test]
    fn only_the_product_of_the_first_two_parts_moves_the_weights() {
        let rows = [vec![1.0, 0.0], vec![0.0, 2.0]];
        let mut gram = tripled(&rows);
        let of = |gram: &[f64]| method("{kind: sdmgrad}", 2).weights(&of_gram(gram, &[1.0; 2], &[true; 2])).unwrap();
        let before = of(&gram);
        for k in 0..6 {
            gram[k * 6 + k] += 5.0;
        }
        assert_eq!(of(&gram), before, "noise of one part, which is what the diagonal holds, has no effect");
    }
}
