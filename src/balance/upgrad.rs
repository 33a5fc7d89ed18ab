//! UPGrad (Quinton & Rey 2024, "Jacobian descent for multi-objective optimization"): each task's gradient is
//! projected onto the cone of updates that conflict with no task, and the projections are added.
//!
//! By duality the projection of g_i is Σ v_k g_k for the v that minimises vᵀGv over v ≥ e_i. The sum w keeps
//! Gw ≥ 0: no task's loss rises, to first order.

use super::cone::{Options, correction};
use super::{Balancer, Needs, Signal};
use crate::config::Component;
use crate::error::Result;

/// The preference gives each task's weight in the sum of the projections.
#[derive(Debug)]
struct UpGrad(Options);

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    Ok(Box::new(UpGrad(Options::read(component, names.len())?)))
}

impl Balancer for UpGrad {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let mut weights = vec![0.0; signal.present.len()];
        let present = signal.present();
        if let [only] = present[..] {
            weights[only] = 1.0;
            return Ok(weights);
        }
        let preference = self.0.preference.or_mean(&present);
        let gradients = self.0.gradients(signal, &present);
        let cosines = gradients.ridged();
        for (i, share) in preference.iter().enumerate() {
            let mut unit = vec![0.0; present.len()];
            unit[i] = 1.0;
            for ((&task, norm), x) in present.iter().zip(&gradients.norms).zip(correction(&cosines, &unit)) {
                // A zero gradient conflicts with none, and has no part in a projection.
                if x > 0.0 && *norm > 0.0 {
                    weights[task] += share * x * (gradients.norms[i] / norm);
                }
            }
            weights[present[i]] += share;
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{
        assert_close, assert_no_conflict, gram_of, method, scaled_rows, try_method, weights_of,
    };
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // (1, 0) and (−1, 1): projections g₁ + ½g₂ = (½, ½) and g₂ + g₁ = (0, 1), halved.
        let gram = gram_of(&[vec![1.0, 0.0], vec![-1.0, 1.0]]);
        assert_close(&weights_of("{kind: upgrad}", &gram, 2), &[1.0, 0.75], 1e-11);
        assert_close(&weights_of("{kind: upgrad, preference: [1, 0]}", &gram, 2), &[1.0, 0.5], 1e-11);
        // Without conflict: the mean.
        let gram = gram_of(&[vec![1.0, 0.0], vec![1.0, 1.0]]);
        assert_close(&weights_of("{kind: upgrad}", &gram, 2), &[0.5, 0.5], 0.0);
    }

    #[test]
    fn a_ridge_weakens_the_projection() {
        // G + 3·0.1·I = [1.3, −1; −1, 2.3]: v = (1, 1/2.3) and (1/1.3, 1), halved.
        let gram = gram_of(&[vec![1.0, 0.0], vec![-1.0, 1.0]]);
        let w = weights_of("{kind: upgrad, ridge: 0.1}", &gram, 2);
        assert_close(&w, &[0.5 + 0.5 / 1.3, 0.5 + 0.5 / 2.3], 1e-11);
        assert!(try_method("{kind: upgrad, ridge: -1}", 2).is_err());
        assert_eq!(method("{kind: upgrad}", 2).needs(), crate::balance::Needs::Gram);
    }

    #[test]
    fn a_task_without_a_shared_gradient_keeps_its_share() {
        assert_close(&weights_of("{kind: upgrad}", &[1.0, 0.0, 0.0, 0.0], 2), &[0.5, 0.5], 0.0);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn no_task_conflicts_with_the_update(rows in scaled_rows(1..=8, 12)) {
            assert_no_conflict("{kind: upgrad}", &rows);
        }
    }
}
