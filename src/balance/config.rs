//! ConFIG (Liu, Chu & Thuerey, ICLR 2025, equation 2): the update whose cosines with all tasks' gradients are
//! equal, as long as the sum of the gradients' projections onto it.
//!
//! With unit gradients u_k its direction is Σ c_k u_k, c = C⁺p, for the cosines C and the preference p; so
//! w_k = c_k/(‖g_k‖√(cᵀCc)) · Σ_l ⟨g_l, û⟩.

use super::gram::Scaled;
use super::preference::Preference;
use super::spectrum::Spectrum;
use super::{Balancer, KEY, Needs, Signal, weigh_moving};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: config}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConFig {
    /// Ratios of the cosines; empty: all alike.
    preference: Preference,
}

/// A direction shorter than this is the rounding of none.
const NO_DIRECTION: f64 = 1e-9;

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: ConFig = component.options(KEY)?;
    options.preference.check("preference", names.len())?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for ConFig {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        weigh_moving(signal, |gradients, moving| equal_cosines(gradients, &self.preference.of(moving, 1.0)))
    }
}

/// All zero where no direction has such cosines, as between two opposite gradients.
fn equal_cosines(gradients: &Scaled, preference: &[f64]) -> Result<Vec<f64>> {
    let n = gradients.norms.len();
    let c = Spectrum::new(&gradients.cosines, n)?.solve(preference);
    let length = gradients.norm(&c);
    if length <= NO_DIRECTION * preference.iter().copied().fold(0.0, f64::max) {
        return Ok(vec![0.0; n]);
    }
    let along = gradients.times(&c).iter().zip(&gradients.norms).map(|(a, norm)| a / length * norm).sum::<f64>();
    Ok(c.iter().zip(&gradients.norms).map(|(c, norm)| c / length * (along / norm)).collect())
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, combine, gram_of, method, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // (1, 0) and (0, 2): direction (1, 1)/√2, length (1 + 2)/√2, so the update is (3/2, 3/2).
        let gram = gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]);
        assert_close(&weights_of("{kind: config}", &gram, 2), &[1.5, 0.75], 1e-14);
        // Cosines 3 : 4 give the direction (0.6, 0.8), length 0.6 + 1.6.
        let w = weights_of("{kind: config, preference: [3, 4]}", &gram, 2);
        assert_close(&w, &[2.2 * 0.6, 2.2 * 0.4], 1e-14);
        assert_eq!(weights_of("{kind: config}", &[1.0, -2.0, -2.0, 4.0], 2), [0.0, 0.0]);
        assert_eq!(method("{kind: config}", 2).needs(), crate::balance::Needs::Gram);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn cosines_with_all_gradients_are_equal(rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), 1..6)) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            let w = weights_of("{kind: config}", &gram, tasks);
            let update = combine(&rows, &w);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            let length = dot(&update, &update).sqrt();
            let cosines: Vec<f64> = rows.iter().map(|r| dot(r, &update) / dot(r, r).sqrt() / length).collect();
            prop_assert!(cosines.iter().all(|c| (c - cosines[0]).abs() < 1e-7), "{cosines:?}");
            let projections: f64 = rows.iter().map(|r| dot(r, &update) / length).sum();
            prop_assert!((length - projections).abs() < 1e-9 * length);
        }

        /// Only the length knows the scales.
        #[test]
        fn the_direction_does_not_depend_on_the_scale_of_a_task(
            rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), 2..5),
            exponent in -12i32..=12,
        ) {
            let tasks = rows.len();
            let mut scaled = rows.clone();
            scaled[0].iter_mut().for_each(|x| *x *= 4f64.powi(exponent));
            let unit = |rows: &[Vec<f64>]| {
                let gram = gram_of(rows);
                let w = weights_of("{kind: config}", &gram, tasks);
                let norms = crate::balance::gram::norms(&gram, tasks);
                let y: Vec<f64> = w.iter().zip(&norms).map(|(w, norm)| w * norm).collect();
                let size = y.iter().map(|y| y.abs()).fold(0.0, f64::max);
                y.into_iter().map(|y| if size > 0.0 { y / size } else { 0.0 }).collect::<Vec<_>>()
            };
            assert_close(&unit(&rows), &unit(&scaled), 1e-9);
        }
    }
}
