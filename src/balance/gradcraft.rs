//! GradCraft (Bai et al., KDD 2024): first the gradients' magnitudes are brought together, then each gradient is
//! moved out of *all* its conflicts at once, which projecting one by one (PCGrad) does not achieve.
//!
//! With m_k the moving average of ‖g_k‖, ĝ_k = r·g_k·max m/m_k + (1 − r)·g_k. For each task i, C the tasks that
//! conflict with it, g̃_i = ĝ_i + Σ_{j∈C} a_j ĝ_j with ⟨g̃_i, ĝ_j⟩ = ε‖ĝ_i‖‖ĝ_j‖ for all j of C. The update is the mean
//! of the g̃_i.

use super::gram::Scaled;
use super::solvers::solve_positive;
use super::{Balancer, KEY, Needs, Signal, check_ridge, memory::remembers};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: gradcraft}`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// r: 0 keeps the magnitudes, 1 makes them all the largest.
    relax: f64,
    /// Share of the old average in the moving average of the norms.
    beta: f64,
    /// Cosine that a conflict is turned into.
    epsilon: f64,
    /// Added to the diagonal of the conflicting gradients' cosines, which are singular where the gradients depend
    /// on each other.
    ridge: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { relax: 0.5, beta: 0.9, epsilon: 1e-10, ridge: 1e-8 }
    }
}

#[derive(Debug)]
struct GradCraft {
    options: Options,
    /// Moving average of ‖g_k‖; 0 before the first gradient that is not zero, which it starts from.
    norms: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    let shares = [("relax", options.relax, 1.0), ("beta", options.beta, 1.0), ("epsilon", options.epsilon, 1.0)];
    for (name, value, most) in shares {
        if !(0.0..=most).contains(&value) {
            return Err(Error::job(format!("{name} is {value}"))
                .at("key", format!("{KEY}.{name}"))
                .fix("give a number from 0 to 1"));
        }
    }
    check_ridge(options.ridge)?;
    component.resolve(&options)?;
    Ok(Box::new(GradCraft { options, norms: vec![0.0; names.len()] }))
}

impl Balancer for GradCraft {
    fn needs(&self) -> Needs {
        Needs::Gram
    }

    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let tasks = signal.present.len();
        let present = signal.present();
        let moving: Vec<usize> = present.iter().copied().filter(|&k| signal.gram[k * tasks + k] > 0.0).collect();
        let gradients = Scaled::new(signal.gram, tasks, &moving);
        self.average(&moving, &gradients.norms);
        let mut weights = vec![0.0; tasks];
        let mean = 1.0 / present.len().max(1) as f64;
        // A zero gradient has no magnitude to adjust and no conflict.
        present.iter().for_each(|&k| weights[k] = mean);
        if present.len() > 1 {
            let sum = self.options.craft(&gradients, &self.factors(&moving));
            moving.iter().zip(sum).for_each(|(&k, w)| weights[k] = mean * w);
        }
        Ok(weights)
    }

    remembers!(norms);
}

impl GradCraft {
    fn average(&mut self, moving: &[usize], norms: &[f64]) {
        for (&k, &norm) in moving.iter().zip(norms) {
            let old = self.norms[k];
            self.norms[k] = if old == 0.0 { norm } else { self.options.beta * old + (1.0 - self.options.beta) * norm };
        }
    }

    /// What each gradient is multiplied by.
    fn factors(&self, moving: &[usize]) -> Vec<f64> {
        let largest = moving.iter().map(|&k| self.norms[k]).fold(0.0, f64::max);
        let relax = self.options.relax;
        moving.iter().map(|&k| relax * (largest / self.norms[k]) + (1.0 - relax)).collect()
    }
}

impl Options {
    /// The multiples of the gradients in Σ g̃_i, where ĝ_k = `factors`_k·g_k.
    fn craft(&self, gradients: &Scaled, factors: &[f64]) -> Vec<f64> {
        let n = factors.len();
        let mut sum = factors.to_vec();
        for (i, factor) in factors.iter().enumerate() {
            let conflicts: Vec<usize> = (0..n).filter(|&j| gradients.cosines[i * n + j] < 0.0).collect();
            // In units of ‖ĝ_i‖ along unit gradients.
            let wanted: Vec<f64> = conflicts.iter().map(|&j| self.epsilon - gradients.cosines[i * n + j]).collect();
            let matrix = gradients.ridged_by(self.ridge.max(1e-12));
            let among: Vec<f64> = conflicts
                .iter()
                .flat_map(|&j| conflicts.iter().map(move |&l| (j, l)))
                .map(|(j, l)| matrix[j * n + l])
                .collect();
            for (&j, z) in conflicts.iter().zip(solve_positive(&among, &wanted)) {
                sum[j] += z * factor * (gradients.norms[i] / gradients.norms[j]);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, combine, gram_of, method, of_gram, try_method, weights_of};
    use proptest::prelude::*;

    #[test]
    fn two_gradients_by_hand() {
        // Without magnitudes and ε it is PCGrad for two tasks, halved: (1, 0) and (−1, 1).
        let gram = gram_of(&[vec![1.0, 0.0], vec![-1.0, 1.0]]);
        let w = weights_of("{kind: gradcraft, relax: 0, epsilon: 0}", &gram, 2);
        assert_close(&w, &[1.0, 0.75], 1e-7);
        // Magnitudes 1 and 4 without conflict: r = ½ lifts the first by ½·4 + ½.
        let gram = gram_of(&[vec![1.0, 0.0], vec![0.0, 4.0]]);
        assert_close(&weights_of("{kind: gradcraft}", &gram, 2), &[1.25, 0.5], 1e-15);
        assert_close(&weights_of("{kind: gradcraft, relax: 1}", &gram, 2), &[2.0, 0.5], 1e-15);
        // A zero gradient keeps its share, and the largest magnitude is that of the others.
        assert_close(&weights_of("{kind: gradcraft}", &[1.0, 0.0, 0.0, 0.0], 2), &[0.5, 0.5], 0.0);
    }

    #[test]
    fn magnitudes_are_averaged_over_the_steps_that_a_task_is_in() {
        let mut craft = method("{kind: gradcraft, relax: 1, beta: 0.75}", 2);
        let mut of = |norms: [f64; 2], present: &[bool]| {
            let gram = [norms[0] * norms[0], 0.0, 0.0, norms[1] * norms[1]];
            (craft.weights(&of_gram(&gram, &[1.0; 2], present)).unwrap(), craft.state())
        };
        of([1.0, 4.0], &[true, true]);
        let (alone, state) = of([5.0, 0.0], &[true, false]);
        assert_eq!((alone, state), (vec![1.0, 0.0], vec![2.0, 4.0]));
        // m = (0.75·2 + 0.25·6, 0.75·4 + 0.25·0).
        let (w, state) = of([6.0, 4.0], &[true, true]);
        assert_eq!(state, [3.0, 4.0]);
        assert_close(&w, &[0.5 * 4.0 / 3.0, 0.5], 1e-15);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for job in ["relax: 1.5", "beta: -0.1", "epsilon: .nan", "ridge: -1"] {
            let job = format!("{{kind: gradcraft, {job}}}");
            assert!(try_method(&job, 2).is_err(), "{job}");
        }
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        /// The method's own claim: ⟨g̃_i, ĝ_j⟩ = ε‖ĝ_i‖‖ĝ_j‖ for every j that i conflicted with.
        #[test]
        fn all_conflicts_are_resolved_at_once(rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 8), 2..6)) {
            let tasks = rows.len();
            let gram = gram_of(&rows);
            let epsilon = 0.01;
            let norm = |k: usize| gram[k * tasks + k].sqrt();
            // A factor of 0 takes a task's result out of the sum, and leaves it as a partner in conflicts.
            let all: Vec<usize> = (0..tasks).collect();
            let scaled = crate::balance::gram::Scaled::new(&gram, tasks, &all);
            let options = super::Options { epsilon, relax: 0.0, ..Default::default() };
            for i in 0..tasks {
                let mut only = vec![0.0; tasks];
                only[i] = 1.0;
                let result = combine(&rows, &options.craft(&scaled, &only));
                for j in (0..tasks).filter(|&j| gram[i * tasks + j] < 0.0) {
                    let along: f64 = result.iter().zip(&rows[j]).map(|(x, y)| x * y).sum();
                    let want = epsilon * norm(i) * norm(j);
                    prop_assert!((along - want).abs() < 1e-5 * norm(i) * norm(j), "{i}, {j}: {along}, {want}");
                }
            }
        }
    }
}
