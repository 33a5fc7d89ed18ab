//! FairGrad (Ban & Ji, ICML 2024): α-fair sharing of the gain among the tasks, the w > 0 with Gw = w^(−1/α)
//! (equation 4). α = 1 is proportional fairness (Nash-MTL before its update is shortened), α → 0 the mean, α → ∞ the
//! best for the worst-off.
//!
//! With y_k = w_k‖g_k‖ it reads (Cy)_k = ‖g_k‖^(1/α − 1)·y_k^(−1/α).

use super::fairness::fair_point;
use super::gram::Scaled;
use super::{Balancer, KEY, Needs, Signal, check_ridge, weigh_moving};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: fairgrad}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FairGrad {
    /// The kind of fairness. 0 is the mean of the gradients.
    alpha: f64,
    /// Added to the diagonal of the cosines: where gradients oppose each other exactly there is no solution.
    ridge: f64,
}

impl Default for FairGrad {
    fn default() -> Self {
        Self { alpha: 1.0, ridge: 1e-6 }
    }
}

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: FairGrad = component.options(KEY)?;
    // Outside, powers of gradients that differ by many decades leave the range of float64.
    if options.alpha != 0.0 && !(0.2..=20.0).contains(&options.alpha) {
        return Err(Error::job(format!("alpha is {}", options.alpha))
            .at("key", "balance.alpha")
            .fix("give 0 (the mean), or 0.2 to 20"));
    }
    check_ridge(options.ridge)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for FairGrad {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        weigh_moving(signal, |gradients, moving| {
            Ok(match self.alpha {
                0.0 => vec![1.0 / moving.len() as f64; moving.len()],
                _ => self.share(gradients),
            })
        })
    }
}

impl FairGrad {
    fn share(&self, gradients: &Scaled) -> Vec<f64> {
        let s: Vec<f64> = gradients.norms.iter().map(|&norm| libm::pow(norm, 1.0 / self.alpha - 1.0)).collect();
        let y = fair_point(&gradients.ridged_by(self.ridge.max(1e-12)), &s, self.alpha);
        y.iter().zip(&gradients.norms).map(|(y, norm)| y / norm).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, gram_of, scaled_rows, try_method, weights_of};
    use proptest::prelude::*;

    #[test]
    fn orthogonal_gradients_by_hand() {
        // ‖g‖²w = w^(−1/α), so w = ‖g‖^(−2α/(1 + α)).
        let gram = gram_of(&[vec![1.0, 0.0], vec![0.0, 8.0]]);
        for (alpha, second) in [(1.0, 1.0 / 8.0), (2.0, 1.0 / 16.0), (0.5, 0.25)] {
            let w = weights_of(&format!("{{kind: fairgrad, alpha: {alpha}, ridge: 0}}"), &gram, 2);
            assert_close(&w, &[1.0, second], 1e-11);
        }
        assert_close(&weights_of("{kind: fairgrad, alpha: 0}", &gram, 2), &[0.5, 0.5], 0.0);
    }

    #[test]
    fn proportional_fairness_is_the_bargaining_solution() {
        let gram = gram_of(&[vec![1.0, 2.0, 0.0], vec![-1.0, 1.0, 0.5], vec![0.2, -0.1, 3.0]]);
        let nash = weights_of("{kind: nash_mtl, max_norm: 0}", &gram, 3);
        assert_close(&weights_of("{kind: fairgrad}", &gram, 3), &nash, 1e-12);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for job in ["alpha: -1", "alpha: 0.1", "alpha: .nan", "ridge: -1"] {
            let job = format!("{{kind: fairgrad, {job}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn the_condition_holds(rows in scaled_rows(2..=6, 2), alpha in 0.3f64..4.0) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            prop_assume!((0..tasks).all(|k| gram[k * tasks + k] > 1e-9));
            let w = weights_of(&format!("{{kind: fairgrad, alpha: {alpha}}}"), &gram, tasks);
            for k in 0..tasks {
                let row = &gram[k * tasks..(k + 1) * tasks];
                let (sum, size) = row.iter().zip(&w).fold((0.0, 0.0), |(s, z), (g, w)| (s + g * w, z + (g * w).abs()));
                let want = w[k].powf(-1.0 / alpha);
                let sum = sum + 1e-6 * row[k] * w[k];
                prop_assert!((sum - want).abs() < 1e-8 * (size + want), "task {k}: {sum}, {want}, {w:?}");
            }
        }
    }
}
