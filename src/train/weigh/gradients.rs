//! Methods that look at shared gradients: one backward pass per task (and part of the batch, where a method wants several),
//! then weights from the Gram matrix of the global gradients, or from the gradients themselves.

use super::{Forward, Parts, Weighed, signal};
use crate::balance::{OnRows, Rows, Scope, Signal, gram};
use crate::comm::{Communicator, collectives};
use crate::embedding::{Lookup, RowGradients, TableGradients};
use crate::error::{Error, Result};
use crate::nn::Pass;
use crate::observe::Stage;
use crate::train::dense::{Reduced, not_finite};
use crate::train::leaves::LeafGradients;
use crate::train::losses::Start;
use candle_core::Tensor;

pub(super) fn weigh(mut parts: Parts, forward: &Forward, lookup: Lookup) -> Result<Weighed> {
    let tasks = forward.losses.starts.len();
    let rows = tasks * parts.balance.method.parts();
    let stages = parts.stages;
    parts.dense.begin(rows, parts.comm.size());
    let passes = stages.time(Stage::Backward, || one_by_one(&mut parts, forward))?;
    // What goes through the model's input is not known before the weights are, but starts from what is reduced here.
    let sound = passes.iter().all(|pass| forward.leaves.reached_finitely(&pass.grads));
    let reduced = stages.time(Stage::Reduce, || parts.dense.reduce(parts.comm, rows, sound))?;
    if parts.balance.scope == Some(Scope::SharedAndRows) {
        return with_rows(parts, forward, lookup, &passes, reduced);
    }
    let (weights, norm) = match parts.balance.method.on_slices() {
        Some(method) => stages.time(Stage::Balance, || {
            parts.dense.combine_by(parts.comm, method, &signal(forward, &reduced.gram, parts.seed), &reduced)
        })?,
        None => {
            let weights = parts.weights(forward, &reduced.gram)?;
            let norm = stages.time(Stage::Optimizer, || parts.dense.combine(&reduced, &weights));
            (weights, norm)
        }
    };
    // Only the weighted sum of the input's gradient is needed, so it is taken once, now that the weights are known.
    let leaves = stages.time(Stage::Backward, || weighted_leaves(forward, &passes, &weights))?;
    if !leaves.are_finite() {
        return Err(Error::numeric(
            "the gradient of the embedding rows is not finite, though that of what reads them is",
        )
        .fix("the embeddings or the first layer's weights are too large: lower the learning rates"));
    }
    let row_gradients = parts.collect(lookup, &[leaves])?;
    let (weights, gram) = (over_parts(&weights, tasks), gram_over_parts(&reduced.gram, tasks));
    Ok(Weighed { weights, compared: Some((Scope::Shared, gram)), norm, rows, row_gradients })
}

/// A backward pass for each part of the batch and each task, without what the model's input needs. Each fills its row of
/// the shared gradients.
fn one_by_one(parts: &mut Parts, forward: &Forward) -> Result<Vec<Pass>> {
    let pieces = parts.balance.method.parts();
    let rows = pieces * forward.losses.starts.len();
    // Of the gradients of rows either the weighted sum is wanted, or each.
    let summed = if parts.balance.scope == Some(Scope::SharedAndRows) { 1 } else { rows };
    let mut passes = Vec::with_capacity(rows);
    for piece in 0..pieces {
        for starts in &forward.losses.starts {
            let of_piece = |start: &Start| of_piece(&start.cotangent, forward, piece, pieces);
            let outputs =
                starts.iter().map(|start| Ok((&start.output, of_piece(start)?))).collect::<Result<Vec<_>>>()?;
            let pass = forward.graph.backward_one_of(summed, &outputs)?;
            parts.dense.put(parts.store, &pass.grads, (passes.len(), rows), (1.0, 1.0 / pieces as f64))?;
            passes.push(pass);
        }
    }
    Ok(passes)
}

/// The cotangent of the loss over those rows whose position in the global batch leaves the rest `piece`, times the
/// number of pieces: of each an unbiased estimate of the whole, and the whole is their mean.
fn of_piece(cotangent: &Tensor, forward: &Forward, piece: usize, pieces: usize) -> Result<Tensor> {
    if pieces == 1 {
        return Ok(cotangent.copy()?);
    }
    let slots = forward.batch.slots.iter();
    let share = |slot: &u32| if *slot as usize % pieces == piece { pieces as f32 } else { 0.0 };
    let mask: Vec<f32> = slots.map(share).collect();
    let mask = Tensor::from_vec(mask, (forward.batch.rows, 1), cotangent.device())?;
    Ok(cotangent.broadcast_mul(&mask)?)
}

