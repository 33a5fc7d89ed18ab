//! Aligned-MTL (Senushkin et al., CVPR 2023, algorithm 1): the gradients are rotated and scaled, as little as can
//! be, into an orthogonal system of one length; so no task dominates and none conflicts.
//!
//! With G = VΛVᵀ, w = √σ V Λ^(−1/2) Vᵀ p over the eigenvalues that are not zero, where p is the preference and σ
//! the smallest of these eigenvalues (or their median or mean).

use super::gram::Scaled;
use super::preference::Preference;
use super::spectrum::Spectrum;
use super::{Balancer, KEY, Needs, Signal, weigh_moving};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: aligned_mtl}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AlignedMtl {
    /// Length of the orthogonal system, from the singular values of the gradients.
    scale: Scale,
    /// Weight of each task in the aligned system; empty: 1 over the number of tasks.
    preference: Preference,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scale {
    /// The smallest, the paper's choice: converges to a Pareto-stationary point.
    #[default]
    Min,
    /// The (lower) median.
    Median,
    /// The root of the mean square.
    Rmse,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: AlignedMtl = component.options(KEY)?;
    options.preference.check("preference", names.len())?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for AlignedMtl {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        weigh_moving(signal, |gradients, moving| self.align(gradients, &self.preference.or_mean(moving)))
    }
}

impl AlignedMtl {
    fn align(&self, gradients: &Scaled, preference: &[f64]) -> Result<Vec<f64>> {
        // G over its largest element: w does not depend on a common scale.
        let n = gradients.norms.len();
        let longest = gradients.norms.iter().copied().fold(0.0, f64::max);
        let norm = |k: usize| gradients.norms[k] / longest;
        let gram: Vec<f64> = (0..n * n).map(|i| gradients.cosines[i] * norm(i / n) * norm(i % n)).collect();
        let spectrum = Spectrum::new(&gram, n)?;
        let scale = self.scale.of(&spectrum.values);
        Ok(spectrum.apply(preference, |value| (scale / value).sqrt()))
    }
}

impl Scale {
    /// Of eigenvalues in descending order, at least one.
    fn of(self, values: &[f64]) -> f64 {
        match self {
            Self::Min => values[values.len() - 1],
            Self::Median => values[values.len() / 2],
            Self::Rmse => values.iter().sum::<f64>() / values.len() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::spectrum::Spectrum;
    use crate::balance::testing::{assert_close, combine, gram_of, weights_of};
    use proptest::prelude::*;

    #[test]
    fn orthogonal_gradients_are_brought_to_one_length() {
        let gram = gram_of(&[vec![1.0, 0.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 0.0, 4.0]]);
        // √σ/‖g_k‖ with σ = 1, 4 and (1 + 4 + 16)/3 = 7.
        for (scale, length) in [("min", 1.0), ("median", 2.0), ("rmse", 7f64.sqrt())] {
            let w = weights_of(&format!("{{kind: aligned_mtl, scale: {scale}, preference: [1, 1, 1]}}"), &gram, 3);
            assert_close(&w, &[length, length / 2.0, length / 4.0], 1e-14);
        }
        // By default each task counts 1/K.
        assert_close(&weights_of("{kind: aligned_mtl}", &gram, 3), &[1.0 / 3.0, 1.0 / 6.0, 1.0 / 12.0], 1e-14);
    }

    #[test]
    fn of_an_even_number_the_median_is_the_lower() {
        let gram = gram_of(&[vec![1.0, 0.0], vec![0.0, 2.0]]);
        let w = weights_of("{kind: aligned_mtl, scale: median, preference: [1, 1]}", &gram, 2);
        assert_close(&w, &[1.0, 0.5], 1e-14);
    }

    #[test]
    fn opposite_gradients_cancel() {
        // One eigenvalue, along (1, −1): equal preferences have no part in it.
        assert_close(&weights_of("{kind: aligned_mtl}", &[1.0, -1.0, -1.0, 1.0], 2), &[0.0, 0.0], 1e-15);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        /// The columns of B, one per preferred task, make an orthogonal system: BGB = σI.
        #[test]
        fn the_aligned_system_is_orthogonal(rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), 2..6)) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            let values = Spectrum::new(&gram, tasks).unwrap().values;
            prop_assume!(values.len() == tasks && values[tasks - 1] > 1e-4);
            let aligned: Vec<Vec<f64>> = (0..tasks).map(|k| {
                let preference: Vec<f64> = (0..tasks).map(|l| f64::from(u8::from(l == k))).collect();
                combine(&rows, &weights_of(&format!("{{kind: aligned_mtl, preference: {preference:?}}}"), &gram, tasks))
            }).collect();
            let mut want = vec![0.0; tasks * tasks];
            (0..tasks).for_each(|k| want[k * tasks + k] = values[tasks - 1]);
            assert_close(&gram_of(&aligned), &want, 1e-9);
        }
    }
}
