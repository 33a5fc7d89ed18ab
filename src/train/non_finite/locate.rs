//! From numbers that are not finite to the task, the row and the feature that they come from. Nothing here is fast: it
//! is done once, when a step has failed.

use super::{Address, Finding, What};
use crate::comm::{Communicator, collectives};
use crate::data::batch::Batch;
use crate::data::plan::Plan;
use crate::error::{Error, Result};
use crate::model::InputSpec;
use crate::nn::{Floats, Graph, ParamStore};
use crate::train::leaves::Leaves;
use crate::train::losses::{Losses, Start, TaskSpec};
use candle_core::Tensor;
use std::ops::Range;

/// What a search reads, on one rank.
#[derive(Clone, Copy)]
pub struct Located<'a> {
    /// The ranks.
    pub comm: &'a dyn Communicator,
    /// The tasks.
    pub tasks: &'a [TaskSpec],
    /// Names of fields and sequences.
    pub spec: &'a InputSpec,
    /// The feature of each dense column.
    pub dense_names: &'a [String],
    /// What the model read.
    pub leaves: &'a Leaves,
    /// This rank's rows.
    pub batch: &'a Batch,
    /// Where they come from.
    pub plan: &'a Plan,
}

/// Where losses that are not finite come from. Where rows meet, as in a batch norm, one of them spoils all: of the rows of
/// all ranks it is the one with the largest input. Collective.
pub fn loss(at: Located, losses: &Losses) -> Result<Finding> {
    let mine = losses.bad.as_ref().map(|bad| {
        let mut largest: Option<(f32, usize)> = None;
        for &row in bad.rows.iter().filter(|&&row| at.batch.present.get(row) == Some(&true)) {
            let size = at.extreme_input(row)?.map_or(0.0, |(_, input)| size(input));
            if largest.is_none_or(|(most, _)| size > most) {
                largest = Some((size, row));
            }
        }
        let what = if bad.term { What::Term } else { What::Loss };
        at.finding(what, Some(bad.task), largest.map(|(_, row)| row), None)
    });
    let mut found: Option<Finding> = None;
    for other in all(at.comm, mine.transpose()?)?.into_iter().flatten() {
        if found.as_ref().is_none_or(|found| other.size() > found.size()) {
            found = Some(other);
        }
    }
    Ok(found.unwrap_or_else(|| Finding::nowhere(What::Loss, None)))
}

/// Where a gradient that is not finite comes from, though the losses are: the first task that has one, and the row that
/// has it alone, found by halving the rows of the global batch. Each try is one backward pass of all ranks, whose layers
/// may sum over them. Collective.
pub fn gradient(at: Located, graph: &Graph, store: &ParamStore, losses: &Losses) -> Result<Finding> {
    let (counts, _) = collectives::all_gather(at.comm, &[at.batch.rows as u64])?;
    let before: u64 = counts[..at.comm.rank()].iter().sum();
    let probe = |task: usize, rows: Range<u64>| {
        let local = |row: u64| row.saturating_sub(before).min(at.batch.rows as u64) as usize;
        let mine = local(rows.start)..local(rows.end);
        let bad = bad_gradient(at.leaves, graph, store, &losses.starts[task], mine)?;
        let bad =
            bad.map(|name| Finding { parameter: name, ..Finding::nowhere(What::Gradient, Some(task_name(at, task))) });
        first(at.comm, bad)
    };
    let whole_batch = 0..counts.iter().sum();
    for task in (0..at.tasks.len()).filter(|&task| !losses.starts[task].is_empty()) {
        let Some(whole) = probe(task, whole_batch.clone())? else { continue };
        let (mut low, mut high) = (whole_batch.start, whole_batch.end);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if probe(task, low..middle)?.is_some() { high = middle } else { low = middle }
        }
        // Where only the sum of many rows is too large, the halving ends at a row that is as good as any.
        let Some(alone) = probe(task, low..high)? else { return Ok(whole) };
        let mine = (before..before + at.batch.rows as u64)
            .contains(&low)
            .then(|| at.finding(What::Gradient, Some(task), Some((low - before) as usize), alone.parameter.clone()));
        return Ok(first(at.comm, mine.transpose()?)?.unwrap_or(alone));
    }
    Ok(Finding::nowhere(What::Gradient, None))
}

fn task_name(at: Located, task: usize) -> String {
    at.tasks[task].name.clone()
}

impl Finding {
    fn nowhere(what: What, task: Option<String>) -> Self {
        Self { what, task, parameter: None, feature: None, input: None, row: None }
    }

