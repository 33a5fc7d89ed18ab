//! What the losses of one rank's rows are summed up from: each task's logits, and the terms that the architecture adds.

use super::losses::{Start, TaskSpec};
use crate::data::batch::Batch;
use crate::error::{Error, Result};
use crate::model::{Output, Term, TermKind};
use crate::nn::Loss;
use candle_core::{Device, Tensor};

/// One summand of a task's loss, over this rank's rows: to be divided by the count over all ranks.
pub(super) struct Part {
    /// Number of the task.
    pub task: usize,
    /// Factor before the task's static weight.
    pub weight: f64,
    /// Σ weight · loss over the rows that count.
    pub sum: f64,
    /// Σ weight of those rows.
    pub count: f64,
    tensor: Tensor,
    /// ∂sum/∂tensor, row-major.
    gradient: Vec<f32>,
}

/// The tasks' own parts in order, then those of the terms in order: as many on every rank.
pub(super) fn parts(tasks: &[TaskSpec], output: &Output, batch: &Batch) -> Result<Vec<Part>> {
    let own = output.logits.iter().enumerate().map(|(task, logits)| labelled(tasks, task, logits, 1.0, batch));
    own.chain(output.terms.iter().map(|term| of_term(tasks, term, batch))).collect()
}

/// The task's loss on `logits`, over its labelled rows.
fn labelled(tasks: &[TaskSpec], task: usize, logits: &Tensor, weight: f64, batch: &Batch) -> Result<Part> {
    let target = &batch.targets[task];
    taken((task, weight), logits, tasks[task].loss, &target.label, &target.weight)
}

fn of_term(tasks: &[TaskSpec], term: &Term, batch: &Batch) -> Result<Part> {
    let (task, tensor, weight) = (term.task, &term.tensor, term.weight);
    let columns = match &term.kind {
        TermKind::Penalty => Some(1),
        TermKind::Label => tasks.get(task).map(|task| task.outputs),
        TermKind::Class { targets } => (targets.len() == batch.rows).then_some(tensor.dim(1)?),
    };
    if task >= tasks.len() || columns.is_none_or(|columns| tensor.dims() != [batch.rows, columns]) {
        let (found, rows) = (tensor.dims(), batch.rows);
        return Err(Error::internal(format!("a term of task {task} of shape {found:?} does not fit {rows} rows")));
    }
    match &term.kind {
        TermKind::Label => labelled(tasks, task, tensor, weight, batch),
        TermKind::Penalty => {
            let gradient: Vec<f32> = batch.present.iter().map(|&present| f32::from(u8::from(present))).collect();
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            let counted = values.iter().zip(&batch.present).filter(|(_, present)| **present);
            let sum = counted.map(|(&value, _)| f64::from(value)).sum();
            let count = gradient.iter().map(|&g| f64::from(g)).sum();
            Ok(Part { task, weight, sum, count, tensor: tensor.clone(), gradient })
        }
        TermKind::Class { targets } => {
            let classes: Vec<f32> = targets.iter().map(|class| class.unwrap_or(0) as f32).collect();
            let counts = targets.iter().zip(&batch.present).map(|(class, &present)| class.is_some() && present);
            let weights: Vec<f32> = counts.map(|counts| f32::from(u8::from(counts))).collect();
            taken((task, weight), tensor, Loss::CrossEntropy, &classes, &weights)
        }
    }
}

fn taken((task, weight): (usize, f64), tensor: &Tensor, loss: Loss, labels: &[f32], weights: &[f32]) -> Result<Part> {
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    let mut gradient = vec![0.0; values.len()];
    let sum = loss.with_gradient(&values, labels, weights, 1.0, &mut gradient);
    let count = weights.iter().map(|&weight| f64::from(weight)).sum();
    Ok(Part { task, weight, sum, count, tensor: tensor.clone(), gradient })
}

impl Part {
    /// Where the backward pass starts, for `scale` times the sum.
    pub fn start(mut self, scale: f64) -> Result<Start> {
        self.gradient.iter_mut().for_each(|g| *g = (f64::from(*g) * scale) as f32);
        let cotangent = Tensor::from_vec(self.gradient, self.tensor.dims(), &Device::Cpu)?;
        Ok(Start { output: self.tensor, cotangent })
    }

    /// The rows with a number that is not finite.
    pub fn bad_rows(&self) -> Result<Vec<usize>> {
        let values: Vec<f32> = self.tensor.flatten_all()?.to_vec1()?;
        let rows = values.chunks_exact(self.tensor.dim(1)?.max(1)).enumerate();
        Ok(rows.filter(|(_, row)| row.iter().any(|value| !value.is_finite())).map(|(row, _)| row).collect())
    }
}
