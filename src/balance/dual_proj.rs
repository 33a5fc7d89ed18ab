//! DualProj: the mean gradient projected onto the cone of updates that conflict with no task (Lopez-Paz & Ranzato,
//! "Gradient episodic memory", NeurIPS 2017, equation 11; the name is TorchJD's).
//!
//! By duality it is Σ v_k g_k for the v that minimises vᵀGv over v ≥ p, p the preference.

use super::cone::{Options, correction};
use super::{Balancer, Needs, Signal};
use crate::config::Component;
use crate::error::Result;

/// The preference gives the weights of the sum that is projected.
#[derive(Debug)]
struct DualProj(Options);

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    Ok(Box::new(DualProj(Options::read(component, names.len())?)))
}

impl Balancer for DualProj {
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
        let sum: Vec<f64> = gradients.norms.iter().zip(&preference).map(|(norm, p)| norm * p).collect();
        let correction = correction(&gradients.ridged(), &sum);
        for (((&task, norm), x), p) in present.iter().zip(&gradients.norms).zip(correction).zip(preference) {
            // A zero gradient conflicts with none, and has no part in the projection.
            weights[task] = if x > 0.0 && *norm > 0.0 { p + x / norm } else { p };
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, assert_no_conflict, gram_of, method, scaled_rows, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // (1, 0) and (−3, 1): the mean (−1, ½) conflicts with the first; projected onto its normal plane, (0, ½).
        let gram = gram_of(&[vec![1.0, 0.0], vec![-3.0, 1.0]]);
        assert_close(&weights_of("{kind: dual_proj}", &gram, 2), &[1.5, 0.5], 1e-11);
        // With twice the second: (−5, 2) becomes (0, 2).
        assert_close(&weights_of("{kind: dual_proj, preference: [1, 2]}", &gram, 2), &[6.0, 2.0], 1e-11);
        // (1, 0) and (−1, 1): their mean conflicts with none.
        let gram = gram_of(&[vec![1.0, 0.0], vec![-1.0, 1.0]]);
        assert_close(&weights_of("{kind: dual_proj}", &gram, 2), &[0.5, 0.5], 1e-11);
        assert_eq!(method("{kind: dual_proj}", 2).needs(), crate::balance::Needs::Gram);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn no_task_conflicts_with_the_update(rows in scaled_rows(1..=8, 12)) {
            assert_no_conflict("{kind: dual_proj}", &rows);
        }
    }
}
