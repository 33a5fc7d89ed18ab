//! Nash-MTL (Navon et al., ICML 2022): the tasks bargain over the update; the α > 0 with Gα = 1/α is Nash's
//! solution of the game, and gives each task the same relative gain.
//!
//! With β_k = α_k‖g_k‖ it reads Cβ = 1/β: the cosines alone decide, at any scale, and the update has norm √K before it
//! is shortened. Where other implementations call a conic solver on a sequence of approximations (of G over its
//! Frobenius norm, which their constraint takes back), `fairness` solves it to rounding.

use super::fairness::fair_point;
use super::gram::Scaled;
use super::{Balancer, KEY, Needs, Reused, Signal, check_ridge, memory::remembers, weigh_moving};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: nash_mtl}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Steps that one solution α is used for.
    update_every: u64,
    /// The update is shortened to this norm; 0: not at all.
    max_norm: f64,
    /// Added to the diagonal of the cosines: where gradients oppose each other exactly there is no solution, and
    /// this bounds α_k‖g_k‖ by its inverse root.
    ridge: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { update_every: 1, max_norm: 1.0, ridge: 1e-6 }
    }
}

#[derive(Debug)]
struct NashMtl {
    options: Options,
    /// Calls since α was found, modulo `update_every`; then α of each task, 0 where it had none.
    state: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    if options.update_every == 0 {
        return Err(Error::job("update_every is 0").at("key", "balance.update_every").fix("give 1 or more steps"));
    }
    if !(options.max_norm >= 0.0 && options.max_norm.is_finite()) {
        return Err(Error::job(format!("max_norm is {}", options.max_norm))
            .at("key", "balance.max_norm")
            .fix("give a number ≥ 0; 0 does not shorten the update"));
    }
    check_ridge(options.ridge)?;
    component.resolve(&options)?;
    Ok(Box::new(NashMtl { options, state: vec![0.0; names.len() + 1] }))
}

impl Balancer for NashMtl {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        let Self { options, state } = self;
        let (calls, alphas) = state.split_at_mut(1);
        let due = calls[0] == 0.0;
        weigh_moving(signal, |gradients, moving| {
            // A task that was absent when α was found has none to use again.
            if due || moving.iter().any(|&k| alphas[k] == 0.0) {
                alphas.fill(0.0);
                moving.iter().zip(options.bargain(gradients)).for_each(|(&k, alpha)| alphas[k] = alpha);
                calls[0] = 0.0;
            }
            calls[0] = (calls[0] + 1.0) % options.update_every as f64;
            Ok(options.shorten(gradients, moving.iter().map(|&k| alphas[k]).collect()))
        })
    }

    /// Between two solutions α is known, so that the tasks' gradients need not be told apart.
    fn reuse(&mut self, present: &[bool]) -> Option<Reused> {
        let (calls, alphas) = self.state.split_at_mut(1);
        let known = present.iter().zip(&*alphas).all(|(&present, &alpha)| !present || alpha > 0.0);
        let alone = present.iter().filter(|present| **present).count() < 2;
        if calls[0] == 0.0 || !known || alone {
            return None;
        }
        calls[0] = (calls[0] + 1.0) % self.options.update_every as f64;
        let weights = present.iter().zip(&*alphas).map(|(&present, &alpha)| if present { alpha } else { 0.0 });
        let max_norm = (self.options.max_norm > 0.0).then_some(self.options.max_norm);
        Some(Reused { weights: weights.collect(), max_norm })
    }

    remembers!(state);
}

impl Options {
    fn bargain(&self, gradients: &Scaled) -> Vec<f64> {
        // A singular matrix would let β grow without limit, so some ridge there must be.
        let beta = fair_point(&gradients.ridged_by(self.ridge.max(1e-12)), &vec![1.0; gradients.norms.len()], 1.0);
        beta.iter().zip(&gradients.norms).map(|(beta, norm)| beta / norm).collect()
    }

    fn shorten(&self, gradients: &Scaled, alpha: Vec<f64>) -> Vec<f64> {
        let y: Vec<f64> = alpha.iter().zip(&gradients.norms).map(|(alpha, norm)| alpha * norm).collect();
        let norm = gradients.norm(&y);
        if self.max_norm == 0.0 || norm <= self.max_norm {
            return alpha;
        }
        alpha.into_iter().map(|alpha| alpha * (self.max_norm / norm)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::gram::quadratic;
    use crate::balance::testing::{assert_close, gram_of, method, of_gram, scaled_rows, try_method, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // Orthogonal with norms 1 and 2: α = 1/‖g‖; the update has norm √2.
        let gram = gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]);
        let exact = |more: &str| weights_of(&format!("{{kind: nash_mtl, ridge: 0, {more}}}"), &gram, 2);
        assert_close(&exact("max_norm: 0"), &[1.0, 0.5], 1e-11);
        assert_close(&exact("max_norm: 1"), &[1.0 / 2f64.sqrt(), 0.5 / 2f64.sqrt()], 1e-11);
        // Cosine ½: β² · 1.5 = 1.
        let gram = [1.0, 0.5, 0.5, 1.0];
        let w = weights_of("{kind: nash_mtl, ridge: 0, max_norm: 0}", &gram, 2);
        assert_close(&w, &[1.0 / 1.5f64.sqrt(); 2], 1e-11);
    }

