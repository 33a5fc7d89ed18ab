//! MetaBalance (He et al., WWW 2022): auxiliary gradients are brought to the target task's magnitude, tensor by
//! tensor, with moving averages n of their norms:
//!
//!   n_{k,p} ← β n_{k,p} + (1 − β)‖g_{k,p}‖       g_{k,p} ← r · g_{k,p} · n_{0,p}/n_{k,p} + (1 − r) · g_{k,p}
//!
//! for every parameter tensor p, and then summed. At the rows of the embedding tables, whose gradients it does not see,
//! the norms of the whole shared gradients stand for the tensor's.

use super::gram::dot;
use super::memory::{fit, restore_blocks};
use super::slices::{OnSlices, Slices, Sum, add_scaled, alone};
use super::task_name::TaskName;
use super::{Balancer, KEY, Needs, Signal};
use crate::config::Component;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `{kind: metabalance}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Name of the target task.
    target: TaskName,
    /// How far auxiliary gradients go towards the target's magnitude: 0 not at all, 1 all the way.
    r: f64,
    /// Share of the old norm in the moving average, which starts at 0.
    beta: f64,
    /// Which auxiliary gradients are changed.
    variant: Variant,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Variant {
    /// All.
    #[default]
    Both,
    /// Those larger than the target's.
    Shrink,
    /// Those smaller than it.
    Grow,
}

impl Default for Options {
    fn default() -> Self {
        Self { target: TaskName::default(), r: 0.7, beta: 0.9, variant: Variant::Both }
    }
}

#[derive(Debug)]
struct MetaBalance {
    options: Options,
    /// Number of the target task.
    target: usize,
    tasks: usize,
    /// n by tensor and task, and last of the whole gradients. Empty before the first step.
    norms: Vec<f64>,
}

pub(super) fn build(component: &mut Component, names: &[String]) -> Result<Box<dyn Balancer>> {
    let mut options: Options = component.options(KEY)?;
    let target = options.target.number("target", names)?;
    if !((0.0..=1.0).contains(&options.r) && (0.0..1.0).contains(&options.beta)) {
        return Err(Error::job("metabalance needs 0 ≤ `r` ≤ 1 and 0 ≤ `beta` < 1").at("key", KEY));
    }
    component.resolve(&options)?;
    Ok(Box::new(MetaBalance { options, target, tasks: names.len(), norms: Vec::new() }))
}

impl Balancer for MetaBalance {
    fn needs(&self) -> Needs {
        Needs::Slices
    }

    fn on_slices(&mut self) -> Option<&mut dyn OnSlices> {
        Some(self)
    }

    fn state(&self) -> Vec<f64> {
        self.norms.clone()
    }

    /// How many tensors there are is known at the first step, so only a multiple of the tasks is asked for here.
    fn restore(&mut self, state: &[f64]) -> Result<()> {
        restore_blocks(&mut self.norms, state, self.tasks)
    }
}

impl OnSlices for MetaBalance {
    fn direction(
        &mut self,
        signal: &Signal,
        slices: &Slices,
        _: &mut [&mut [f32]],
        direction: &mut [f32],
        sum: Sum,
    ) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        let (present, tasks) = (signal.present(), slices.tasks);
        let squares = self.squares(signal, slices, sum)?;
        self.average(&squares, &present)?;
        if let Some(weights) = alone(signal, slices, direction) {
            return Ok(weights);
        }
        for (tensor, range) in slices.tensors {
            for &task in &present {
                let factor = self.factor(*tensor, task, signal.present);
                add_scaled(&mut direction[range.clone()], factor, &slices.of(task)[range.clone()]);
            }
        }
        let whole = squares.len() / tasks - 1;
        let weight = |task| if signal.present[task] { self.factor(whole, task, signal.present) } else { 0.0 };
        Ok((0..tasks).map(weight).collect())
    }
}

impl MetaBalance {
    /// ‖g‖² by tensor and task over all ranks, and last of the whole gradients.
    fn squares(&self, signal: &Signal, slices: &Slices, sum: Sum) -> Result<Vec<f64>> {
        let tasks = slices.tasks;
        let mut squares = vec![0.0; slices.layers.len() * tasks];
        for (tensor, range) in slices.tensors {
            for task in 0..tasks {
                let part = &slices.of(task)[range.clone()];
                squares[tensor * tasks + task] += dot(part, part);
            }
        }
        sum(&mut squares)?;
        squares.extend((0..tasks).map(|task| signal.gram[task * tasks + task].max(0.0)));
        Ok(squares)
    }

    fn average(&mut self, squares: &[f64], present: &[usize]) -> Result<()> {
        fit(&mut self.norms, squares.len())?;
        let beta = self.options.beta;
        for (norms, squares) in self.norms.chunks_exact_mut(self.tasks).zip(squares.chunks_exact(self.tasks)) {
            for &task in present {
                norms[task] = beta * norms[task] + (1.0 - beta) * squares[task].sqrt();
            }
        }
        Ok(())
    }

    /// What a task's part of one tensor is multiplied by.
    fn factor(&self, tensor: usize, task: usize, present: &[bool]) -> f64 {
        let Self { target, options: Options { r, variant, .. }, .. } = *self;
        let norms = &self.norms[tensor * self.tasks..][..self.tasks];
        let applies = match variant {
            Variant::Both => true,
            Variant::Shrink => norms[task] > norms[target],
            Variant::Grow => norms[task] < norms[target],
        };
        // Without a target there is no magnitude to go to; a zero gradient has none to be changed.
        if task == target || !applies || !present[target] || norms[task] == 0.0 {
            return 1.0;
        }
        r * norms[target] / norms[task] + (1.0 - r)
    }
}

#[cfg(test)]
mod tests {
    use crate::balance::testing::{assert_close, method, sliced, try_method};

    #[test]
    fn auxiliary_gradients_take_the_targets_norm_in_each_tensor() {
        // `sliced` calls every coordinate a tensor of its own.
        let mut balancer = method("{kind: metabalance, r: 1}", 2);
        let (d, w) =
            sliced(balancer.as_mut(), &[vec![2.0, 1.0], vec![10.0, -0.5]], &[1.0, 1.0], &mut Vec::new(), &[true; 2]);
        assert_close(&d, &[4.0, 0.0], 1e-6);
        let whole = (5.0f64 / 100.25).sqrt();
        assert_close(&w, &[1.0, whole], 1e-6);
    }

    #[test]
    fn variants_only_shrink_or_only_grow() {
        let rows = [vec![2.0, 1.0], vec![10.0, -0.5]];
        let of = |variant: &str| {
            let mut balancer = method(&format!("{{kind: metabalance, r: 0.5, variant: {variant}}}"), 2);
            sliced(balancer.as_mut(), &rows, &[1.0, 1.0], &mut Vec::new(), &[true; 2]).0
        };
        assert_close(&of("shrink"), &[2.0 + 6.0, 0.5], 1e-6);
        assert_close(&of("grow"), &[12.0, 1.0 - 0.75], 1e-6);
        assert_close(&of("both"), &[8.0, 0.25], 1e-6);
    }

    #[test]
    fn r_zero_is_the_plain_sum_and_a_wrong_target_an_error() {
        let mut balancer = method("{kind: metabalance, r: 0}", 2);
        let (d, _) = sliced(balancer.as_mut(), &[vec![2.0], vec![10.0]], &[1.0, 1.0], &mut Vec::new(), &[true; 2]);
        assert_close(&d, &[12.0], 1e-6);
        assert!(try_method("{kind: metabalance, target: other}", 2).unwrap_err().to_string().contains("unknown task"));
    }
}
