//! DualProj: the mean gradient projected onto the cone of updates that conflict with no task (Lopez-Paz & Ranzato,
//! "Gradient episodic memory", NeurIPS 2017, equation 11; the name is TorchJD's).
//!
//! By duality it is Σ v_k g_k for the v that minimises vᵀGv over v ≥ p, p the preference.

use super::gram::Scaled;
use super::preference::Preference;
use super::solvers::nonnegative_quadratic;
use super::{Balancer, KEY, Needs, Signal, check_ridge};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: dual_proj}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DualProj {
    /// Weights of the sum that is projected; empty: 1 over the number of tasks.
    preference: Preference,
    /// Multiple of trace(G) added to the diagonal of G. 0 is the exact projection; TorchJD has 1e-4.
    ridge: f64,
}

pub(super) fn build(component: &mut Component, tasks: usize) -> Result<Box<dyn Balancer>> {
    let options: DualProj = component.options(KEY)?;
    options.preference.check("preference", tasks)?;
    check_ridge(options.ridge)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
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
        let preference = self.preference.or_mean(&present);
        let gradients = Scaled::new(signal.gram, signal.present.len(), &present).regularised(self.ridge);
        let corrections = corrections(&gradients, &preference);
        for (((&task, norm), x), p) in present.iter().zip(&gradients.norms).zip(corrections).zip(preference) {
            // A zero gradient conflicts with none, and has no part in the projection.
            weights[task] = if x > 0.0 && *norm > 0.0 { p + x / norm } else { p };
        }
        Ok(weights)
    }
}

/// What the projection adds to Σ p_k g_k, in unit gradients: the x ≥ 0 of least ‖Σ (p_k‖g_k‖ + x_k) u_k‖.
fn corrections(gradients: &Scaled, preference: &[f64]) -> Vec<f64> {
    let cosines = gradients.ridged();
    let sum: Vec<f64> = gradients.norms.iter().zip(preference).map(|(norm, p)| norm * p).collect();
    let against: Vec<f64> = cosines
        .chunks_exact(sum.len().max(1))
        .map(|row| -row.iter().zip(&sum).map(|(c, y)| c * y).sum::<f64>())
        .collect();
    nonnegative_quadratic(&cosines, &against)
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