    /// Of its input.
    fn size(&self) -> f32 {
        self.input.as_ref().and_then(|input| input.parse().ok()).map_or(-1.0, size)
    }
}

impl Located<'_> {
    fn finding(
        self,
        what: What,
        task: Option<usize>,
        row: Option<usize>,
        parameter: Option<String>,
    ) -> Result<Finding> {
        let row = row.filter(|&row| self.batch.present.get(row) == Some(&true));
        let extreme = row.map(|row| self.extreme_input(row)).transpose()?.flatten();
        let (feature, input) = extreme.unzip();
        let address = row.map(|row| {
            let origin = self.batch.origin[row];
            let group = self.plan.row_groups[origin.row_group as usize];
            let file = self.plan.path(origin.row_group).to_string();
            Address { file, row_group: group.index, row: origin.row }
        });
        let task = task.map(|task| task_name(self, task));
        Ok(Finding { what, task, parameter, feature, input: input.map(|x| x.to_string()), row: address })
    }

    /// The feature with the largest input of a row; the first with one that is not finite.
    fn extreme_input(self, row: usize) -> Result<Option<(String, f32)>> {
        let input = &self.leaves.input;
        let mut largest: Option<(String, f32)> = None;
        let mut see = |name: &str, values: &[f32]| {
            for &value in values {
                if largest.as_ref().is_none_or(|(_, most)| size(value) > size(*most)) {
                    largest = Some((name.to_string(), value));
                }
            }
        };
        let pooled = row_of(&input.pooled, row)?;
        for field in &self.spec.fields {
            see(&field.name, &pooled[field.start..field.start + field.width]);
        }
        for (sequence, values) in self.spec.sequences.iter().zip(&input.sequences) {
            see(&sequence.name, &row_of(&values.values, row)?);
        }
        for (name, value) in self.dense_names.iter().zip(row_of(&input.dense, row)?) {
            see(name, &[value]);
        }
        Ok(largest)
    }
}

/// The numbers of one row of a leaf.
fn row_of(leaf: &Tensor, row: usize) -> Result<Vec<f32>> {
    Ok(leaf.get(row)?.flatten_all()?.to_vec1()?)
}

/// Whether the gradient of a task's loss over some of this rank's rows is not finite, and the name of the first parameter
/// of which it is not: none if it is that of the embedding rows.
fn bad_gradient(
    leaves: &Leaves,
    graph: &Graph,
    store: &ParamStore,
    starts: &[Start],
    rows: Range<usize>,
) -> Result<Option<Option<String>>> {
    let starts = starts.iter().map(|start| Ok((&start.output, of_rows(&start.cotangent, rows.clone())?)));
    let pass = graph.backward(&starts.collect::<Result<Vec<_>>>()?)?;
    let at_input = graph.backward_input(&[(1.0, &pass.at_input)])?;
    for (index, name) in store.names().iter().enumerate() {
        let mut finite = true;
        store.with_gradient(&pass.grads, index, |gradient| finite = gradient.iter().all(|g| g.is_finite()))?;
        if !finite {
            return Ok(Some(Some(name.clone())));
        }
    }
    let of_leaves = leaves.gradients(&[(1.0, &pass.grads), (1.0, &at_input)])?;
    Ok((!of_leaves.are_finite()).then_some(None))
}

/// A cotangent that is zero outside of some rows.
fn of_rows(cotangent: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    let contiguous = cotangent.contiguous()?;
    let mut values = Floats::of(&contiguous)?.to_vec();
    let width = values.len() / cotangent.dim(0)?.max(1);
    values[..rows.start * width].fill(0.0);
    values[rows.end * width..].fill(0.0);
    Ok(Tensor::from_vec(values, cotangent.dims(), cotangent.device())?)
}

/// The finding of the lowest rank that has one. Collective.
fn first(comm: &dyn Communicator, mine: Option<Finding>) -> Result<Option<Finding>> {
    Ok(all(comm, mine)?.into_iter().flatten().next())
}

/// The findings of all ranks. Collective.
fn all(comm: &dyn Communicator, mine: Option<Finding>) -> Result<Vec<Option<Finding>>> {
    let unread = |e: serde_json::Error| Error::internal(format!("a finding cannot be sent: {e}"));
    let message = serde_json::to_vec(&mine).map_err(unread)?;
    let messages = collectives::all_gather_messages(comm, &message)?;
    messages.iter().map(|message| serde_json::from_slice(message).map_err(unread)).collect()
}

/// How large an input is; one that is not finite is the largest.
fn size(input: f32) -> f32 {
    if input.is_finite() { input.abs() } else { f32::INFINITY }
}