/// The weight of each task over all parts of the batch.
fn over_parts(weights: &[f64], tasks: usize) -> Vec<f64> {
    (0..tasks).map(|task| weights.iter().skip(task).step_by(tasks).sum()).collect()
}

/// The Gram matrix of the whole batch's gradients, the means of its parts'.
fn gram_over_parts(gram: &[f64], tasks: usize) -> Vec<f64> {
    let side = gram.len().isqrt();
    let parts = (side / tasks.max(1)) as f64;
    let mut whole = vec![0.0; tasks * tasks];
    for (i, product) in gram.iter().enumerate() {
        whole[(i / side % tasks) * tasks + i % side % tasks] += product / (parts * parts);
    }
    whole
}

/// The leaves' gradients for Σ `weights[k]` L_k.
pub(super) fn weighted_leaves(forward: &Forward, passes: &[Pass], weights: &[f64]) -> Result<LeafGradients> {
    let weighted = || weights.iter().copied().zip(passes);
    let at_input: Vec<_> = weighted().map(|(w, pass)| (w, &pass.at_input)).collect();
    let at_input = forward.graph.backward_input(&at_input)?;
    let mut all: Vec<_> = weighted().map(|(w, pass)| (w, &pass.grads)).collect();
    all.push((1.0, &at_input));
    forward.leaves.gradients(&all)
}

/// `scope: shared+rows`: the rows' gradients go to their owners task by task, and their products into the Gram matrix.
fn with_rows(
    mut parts: Parts,
    forward: &Forward,
    lookup: Lookup,
    passes: &[Pass],
    reduced: Reduced,
) -> Result<Weighed> {
    let leaves = parts.stages.time(Stage::Backward, || {
        passes
            .iter()
            .map(|pass| weighted_leaves(forward, std::slice::from_ref(pass), &[1.0]))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut row_gradients = parts.collect(lookup, &leaves)?;
    let mut gram = gram_of_rows(&row_gradients);
    parts.stages.time(Stage::Reduce, || collectives::all_reduce_sum(parts.comm, &mut gram))?;
    gram.iter_mut().zip(&reduced.gram).for_each(|(rows, dense)| *rows += dense);
    if gram.iter().any(|product| !product.is_finite()) {
        return Err(not_finite());
    }
    let weights = match parts.balance.method.on_rows() {
        Some(method) => parts.stages.time(Stage::Balance, || {
            weigh_each_row(method, &signal(forward, &gram, parts.seed), parts.comm, &mut row_gradients)
        })?,
        None => {
            let weights = parts.weights(forward, &gram)?;
            row_gradients.weigh(&weights)?;
            weights
        }
    };
    let norm = parts.stages.time(Stage::Optimizer, || parts.dense.combine(&reduced, &weights));
    let compared = Some((Scope::SharedAndRows, gram));
    Ok(Weighed { rows: weights.len(), weights, compared, norm, row_gradients })
}

/// Lets the method combine every row's gradients; the weights for the dense parameters.
fn weigh_each_row(
    method: &mut dyn OnRows,
    signal: &Signal,
    comm: &dyn Communicator,
    gradients: &mut RowGradients,
) -> Result<Vec<f64>> {
    let sum = |values: &mut [f64]| collectives::all_reduce_sum(comm, values);
    gradients.combine(|tables| {
        let rows = |TableGradients { dim, values, left_alone }| Rows { dim, values, left_alone };
        let mut rows: Vec<Rows> = tables.into_iter().map(rows).collect();
        method.combine(signal, &mut rows, &sum)
    })
}

/// This rank's share: every row has one owner, so the products add up over ranks.
fn gram_of_rows(gradients: &RowGradients) -> Vec<f64> {
    let tasks = gradients.tasks();
    let mut sum = vec![0.0; tasks * tasks];
    for table in gradients.by_table().iter().filter(|rows| rows.len() == tasks) {
        sum.iter_mut().zip(gram::partial_of(table)).for_each(|(sum, part)| *sum += part);
    }
    sum
}
