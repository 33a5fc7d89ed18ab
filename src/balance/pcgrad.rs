//! Projecting conflicting gradients (Yu et al., NeurIPS 2020, algorithm 1): each task's gradient is projected
//! onto the normal plane of every gradient it conflicts with, in random order, and the results are *summed*.
//!
//! In coordinates: v starts as e_i; for each j ≠ i, if (Gv)_j < 0 then v_j ← v_j − (Gv)_j/G_jj; w = Σ_i v.
//! The test uses the running projection, as the paper's algorithm does.

use super::gram::Scaled;
use super::{Balancer, KEY, Needs, Signal, order};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: pcgrad}`: none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PcGrad {}

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: PcGrad = component.options(KEY)?;
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for PcGrad {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let present = signal.present();
        let gradients = Scaled::new(signal.gram, signal.present.len(), &present);
        let mut weights = vec![0.0; signal.present.len()];
        for i in 0..present.len() {
            // In units of u_j = g_j/‖g_j‖, where each projection has a factor of order 1.
            let mut y = vec![0.0; present.len()];
            y[i] = 1.0;
            for j in order::of_others(signal, &present, i, KIND) {
                let along = gradients.times(&y)[j];
                if along < 0.0 {
                    y[j] -= along;
                }
            }
            for (j, &task) in present.iter().enumerate() {
                // A zero gradient conflicts with none, so its factor stays that of e_i.
                weights[task] += if j == i { y[j] } else { y[j] * ratio(gradients.norms[i], gradients.norms[j]) };
            }
        }
        Ok(weights)
    }
}

/// What its random order is drawn under.
const KIND: &str = "pcgrad";

/// ‖g_i‖/‖g_j‖, and 0 where g_j is zero.
fn ratio(of_i: f64, of_j: f64) -> f64 {
    if of_j > 0.0 { of_i / of_j } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{assert_close, combine, gram_of, method, of_gram, scaled_rows, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // (1, 0) and (−1, 1): g₁ − (−1/2)g₂ and g₂ − (−1/1)g₁, so w = (1 + 1, 1 + ½).
        let gram = gram_of(&[vec![1.0, 0.0], vec![-1.0, 1.0]]);
        assert_close(&weights_of("{kind: pcgrad}", &gram, 2), &[2.0, 1.5], 1e-15);
        // Without conflict: the plain sum.
        let gram = gram_of(&[vec![1.0, 0.0], vec![1.0, 1.0]]);
        assert_close(&weights_of("{kind: pcgrad}", &gram, 2), &[1.0, 1.0], 0.0);
    }

    #[test]
    fn projecting_after_the_sum_is_something_else() {
        // The common mistake: one summed gradient has nothing to conflict with.
        let rows = [vec![1.0, 0.0], vec![-1.0, 1.0]];
        let summed = combine(&rows, &[1.0, 1.0]);
        let balanced = combine(&rows, &weights_of("{kind: pcgrad}", &gram_of(&rows), 2));
        assert!((summed[0] - balanced[0]).abs() > 0.1);
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn of_two_conflicting_gradients_each_result_is_orthogonal_to_the_other(
            a in prop::collection::vec(-1.0f64..1.0, 4),
            b in prop::collection::vec(-1.0f64..1.0, 4),
        ) {
            let mut rows = [a, b];
            if gram_of(&rows)[1] > 0.0 {
                rows[1].iter_mut().for_each(|x| *x = -*x);
            }
            let gram = gram_of(&rows);
            prop_assume!(gram[0] > 1e-3 && gram[3] > 1e-3 && gram[1] < 0.0);
            let w = weights_of("{kind: pcgrad}", &gram, 2);
            // w = v¹ + v² with v¹ = (1, −G₁₂/G₂₂): what is left after taking v² = (w₀ − 1, 1) away.
            for (v, other) in [([1.0, w[1] - 1.0], 1), ([w[0] - 1.0, 1.0], 0)] {
                let along: f64 = combine(&rows, &v).iter().zip(&rows[other]).map(|(x, y)| x * y).sum();
                prop_assert!(along.abs() < 1e-12, "{along}");
            }
        }

        #[test]
        fn the_gram_form_is_the_vector_form(rows in scaled_rows(1..=8, 3), step in 0u64..100) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            let (losses, present) = (vec![1.0; tasks], vec![true; tasks]);
            let signal = Signal { step, ..of_gram(&gram, &losses, &present) };
            let w = method("{kind: pcgrad}", tasks).weights(&signal).unwrap();
            let all: Vec<usize> = (0..tasks).collect();
            let mut sum = vec![0.0; rows[0].len()];
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            for i in 0..tasks {
                let mut v = rows[i].clone();
                for j in order::of_others(&signal, &all, i, KIND) {
                    let along = dot(&v, &rows[j]);
                    // Rounding may see a conflict of 1e-16 in one form only; either way it moves v by as much.
                    if along < 0.0 {
                        v.iter_mut().zip(&rows[j]).for_each(|(v, g)| *v -= along / gram[j * tasks + j] * g);
                    }
                }
                sum.iter_mut().zip(&v).for_each(|(s, v)| *s += v);
            }
            let size: f64 = (0..tasks).map(|k| gram[k * tasks + k].sqrt() * w[k]).sum();
            assert_close(&combine(&rows, &w), &sum, 1e-9 * size);
        }
    }
}
