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
//! A row whose weights are all 0 is left alone: an optimizer with momentum would move it on. With λ = 1 that leaves the main
//! task's training alone, bit for bit.
//!
//! Shared dense parameters, if the model has any, take the mean of q over the rows that touch each task.

use super::memory::{fit, restore_blocks};
use super::rows::{OnRows, Rows};
use super::softmax::softmax;
use super::task_name::TaskName;
use super::{Balancer, KEY, Needs, Signal, Sum};
use crate::config::Component;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Options of `{kind: pmtrec}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Name of the main task.
    main: TaskName,
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
    /// λ has its largest value from the first step.
    Constant,
    /// λ stays 0.
    None,
    /// λ stays 0; a task's weight is multiplied by max(0, cos(g_t, g_main)).
    CosineGate,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            main: TaskName::default(),
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
    /// Number of the main task.
    main: usize,
    tasks: usize,
    /// m of each task, table by table; 0: not seen yet. Empty before the first step.
    magnitudes: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let mut options: Options = component.options(KEY)?;
    let main = options.main.number("main", names)?;
    let wrong = |key: &str, fix: String| Err(Error::job("out of range").at("key", format!("{KEY}.{key}")).fix(fix));
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
    Ok(Box::new(PmtRec { options, main, tasks: names.len(), magnitudes: Vec::new() }))
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
        restore_blocks(&mut self.magnitudes, state, self.tasks)
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
            let each = weights.chunks_exact(tasks).zip(norms.chunks_exact(tasks)).enumerate();
            let faded = each.filter(|(_, (weights, norms))| is_faded(weights, norms));
            rows.left_alone.extend(faded.map(|(row, _)| row));
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

/// Whether tasks move a row, but none of them counts.
fn is_faded(weights: &[f64], norms: &[f64]) -> bool {
    norms.iter().any(|norm| *norm > 0.0) && weights.iter().zip(norms).all(|(weight, norm)| weight * norm == 0.0)
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
        fit(&mut self.magnitudes, tasks * norms.len())?;
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
            Focus::Constant => lambda_max,
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
        let main = self.main;
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
        let main = self.main;
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
        let main = magnitudes[self.main];
        // The main task's own gradient is left as it is. A table that it never touched has no magnitude to be brought to.
        let rescales = |task: usize| self.options.rescale && main > 0.0 && task != self.main;
        let scale: Vec<f64> =
            (0..tasks).map(|task| if rescales(task) { main / (magnitudes[task] + EPSILON) } else { 1.0 }).collect();
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
mod tests;
