//! Gradient vaccine (Wang et al., ICLR 2021): where two tasks' gradients are less alike than they usually are, the
//! first is moved towards the second until they are.
//!
//! For each task i and each other task j in random order, with φ the cosine between the running g_i and g_j and ρ
//! its moving average: if φ < ρ, g_i += g_j·‖g_i‖(ρ√(1−φ²) − φ√(1−ρ²))/(‖g_j‖√(1−ρ²)), which makes the cosine ρ
//! (equation 3); then ρ += β(φ − ρ). The results are summed. ρ starts at 0: the first step is PCGrad's.
//!
//! What counts as one gradient is an option, as in the paper's section 3.2: that of the whole model, of each layer or of
//! each matrix. See [`groups`] for the latter two.

mod groups;

use super::gram::Scaled;
use super::memory::{restore_blocks, restore_exactly};
use super::{Balancer, KEY, Needs, OnSlices, Signal, order};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: gradvac}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Share of the new cosine in the moving average.
    beta: f64,
    /// What the cosines are of.
    group: Group,
}

/// The parts of the shared parameters whose gradients are compared apart from the others'.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Group {
    /// All of them together.
    #[default]
    Model,
    /// The tensors of each layer.
    Layer,
    /// Each tensor.
    Matrix,
}

impl Default for Options {
    fn default() -> Self {
        Self { beta: 0.5, group: Group::Model }
    }
}

/// What its random order is drawn under.
const KIND: &str = "gradvac";

/// √(1 − ρ²) counts as at least this: towards ρ = 1, a goal that is met by equal gradients only, a correction would
/// grow without limit.
const LEAST_SINE: f64 = 1e-4;

/// A running gradient shorter than this share of its first length is rounding, and has no direction.
const VANISHED: f64 = 1e-7;

#[derive(Debug)]
struct GradVac {
    options: Options,
    tasks: usize,
    /// Row-major K × K: ρ of task i towards task j. With groups one for each, and a last one of the whole gradients;
    /// empty before the first step.
    targets: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    if !(0.0..=1.0).contains(&options.beta) {
        let what = format!("beta is {}", options.beta);
        return Err(Error::job(what).at("key", "balance.beta").fix("give a number from 0 to 1"));
    }
    component.resolve(&options)?;
    let tasks = names.len();
    let known = if options.group == Group::Model { tasks * tasks } else { 0 };
    Ok(Box::new(GradVac { options, tasks, targets: vec![0.0; known] }))
}

impl Balancer for GradVac {
    fn needs(&self) -> Needs {
        match self.options.group {
            Group::Model => Needs::Gram,
            Group::Layer | Group::Matrix => Needs::Slices,
        }
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        Ok(self.options.weights(signal, signal.gram, &mut self.targets))
    }

    fn on_slices(&mut self) -> Option<&mut dyn OnSlices> {
        if self.options.group == Group::Model { None } else { Some(self) }
    }

    fn state(&self) -> Vec<f64> {
        self.targets.clone()
    }

    fn restore(&mut self, state: &[f64]) -> Result<()> {
        match self.options.group {
            Group::Model => restore_exactly(&mut self.targets, state),
            Group::Layer | Group::Matrix => restore_blocks(&mut self.targets, state, self.tasks * self.tasks),
        }
    }
}

impl Options {
    /// The weights of the tasks for one Gram matrix, with the averages `targets`, which it moves.
    fn weights(&self, signal: &Signal, gram: &[f64], targets: &mut [f64]) -> Vec<f64> {
        let tasks = signal.present.len();
        let present = signal.present();
        let gradients = Scaled::new(gram, tasks, &present);
        let mut weights = vec![0.0; tasks];
        for (i, &task) in present.iter().enumerate() {
            weights[task] += 1.0;
            // A zero gradient has no cosine with any.
            if gradients.norms[i] == 0.0 {
                continue;
            }
            let targets = &mut targets[task * tasks..(task + 1) * tasks];
            let order = order::of_others(signal, &present, i, KIND);
            let others = order.into_iter().filter(|&j| gradients.norms[j] > 0.0);
            for (j, added) in self.vaccinate(&gradients, i, others, |j| present[j], targets) {
                weights[present[j]] += added * (gradients.norms[i] / gradients.norms[j]);
            }
        }
        weights
    }