    #[test]
    fn opposite_gradients_are_bounded_by_the_ridge() {
        // Cβ = 0, so ridge·β = 1/β.
        let w = weights_of("{kind: nash_mtl, ridge: 1e-4}", &[1.0, -1.0, -1.0, 1.0], 2);
        assert_close(&w, &[100.0, 100.0], 1e-6);
    }

    #[test]
    fn what_is_reused_is_what_the_gradients_would_give() {
        let grams = [gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]), gram_of(&[vec![3.0, 0.0], vec![1.0, 1.0]])];
        let (mut whole, mut saving) =
            (method("{kind: nash_mtl, update_every: 3}", 2), method("{kind: nash_mtl, update_every: 3}", 2));
        for step in 0..7 {
            let signal = of_gram(&grams[step % 2], &[1.0, 1.0], &[true, true]);
            let want = whole.weights(&signal).unwrap();
            match saving.reuse(&[true, true]) {
                None => assert_eq!((step % 3, saving.weights(&signal).unwrap()), (0, want)),
                Some(reused) => {
                    let norm = quadratic(&grams[step % 2], &reused.weights).sqrt();
                    let factor = (reused.max_norm.unwrap() / norm).min(1.0);
                    assert_close(&reused.weights.iter().map(|w| w * factor).collect::<Vec<_>>(), &want, 1e-12);
                }
            }
            assert_eq!(saving.state(), whole.state());
        }
        assert!(saving.reuse(&[true, false]).is_none(), "a task alone has its plain gradient");
    }

    #[test]
    fn one_solution_serves_several_steps() {
        let grams = [gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]), gram_of(&[vec![3.0, 0.0], vec![1.0, 1.0]])];
        let mut nash = method("{kind: nash_mtl, update_every: 2, max_norm: 0}", 2);
        let mut of = |gram: &[f64], present: &[bool]| nash.weights(&of_gram(gram, &[1.0, 1.0], present)).unwrap();
        let all = [true, true];
        let first = of(&grams[0], &all);
        assert_eq!(of(&grams[1], &all), first);
        let third = of(&grams[1], &all);
        assert_eq!(third, weights_of("{kind: nash_mtl, max_norm: 0}", &grams[1], 2));
    }

    #[test]
    fn a_task_that_was_absent_when_the_tasks_bargained_makes_them_bargain_again() {
        let gram = gram_of(&[vec![1.0, 0.0, 1.0], vec![0.0, 2.0, 0.0], vec![1.0, 1.0, 0.0]]);
        let mut nash = method("{kind: nash_mtl, update_every: 9}", 3);
        let mut of = |present: &[bool]| nash.weights(&of_gram(&gram, &[1.0; 3], present)).unwrap();
        assert_eq!(of(&[true, true, false])[2], 0.0);
        assert_eq!(of(&[true; 3]), weights_of("{kind: nash_mtl}", &gram, 3));
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for job in ["update_every: 0", "max_norm: -1", "ridge: .nan", "updates: 1"] {
            let job = format!("{{kind: nash_mtl, {job}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        /// Gα = 1/α up to the ridge, and so αᵀGα = K.
        #[test]
        fn each_task_gains_alike(rows in scaled_rows(2..=6, 12)) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            prop_assume!((0..tasks).all(|k| gram[k * tasks + k] > 0.0));
            let w = weights_of("{kind: nash_mtl, max_norm: 0}", &gram, tasks);
            let mut ridges = 0.0;
            for k in 0..tasks {
                let gain: f64 = w[k] * (0..tasks).map(|l| gram[k * tasks + l] * w[l]).sum::<f64>();
                let size: f64 = w[k] * (0..tasks).map(|l| gram[k * tasks + l].abs() * w[l]).sum::<f64>();
                let ridge = 1e-6 * w[k] * w[k] * gram[k * tasks + k];
                ridges += ridge;
                prop_assert!((gain + ridge - 1.0).abs() < 1e-9 * (1.0 + size), "task {k}: {gain} of {w:?}");
            }
            let size: f64 = (0..tasks).map(|k| w[k] * gram[k * tasks + k].sqrt()).sum::<f64>().powi(2);
            prop_assert!((quadratic(&gram, &w) + ridges - tasks as f64).abs() < 1e-9 * (1.0 + size));
        }

        #[test]
        fn the_update_is_not_longer_than_asked(rows in scaled_rows(2..=6, 3)) {
            let gram = gram_of(&rows);
            let w = weights_of("{kind: nash_mtl, max_norm: 0.5}", &gram, rows.len());
            // Where weights cancel, the norm that is read from a Gram matrix is rounding of their sizes.
            let size: f64 = w.iter().enumerate().map(|(k, w)| w * gram[k * rows.len() + k].sqrt()).sum();
            prop_assert!(quadratic(&gram, &w).max(0.0).sqrt() <= 0.5 + 1e-7 * size);
        }
    }
}
