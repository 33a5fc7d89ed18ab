//! The tasks' losses over the global batch, and the cotangents that start the backward passes.
//!
//! A loss with a mask divides by the *global* weight of its labelled rows, which no rank knows alone: each
//! rank sums its own rows, one all-reduce gives the totals, and only then are the cotangents scaled.

use crate::comm::{Communicator, collectives};
use crate::data::batch::Batch;
use crate::data::plan::Plan;
use crate::error::{Error, Result};
use crate::nn::Loss;
use candle_core::{Device, Tensor};

/// One task, as the step needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Its name.
    pub name: String,
    /// Its loss.
    pub loss: Loss,
    /// Logits a row.
    pub outputs: usize,
    /// Static weight.
    pub weight: f64,
}

/// The losses of one step.
#[derive(Debug, Clone)]
pub struct Losses {
    /// Mean loss of each task over its labelled rows of the global batch; 0 if there are none.
    pub means: Vec<f64>,
    /// Whether the task has a labelled row in the global batch.
    pub present: Vec<bool>,
    /// Whether a rank was asked to stop.
    pub stop: bool,
    /// ∂L_k/∂logits_k `[rows, outputs]`, static weight included.
    pub cotangents: Vec<Tensor>,
}

/// Computes this rank's losses from `logits` and combines them with the other ranks'. `stop` is this rank's
/// wish to stop after this step; it rides on the same message, so that all ranks agree on the step.
pub fn compute(
    comm: &dyn Communicator,
    tasks: &[TaskSpec],
    logits: &[Tensor],
    batch: &Batch,
    plan: &Plan,
    stop: bool,
) -> Result<Losses> {
    let k = tasks.len();
    let mut totals = vec![0.0; 2 * k + 1];
    let mut gradients = Vec::with_capacity(k);
    for (i, ((task, logits), target)) in tasks.iter().zip(logits).zip(&batch.targets).enumerate() {
        let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
        let mut gradient = vec![0.0; logits.len()];
        totals[i] = task.loss.with_gradient(&logits, &target.label, &target.weight, 1.0, &mut gradient);
        totals[k + i] = target.weight.iter().map(|&w| f64::from(w)).sum();
        gradients.push(gradient);
    }
    totals[2 * k] = f64::from(u8::from(stop));
    let local = totals[..k].to_vec();
    collectives::all_reduce_sum(comm, &mut totals)?;
    check_finite(comm, tasks, &local, &totals[..k], logits, (batch, plan))?;

    let mut losses =
        Losses { means: Vec::new(), present: Vec::new(), stop: totals[2 * k] > 0.0, cotangents: Vec::new() };
    for (i, (task, mut gradient)) in tasks.iter().zip(gradients).enumerate() {
        let (sum, weight) = (totals[i], totals[k + i]);
        let present = weight > 0.0;
        let scale = if present { task.weight / weight } else { 0.0 };
        gradient.iter_mut().for_each(|g| *g = (f64::from(*g) * scale) as f32);
        losses.means.push(sum * scale);
        losses.present.push(present);
        losses.cotangents.push(Tensor::from_vec(gradient, (batch.rows, task.outputs), &Device::Cpu)?);
    }
    Ok(losses)
}

/// Ends the run on a loss that is not finite, with the address of the first such row.
fn check_finite(
    comm: &dyn Communicator,
    tasks: &[TaskSpec],
    local: &[f64],
    global: &[f64],
    logits: &[Tensor],
    (batch, plan): (&Batch, &Plan),
) -> Result<()> {
    if global.iter().all(|l| l.is_finite()) {
        return Ok(());
    }
    let Some(i) = local.iter().position(|l| !l.is_finite()) else {
        return collectives::agree(comm, Ok(()));
    };
    let outputs = tasks[i].outputs;
    let values: Vec<f32> = logits[i].flatten_all()?.to_vec1()?;
    let row = values.chunks_exact(outputs).position(|row| row.iter().any(|v| !v.is_finite()));
    let error = Error::numeric(format!("the loss of task `{}` is not finite", tasks[i].name))
        .fix("lower the learning rates, set optimizer.clip_norm, or look for extreme values in the row named here");
    let error = match row.and_then(|row| batch.origin.get(row)) {
        Some(&origin) => plan.name_row(error, origin),
        None => error,
    };
    collectives::agree(comm, Err(error))
}
