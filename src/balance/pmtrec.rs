//! PMTRec (arXiv 2407.21364): task weights of their own for every user and every item, from the norms of the tasks'
//! gradients at its embedding row. The paper's equations were not to be had; this is a **reconstruction** from its
//! abstract and public summaries, whose other readings are options.
//!
//! For row v of one table, with g_t its gradient by task t (over the whole cluster's batch), n_t = ‖g_t‖ and T(v) the
//! tasks that touch it:
//!
//! ```text
//! magnitude   m_t ← ρ m_t + (1 − ρ) · mean over the rows that t touches of n_t                     one m per table
//! balancing   a_t = n_t / m_t      g̃_t = g_t · m_0/m_t                                     gradient magnitude balancing
//! weight      p_t = |T(v)| · softmax over T(v) of a_t/τ                                     personal weight
//! focus       q_t = (1 − λ) p_t + λ [t = 0]       λ grows from 0 to its largest value        task focusing
//! update      d = Σ_t q_t g̃_t
//! ```
//!
//! Shared dense parameters, if the model has any, take the mean of q over the rows that touch each task.

use super::rows::{OnRows, Rows};
use super::softmax::softmax;
use super::{Balancer, KEY, Needs, Signal, Sum};
use crate::config::Component;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Options of `{kind: pmtrec}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Number of the main task, from 0 in the order of the job.
    main: usize,
    /// Temperature τ of the softmax.
    tau: f64,
    /// What a norm is divided by before the softmax.
    scale: Scale,
    /// Whether auxiliary gradients are brought to the main task's mean magnitude.
    rescale: bool,
    /// Share ρ of the old mean norm in the moving average.
    rho: f64,
    /// Whether the weights of a row sum to the number of tasks that touch it (else to 1), so that a high temperature is
    /// the plain sum.
    sum_preserving: bool,
    /// How the main task gains weight.
    focus: Focus,
    /// λ at the end of the focusing.
    lambda_max: f64,
    /// Share of the training after which λ is largest.
    focus_until: f64,
    /// Whether rows that the main task does not touch fade out as it gains weight.
    focus_fade_aux: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scale {
    /// Nothing: softmax(‖g‖/τ), as one may read the summaries.
    None,
    /// The table's moving mean norm of the task.
    #[default]
    Ema,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Focus {
    /// λ grows linearly.
    #[default]
    Linear,
    /// λ grows along half a cosine.
    Cosine,
    /// λ stays 0.
    None,
    /// λ stays 0; a task's weight is multiplied by max(0, cos(g_t, g_main)).
    CosineGate,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            main: 0,
            tau: 1.0,
            scale: Scale::Ema,
            rescale: true,
            rho: 0.9,
            sum_preserving: true,
            focus: Focus::Linear,
            lambda_max: 1.0,
            focus_until: 1.0,
            focus_fade_aux: true,
        }
    }
}

/// Keeps a task that never touched a table from dividing by zero.
const EPSILON: f64 = 1e-12;

#[derive(Debug)]
struct PmtRec {
    options: Options,
    tasks: usize,
    /// m of each task, table by table; 0: not seen yet. Empty before the first step.
    magnitudes: Vec<f64>,
}

pub(super) fn build(component: &mut Component, tasks: usize) -> Result<Box<dyn Balancer>> {
    let options: Options = component.options(KEY)?;
    let wrong = |key: &str, fix: String| Err(Error::job("out of range").at("key", format!("{KEY}.{key}")).fix(fix));
    if options.main >= tasks {
        return wrong("main", format!("give the number of a task, from 0 to {}", tasks.saturating_sub(1)));
    }
    if options.tau.is_nan() || options.tau <= 0.0 {
        return wrong("tau", "give a number above 0".to_string());
    }
    if !(0.0..1.0).contains(&options.rho) {
        return wrong("rho", "give a number from 0 to below 1".to_string());
    }
    if !(0.0..=1.0).contains(&options.lambda_max) {
        return wrong("lambda_max", "give a number from 0 to 1".to_string());
    }
    if options.focus_until.is_nan() || options.focus_until <= 0.0 {
        return wrong("focus_until", "give a share of the training above 0, such as 0.5".to_string());
    }
    component.resolve(&options)?;
    Ok(Box::new(PmtRec { options, tasks, magnitudes: Vec::new() }))
}

impl Balancer for PmtRec {
    fn needs(&self) -> Needs {
        Needs::Rows
    }

    fn on_rows(&mut self) -> Option<&mut dyn OnRows> {
        Some(self)
    }

    fn state(&self) -> Vec<f64> {
        self.magnitudes.clone()
    }

    /// How many tables there are is known at the first step, so only a multiple of the tasks is asked for here.
    fn restore(&mut self, state: &[f64]) -> Result<()> {
        if !state.len().is_multiple_of(self.tasks.max(1)) {
            let what = format!("{} magnitudes in the checkpoint do not fit {} tasks", state.len(), self.tasks);
            return Err(Error::checkpoint(what).fix("resume with the tasks that the checkpoint was made with"));
        }
        self.magnitudes = state.to_vec();
        Ok(())
    }
}

impl OnRows for PmtRec {
    fn combine(&mut self, signal: &Signal, tables: &mut [Rows], sum: Sum) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let tasks = self.tasks;
        let norms: Vec<Vec<f64>> = tables.iter().map(|rows| norms(rows, tasks)).collect();
        self.measure(&norms, sum)?;
        let lambda = self.lambda(signal.progress());
        // Σ q and the number of rows, by task, for the dense parameters.
        let mut totals = vec![0.0; 2 * tasks];
        for ((table, rows), norms) in tables.iter_mut().enumerate().zip(&norms) {
            let of_table = &self.magnitudes[table * tasks..(table + 1) * tasks];
            let weights = self.weigh_rows(rows, norms, of_table, lambda);
            self.combine_rows(rows, &weights, of_table);
            for (row, norms) in weights.chunks_exact(tasks).zip(norms.chunks_exact(tasks)) {
                for task in (0..tasks).filter(|&task| norms[task] > 0.0) {
                    totals[task] += row[task];
                    totals[tasks + task] += 1.0;
                }
            }
        }
        sum(&mut totals)?;
        let mean = |task: usize| if totals[tasks + task] > 0.0 { totals[task] / totals[tasks + task] } else { 0.0 };
        Ok((0..tasks).map(|task| if signal.present[task] { mean(task) } else { 0.0 }).collect())
    }
}

/// n of each task, row by row; 0 where a task does not touch a row.
fn norms(rows: &Rows, tasks: usize) -> Vec<f64> {
    let (len, dim) = (rows.len(tasks), rows.dim);
    let norm = |row: usize, task: usize| -> f64 {
        let gradient = &rows.values[(task * len + row) * dim..][..dim];
        gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
    };
    (0..len * tasks).into_par_iter().map(|i| norm(i / tasks, i % tasks)).collect()
}

impl PmtRec {
    /// Moves the mean norms of every table towards this batch's.
    fn measure(&mut self, norms: &[Vec<f64>], sum: Sum) -> Result<()> {
        let tasks = self.tasks;
        let mut totals = vec![0.0; 2 * tasks * norms.len()];
        for (norms, totals) in norms.iter().zip(totals.chunks_exact_mut(2 * tasks)) {
            for (i, &norm) in norms.iter().enumerate() {
                totals[i % tasks] += norm;
                totals[tasks + i % tasks] += f64::from(u8::from(norm > 0.0));
            }
        }
        sum(&mut totals)?;
        self.magnitudes.resize(tasks * norms.len(), 0.0);
        let rho = self.options.rho;
        for (known, totals) in self.magnitudes.chunks_exact_mut(tasks).zip(totals.chunks_exact(2 * tasks)) {
            for (task, known) in known.iter_mut().enumerate().filter(|(task, _)| totals[tasks + task] > 0.0) {
                let mean = totals[task] / totals[tasks + task];
                *known = if *known > 0.0 { rho * *known + (1.0 - rho) * mean } else { mean };
            }
        }
        Ok(())
    }

    /// λ after this share of the training.
    fn lambda(&self, progress: f64) -> f64 {
        let Options { focus, lambda_max, focus_until, .. } = self.options;
        let way = (progress / focus_until).clamp(0.0, 1.0);
        match focus {
            Focus::Linear => lambda_max * way,
            Focus::Cosine => lambda_max * 0.5 * (1.0 - libm::cos(std::f64::consts::PI * way)),
            Focus::None | Focus::CosineGate => 0.0,
        }
    }

    /// q of each task, row by row.
    fn weigh_rows(&self, rows: &Rows, norms: &[f64], magnitudes: &[f64], lambda: f64) -> Vec<f64> {
        let tasks = self.tasks;
        let mut weights = vec![0.0; norms.len()];
        weights.par_chunks_mut(tasks).zip(norms.par_chunks(tasks)).enumerate().for_each(|(row, (weights, norms))| {
            self.personal(norms, magnitudes, weights);
            if self.options.focus == Focus::CosineGate {
                self.gate(rows, row, norms, weights);
            }
            self.focus(norms, lambda, weights);
        });
        weights
    }

    /// p of each task.
    fn personal(&self, norms: &[f64], magnitudes: &[f64], weights: &mut [f64]) {
        let touching: Vec<usize> = (0..self.tasks).filter(|&task| norms[task] > 0.0).collect();
        let relative = |task: usize| match self.options.scale {
            Scale::None => norms[task],
            Scale::Ema => norms[task] / (magnitudes[task] + EPSILON),
        };
        let p = softmax(&touching.iter().map(|&task| relative(task) / self.options.tau).collect::<Vec<_>>());
        let total = if self.options.sum_preserving { touching.len() as f64 } else { 1.0 };
        for (&task, p) in touching.iter().zip(p) {
            weights[task] = total * p;
        }
    }

    /// Multiplies p by how far each task's gradient points the main task's way.
    fn gate(&self, rows: &Rows, row: usize, norms: &[f64], weights: &mut [f64]) {
        let main = self.options.main;
        if norms[main] == 0.0 {
            return;
        }
        let (len, dim) = (rows.len(self.tasks), rows.dim);
        let of = |task: usize| &rows.values[(task * len + row) * dim..][..dim];
        for task in (0..self.tasks).filter(|&task| task != main && norms[task] > 0.0) {
            let dot: f64 = of(task).iter().zip(of(main)).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            weights[task] *= (dot / norms[task] / norms[main]).max(0.0);
        }
    }

    /// q from p.
    fn focus(&self, norms: &[f64], lambda: f64, weights: &mut [f64]) {
        let main = self.options.main;
        if norms[main] > 0.0 {
            weights.iter_mut().for_each(|p| *p *= 1.0 - lambda);
            weights[main] += lambda;
        } else if self.options.focus_fade_aux {
            weights.iter_mut().for_each(|p| *p *= 1.0 - lambda);
        }
    }

    /// Leaves Σ q_t g̃_t of each row.
    fn combine_rows(&self, rows: &mut Rows, weights: &[f64], magnitudes: &[f64]) {
        let (tasks, dim, len) = (self.tasks, rows.dim, rows.len(self.tasks));
        let main = magnitudes[self.options.main];
        let scale: Vec<f64> = magnitudes
            .iter()
            // A table that the main task never touched has no magnitude to be brought to.
            .map(|m| if self.options.rescale && main > 0.0 { main / (m + EPSILON) } else { 1.0 })
            .collect();
        let values = &*rows.values;
        let mut combined = vec![0.0f32; len * dim];
        combined.par_chunks_mut(dim).enumerate().for_each(|(row, out)| {
            for task in 0..tasks {
                let factor = (weights[row * tasks + task] * scale[task]) as f32;
                let gradient = &values[(task * len + row) * dim..][..dim];
                out.iter_mut().zip(gradient).for_each(|(out, &g)| *out += factor * g);
            }
        });
        *rows.values = combined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::{assert_close, method, of_gram};
    use proptest::prelude::*;

    /// Combined rows of one table, with the dense weights, for gradients by task and then by row.
    fn rows_of(method: &mut dyn Balancer, gradients: &[Vec<Vec<f64>>], progress: f64) -> (Vec<f64>, Vec<f64>) {
        let tasks = gradients.len();
        let mut values: Vec<f32> = gradients.iter().flatten().flatten().map(|&g| g as f32).collect();
        let (gram, losses, present) = (vec![0.0; tasks * tasks], vec![1.0; tasks], vec![true; tasks]);
        let signal =
            Signal { step: (progress * 1000.0) as u64, total_steps: 1000, ..of_gram(&gram, &losses, &present) };
        let mut tables = [Rows { dim: gradients[0][0].len(), values: &mut values }];
        let weights = method.on_rows().unwrap().combine(&signal, &mut tables, &|_| Ok(())).unwrap();
        (values.into_iter().map(f64::from).collect(), weights)
    }

    fn once(job: &str, gradients: &[Vec<Vec<f64>>], progress: f64) -> Vec<f64> {
        rows_of(method(job, gradients.len()).as_mut(), gradients, progress).0
    }

    #[test]
    fn a_row_by_hand() {
        // One row: n = (2, 1), which are the means too: a = (1, 1), p = (1, 1), g̃₂ = 2·g₂.
        let gradients = [vec![vec![2.0, 0.0]], vec![vec![0.0, 1.0]]];
        assert_close(&once("{kind: pmtrec}", &gradients, 0.0), &[2.0, 2.0], 1e-6);
        // Half way: q = (½ + ½, ½).
        assert_close(&once("{kind: pmtrec}", &gradients, 0.5), &[2.0, 1.0], 1e-6);
        assert_close(&once("{kind: pmtrec, focus: cosine, focus_until: 0.5}", &gradients, 0.25), &[2.0, 1.0], 1e-6);
        // Literal softmax of the norms: 2·(e², e)/(e² + e).
        let first = 2.0 / (1.0 + (-1f64).exp());
        let literal = once("{kind: pmtrec, scale: none, rescale: false}", &gradients, 0.0);
        assert_close(&literal, &[2.0 * first, 2.0 - first], 1e-6);
        // Orthogonal gradients: the gate closes.
        assert_close(&once("{kind: pmtrec, focus: cosine_gate}", &gradients, 0.9), &[2.0, 0.0], 1e-6);
    }

    #[test]
    fn rows_of_one_task_keep_their_gradient_until_they_fade() {
        let gradients = [vec![vec![3.0], vec![0.0]], vec![vec![0.0], vec![5.0]]];
        let job = "{kind: pmtrec, rescale: false}";
        assert_close(&once(job, &gradients, 0.0), &[3.0, 5.0], 1e-6);
        assert_close(&once(job, &gradients, 0.5), &[3.0, 2.5], 1e-6);
        assert_close(
            &once("{kind: pmtrec, rescale: false, focus_fade_aux: false}", &gradients, 1.0),
            &[3.0, 5.0],
            1e-6,
        );
    }

    #[test]
    fn the_dense_weights_are_the_mean_over_touched_rows() {
        let gradients = [vec![vec![1.0], vec![1.0]], vec![vec![1.0], vec![0.0]]];
        let (_, weights) = rows_of(method("{kind: pmtrec}", 2).as_mut(), &gradients, 0.5);
        // Row 1: p = (1, 1), q = (1, ½). Row 2: q = (1, 0) with one task.
        assert_close(&weights, &[1.0, 0.5], 1e-9);
    }

    #[test]
    fn the_scale_of_a_loss_does_not_matter_once_the_average_has_settled() {
        let rows = |c: f64| [vec![vec![1.0, 2.0], vec![0.5, 0.0]], vec![vec![0.3 * c, 0.0], vec![-c, 0.1 * c]]];
        let settled = |c: f64| {
            let mut method = method("{kind: pmtrec}", 2);
            (0..5).map(|_| rows_of(method.as_mut(), &rows(c), 0.2).0).last().unwrap()
        };
        assert_close(&settled(1.0), &settled(4096.0), 1e-5);
    }

    #[test]
    fn options_out_of_range_are_errors() {
        for wrong in ["main: 2", "tau: 0", "rho: 1", "lambda_max: 1.5", "focus_until: 0", "scope: shared"] {
            let mut component = serde_yaml::from_str(&format!("{{kind: pmtrec, {wrong}}}")).unwrap();
            assert!(crate::balance::build(&mut component, 2).is_err(), "{wrong}");
        }
    }

    fn gradients() -> impl Strategy<Value = Vec<Vec<Vec<f64>>>> {
        let row = prop_oneof![Just(vec![0.0; 3]), prop::collection::vec(-1.0f64..1.0, 3)];
        (1usize..5).prop_flat_map(move |rows| prop::collection::vec(prop::collection::vec(row.clone(), rows), 3))
    }

    fn sum_of(gradients: &[Vec<Vec<f64>>]) -> Vec<f64> {
        let mut sum = vec![0.0; gradients[0].len() * 3];
        for task in gradients {
            sum.iter_mut().zip(task.iter().flatten()).for_each(|(s, g)| *s += g);
        }
        sum
    }

    proptest! {
        #![proptest_config(crate::balance::testing::fixed())]

        #[test]
        fn a_high_temperature_without_rescaling_is_the_plain_sum(gradients in gradients()) {
            let combined = once("{kind: pmtrec, tau: 1e9, rescale: false, focus: none}", &gradients, 0.7);
            assert_close(&combined, &sum_of(&gradients), 1e-5);
        }

        #[test]
        fn at_the_end_only_the_main_task_is_left(gradients in gradients()) {
            let combined = once("{kind: pmtrec, main: 1}", &gradients, 1.0);
            let main: Vec<f64> = gradients[1].iter().flatten().copied().collect();
            assert_close(&combined, &main, 1e-5);
        }

        /// Rows on several ranks come out as on one: the sums are all that ranks share.
        #[test]
        fn rows_split_over_ranks_give_the_same(gradients in gradients()) {
            let whole = once("{kind: pmtrec}", &gradients, 0.3);
            let count = gradients[0].len();
            let part = |keep: &dyn Fn(usize) -> bool| -> Vec<Vec<Vec<f64>>> {
                let of = |task: &Vec<Vec<f64>>| (0..count).filter(|&i| keep(i)).map(|i| task[i].clone()).collect();
                gradients.iter().map(of).collect()
            };
            let parts = [part(&|i| i % 2 == 0), part(&|i| i % 2 == 1)];
            if parts[1][0].is_empty() {
                return Ok(());
            }
            // What the other rank adds to a sum, call by call: first the norms, then the weights (unused here).
            let totals = |rows: &[Vec<Vec<f64>>]| -> Vec<f64> {
                let norm = |row: &Vec<f64>| row.iter().map(|&x| f64::from(x as f32).powi(2)).sum::<f64>().sqrt();
                let sums = rows.iter().map(|task| task.iter().map(norm).sum::<f64>());
                let counts = rows.iter().map(|task| task.iter().filter(|row| norm(row) > 0.0).count() as f64);
                sums.chain(counts).collect()
            };
            for (mine, other) in [(0, 1), (1, 0)] {
                let mut balancer = method("{kind: pmtrec}", 3);
                let others = totals(&parts[other]);
                let calls = std::cell::Cell::new(0);
                let mut values: Vec<f32> = parts[mine].iter().flatten().flatten().map(|&g| g as f32).collect();
                let signal = Signal { step: 300, total_steps: 1000, ..of_gram(&[0.0; 9], &[1.0; 3], &[true; 3]) };
                let sum = |totals: &mut [f64]| {
                    calls.set(calls.get() + 1);
                    if calls.get() == 1 {
                        totals.iter_mut().zip(&others).for_each(|(a, b)| *a += b);
                    }
                    Ok(())
                };
                balancer.on_rows().unwrap().combine(&signal, &mut [Rows { dim: 3, values: &mut values }], &sum).unwrap();
                let rows: Vec<f64> =
                    (0..count).filter(|i| i % 2 == mine).flat_map(|i| whole[i * 3..i * 3 + 3].to_vec()).collect();
                assert_close(&values.into_iter().map(f64::from).collect::<Vec<_>>(), &rows, 1e-6);
            }
        }
    }
}
