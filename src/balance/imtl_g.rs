//! Impartial multi-task learning, the gradient part (Liu et al., ICLR 2021): the update whose projections onto all
//! tasks' unit gradients are equal, with weights that sum to 1.
//!
//! With y_k = w_k‖g_k‖ the condition is Cy ∝ 1 for the cosines C, so y = C⁺1. The usual form w ∝ G⁺·(‖g_k‖)
//! (TorchJD) and the paper's linear system on differences give the same update where it exists; this one does not
//! lose gradients that are much shorter than the others. Weights can be negative.

use super::gram::Scaled;
use super::spectrum::Spectrum;
use super::{Balancer, KEY, Needs, Signal, weigh_moving};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: imtl_g}`: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImtlG {}

/// Weights that cancel to less than this share of their sizes sum to rounding: nothing to divide by.
const CANCELLED: f64 = 1e-9;

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: ImtlG = component.options(KEY)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for ImtlG {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        weigh_moving(signal, |gradients, _| equal_projections(gradients))
    }
}

/// All zero where no update has equal projections, as between two opposite gradients.
fn equal_projections(gradients: &Scaled) -> Result<Vec<f64>> {
    let n = gradients.norms.len();
    let y = Spectrum::new(&gradients.cosines, n)?.solve(&vec![1.0; n]);
    // Over the smallest norm: nothing overflows.
    let least = gradients.norms.iter().copied().fold(f64::INFINITY, f64::min);
    let w: Vec<f64> = y.iter().zip(&gradients.norms).map(|(y, norm)| y * (least / norm)).collect();
    let (sum, size) = (w.iter().sum::<f64>(), w.iter().map(|w| w.abs()).sum::<f64>());
    // Where 1 is not in the range of C, y itself is rounding: its true size is of order 1.
    if sum.abs() <= CANCELLED * size || y.iter().all(|y| y.abs() <= CANCELLED) {
        return Ok(vec![0.0; n]);
    }
    Ok(w.into_iter().map(|w| w / sum).collect())
}

#[cfg(test)]
mod tests {
    use crate::balance::gram::norms;
    use crate::balance::testing::{assert_close, gram_of, scaled_rows, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // (1, 0) and (0, 2): projections w₁ and 2w₂ are equal for w = (2/3, 1/3).
        let gram = gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]);
        assert_close(&weights_of("{kind: imtl_g}", &gram, 2), &[2.0 / 3.0, 1.0 / 3.0], 1e-15);
        // Opposite gradients have no such update.
        assert_eq!(weights_of("{kind: imtl_g}", &[1.0, -2.0, -2.0, 4.0], 2), [0.0, 0.0]);
        // A task without a shared gradient is left out.
        assert_close(&weights_of("{kind: imtl_g}", &[1.0, 0.0, 0.0, 0.0], 2), &[1.0, 0.0], 1e-15);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn projections_on_all_unit_gradients_are_equal(rows in scaled_rows(1..=4, 12)) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            let norms = norms(&gram, tasks);
            // Fewer tasks than dimensions, none zero, none a combination of others: the update exists.
            prop_assume!(norms.iter().all(|n| *n > 0.0));
            let cosines = crate::balance::gram::cosines(&gram, tasks);
            let spectrum = crate::balance::spectrum::Spectrum::new(&cosines, tasks).unwrap();
            prop_assume!(spectrum.values.len() == tasks && spectrum.values[tasks - 1] > 1e-4);
            let w = weights_of("{kind: imtl_g}", &gram, tasks);
            let y: Vec<f64> = w.iter().zip(&norms).map(|(w, n)| w * n).collect();
            prop_assume!(w.iter().any(|w| *w != 0.0));
            let size: f64 = y.iter().map(|y| y.abs()).sum();
            let along: Vec<f64> =
                cosines.chunks_exact(tasks).map(|row| row.iter().zip(&y).map(|(c, y)| c * y).sum()).collect();
            prop_assert!(along.iter().all(|a| (a - along[0]).abs() <= 1e-9 * size), "{along:?}");
            let weight: f64 = w.iter().map(|w| w.abs()).sum();
            prop_assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-12 * weight);
        }
    }
}