    /// The multiples of the `others`' unit gradients that u_i gets. Moves the averages `targets`, which stand under
    /// the tasks' numbers.
    fn vaccinate(
        &self,
        gradients: &Scaled,
        i: usize,
        others: impl Iterator<Item = usize>,
        number: impl Fn(usize) -> usize,
        targets: &mut [f64],
    ) -> Vec<(usize, f64)> {
        let mut y = vec![0.0; gradients.norms.len()];
        y[i] = 1.0;
        let mut added = Vec::new();
        for j in others {
            let length = gradients.norm(&y);
            if length <= VANISHED {
                break;
            }
            let cosine = (gradients.times(&y)[j] / length).clamp(-1.0, 1.0);
            let target = &mut targets[number(j)];
            if cosine < *target {
                let (sine, goal) = ((1.0 - cosine * cosine).sqrt(), (1.0 - *target * *target).max(0.0).sqrt());
                let step = length * (*target * sine - cosine * goal) / goal.max(LEAST_SINE);
                y[j] += step;
                added.push((j, step));
            }
            *target += self.beta * (cosine - *target);
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::Signal;
    use crate::balance::testing::{
        assert_close, combine, gram_of, method, of_gram, scaled_rows, try_method, weights_of,
    };
    use proptest::prelude::*;

    #[test]
    fn the_first_step_is_pcgrad_and_the_next_restores_the_usual_cosine() {
        let conflict = gram_of(&[vec![1.0, 0.0], vec![-1.0, 1.0]]);
        assert_close(&weights_of("{kind: gradvac}", &conflict, 2), &[2.0, 1.5], 1e-14);
        // After cosines of 0.6 (β = 1: the average is the last one), orthogonal gradients are brought to it.
        let mut vaccine = method("{kind: gradvac, beta: 1}", 2);
        let aligned = gram_of(&[vec![1.0, 0.0], vec![6.0, 8.0]]);
        assert_eq!(vaccine.weights(&of_gram(&aligned, &[1.0; 2], &[true; 2])).unwrap(), [1.0, 1.0]);
        let rows = [vec![2.0, 0.0], vec![0.0, 1.0]];
        let w = vaccine.weights(&of_gram(&gram_of(&rows), &[1.0; 2], &[true; 2])).unwrap();
        // g₁ + a·g₂ = (2, a) has cosine a/√(4 + a²) = 0.6 with g₂ for a = 1.5; g₂ + b·g₁ = (2b, 1) for b = 3/8.
        assert_close(&w, &[1.0 + 0.375, 1.0 + 1.5], 1e-14);
    }

    #[test]
    fn beta_outside_its_range_is_an_error() {
        for beta in ["-0.1", "1.1", ".nan"] {
            let job = format!("{{kind: gradvac, beta: {beta}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }

    #[test]
    fn an_absent_task_keeps_its_averages() {
        let mut vaccine = method("{kind: gradvac}", 3);
        let gram = gram_of(&[vec![1.0, 0.2], vec![0.5, 1.0], vec![0.0, 0.0]]);
        vaccine.weights(&of_gram(&gram, &[1.0; 3], &[true, true, false])).unwrap();
        let state = vaccine.state();
        assert!(state[1] > 0.0 && state[3] > 0.0);
        assert!([2, 5, 6, 7].iter().all(|&i| state[i] == 0.0), "{state:?}");
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        /// Of two tasks whose usual cosine is ρ and whose present one is lower, each result has the cosine ρ.
        #[test]
        fn the_usual_cosine_is_restored(
            usual in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 4), 2),
            now in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 4), 2),
        ) {
            let cosine = |rows: &[Vec<f64>]| {
                let gram = gram_of(rows);
                gram[1] / (gram[0] * gram[3]).sqrt()
            };
            let rho = cosine(&usual);
            prop_assume!(rho > 0.01 && rho < 0.99 && cosine(&now) < rho);
            let mut vaccine = method("{kind: gradvac, beta: 1}", 2);
            vaccine.weights(&of_gram(&gram_of(&usual), &[1.0; 2], &[true; 2])).unwrap();
            let w = vaccine.weights(&of_gram(&gram_of(&now), &[1.0; 2], &[true; 2])).unwrap();
            let first = combine(&now, &[1.0, w[1] - 1.0]);
            prop_assert!((cosine(&[first, now[1].clone()]) - rho).abs() < 1e-9);
        }

        #[test]
        fn any_sequence_is_finite(rows in scaled_rows(2..=6, 12), steps in 2u64..6) {
            let tasks = rows.len();
            let mut vaccine = method("{kind: gradvac}", tasks);
            let (losses, present) = (vec![1.0; tasks], vec![true; tasks]);
            for step in 0..steps {
                let mut turned = rows.clone();
                turned.rotate_left(step as usize % tasks);
                let gram = gram_of(&turned);
                let w = vaccine.weights(&Signal { step, ..of_gram(&gram, &losses, &present) }).unwrap();
                prop_assert!(w.iter().all(|w| w.is_finite()), "{w:?}");
            }
            prop_assert!(vaccine.state().iter().all(|rho| rho.abs() <= 1.0));
        }
    }
}
