//! The tasks' losses over the global batch, and the cotangents that start the backward passes.
//!
//! A loss with a mask divides by the *global* weight of its labelled rows, which no rank knows alone: each
//! rank sums its own rows, one all-reduce gives the totals, and only then are the cotangents scaled. What an
//! architecture adds to a task's loss ([`crate::model::Term`]) is summed and divided in the same message.

use super::loss_parts::{Part, parts};
use crate::comm::{Communicator, collectives};
use crate::data::batch::Batch;
use crate::error::Result;
use crate::model::Output;
use crate::nn::Loss;
use candle_core::Tensor;

/// One task, as the step needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Its name.
    pub name: String,
    /// Its loss.
    pub loss: Loss,
    /// Logits a row.
    pub outputs: usize,
    /// Static weight; a task of weight 0 is evaluated and predicted, but not trained.
    pub weight: f64,
    /// Whether its loss reaches anything that is not frozen.
    pub reaches: bool,
}

impl TaskSpec {
    /// Whether the task has a loss, and that something to change.
    pub fn trained(&self) -> bool {
        self.weight > 0.0 && self.reaches
    }
}

/// What a rank asks all ranks for. It rides on the message of the losses, so that all agree on the step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asks {
    /// To stop after this step.
    pub stop: bool,
    /// To wait with the checkpoint that is being written: this rank's files are not on the disk.
    pub wait: bool,
}

/// The losses of one step.
#[derive(Debug, Clone)]
pub struct Losses {
    /// Loss of each task over the global batch: the mean over its labelled rows and the terms that the architecture
    /// adds, times the static weight. 0 if the task takes no part.
    pub means: Vec<f64>,
    /// The mean over the labelled rows alone, without terms and static weight; 0 if there are none.
    pub plain: Vec<f64>,
    /// Whether the task takes part: it is trained, and has a labelled row in the global batch.
    pub present: Vec<bool>,
    /// What any rank asks for.
    pub asks: Asks,
    /// Whether the losses of the global batch are finite. Else the rest means nothing.
    pub finite: bool,
    /// What of this rank's rows is not, if anything.
    pub bad: Option<BadLoss>,
    /// Where each task's backward pass starts; nowhere for a task that is not trained.
    pub starts: Vec<Vec<Start>>,
}

/// A loss over this rank's rows that is not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLoss {
    /// Number of the task.
    pub task: usize,
    /// Whether it is a term that the architecture adds.
    pub term: bool,
    /// The rows with a number that is not finite.
    pub rows: Vec<usize>,
}

/// A tensor that a task's loss is taken of, and the gradient of the loss by it, static weight included.
#[derive(Debug, Clone)]
pub struct Start {
    /// The logits, or the tensor of a term.
    pub output: Tensor,
    /// Of the same shape.
    pub cotangent: Tensor,
}

/// Computes this rank's losses from what the model gave and combines them with the other ranks'; what any of them asks for
/// is asked by all. So do numbers that are not finite travel: a sum that one is added to is none on any rank.
pub fn compute(
    comm: &dyn Communicator,
    tasks: &[TaskSpec],
    output: &Output,
    batch: &Batch,
    asks: Asks,
) -> Result<Losses> {
    let parts = parts(tasks, output, batch)?;
    let mut totals: Vec<f64> = parts.iter().flat_map(|part| [part.sum, part.count]).collect();
    totals.extend([asks.stop, asks.wait].map(|asked| f64::from(u8::from(asked))));
    collectives::all_reduce_sum(comm, &mut totals)?;
    let mut asked = || totals.pop().is_some_and(|ranks| ranks > 0.0);
    let asks = Asks { wait: asked(), stop: asked() };
    let totals: Vec<(f64, f64)> = totals.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let finite = totals.iter().all(|(sum, count)| sum.is_finite() && count.is_finite());

    let k = tasks.len();
    let mut losses = Losses {
        means: vec![0.0; k],
        plain: totals[..k].iter().map(|&(sum, count)| if count > 0.0 { sum * (1.0 / count) } else { 0.0 }).collect(),
        present: tasks.iter().zip(&totals).map(|(task, &(_, count))| task.trained() && count > 0.0).collect(),
        asks,
        finite,
        bad: if finite { None } else { bad_loss(&parts, k)? },
        starts: vec![Vec::new(); k],
    };
    for (part, (sum, count)) in parts.into_iter().zip(totals) {
        let k = part.task;
        if !tasks[k].trained() {
            continue;
        }
        let counts = losses.present[k] && count > 0.0;
        let scale = if counts { tasks[k].weight * part.weight / count } else { 0.0 };
        losses.means[k] += sum * scale;
        losses.starts[k].push(part.start(scale)?);
    }
    Ok(losses)
}

/// The first part of this rank that is not finite.
fn bad_loss(parts: &[Part], tasks: usize) -> Result<Option<BadLoss>> {
    let Some(i) = parts.iter().position(|part| !part.sum.is_finite()) else { return Ok(None) };
    Ok(Some(BadLoss { task: parts[i].task, term: i >= tasks, rows: parts[i].bad_rows()? }))
}

#[cfg(test)]
mod tests;
