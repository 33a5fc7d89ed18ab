//! Methods that look at the last shared representation: each task is pulled back through its own head, and the weighted
//! sum of the heads once through the trunk (MGDA-UB, Sener & Koltun 2018, for any method).
//!
//! The representation's gradients of different rows are different coordinates, and a row is on one rank only: so the
//! Gram matrix is a sum over ranks, exact without exchanging any gradient.

use super::gradients::weighted_leaves;
use super::{Forward, Parts, Weighed, signal};
use crate::balance::{OnRepresentation, Representation, Reused, gram};
use crate::comm::collectives;
use crate::embedding::Lookup;
use crate::error::Result;
use crate::nn::{Pass, Trunk, weighted_sum};
use crate::observe::Stage;
use crate::train::leaves::LeafGradients;
use crate::train::losses::Start;
use candle_core::Tensor;

pub(super) fn weigh(mut parts: Parts, forward: &Forward, lookup: Lookup) -> Result<Weighed> {
    let stages = parts.stages;
    parts.dense.begin(1, parts.comm.size());
    let trunk = trunk(forward)?;
    let heads = stages.time(Stage::Backward, || heads(forward, &trunk))?;
    let mut gram = gram_of(forward, &trunk, &heads)?;
    stages.time(Stage::Reduce, || collectives::all_reduce_sum(parts.comm, &mut gram))?;
    let weights = parts.weights(forward, &gram)?;
    let leaves = stages.time(Stage::Backward, || backward(&mut parts, forward, &trunk, heads, &weights))?;
    let reduced = stages.time(Stage::Reduce, || parts.dense.reduce(parts.comm, 1))?;
    let norm = stages.time(Stage::Optimizer, || parts.dense.combine(&reduced, &[1.0]));
    let row_gradients = parts.collect(lookup, &[leaves])?;
    Ok(Weighed { weights, gram, norm, rows: 1, row_gradients })
}

/// A step with the weights of an earlier one: the heads keep their own gradients, and the trunk is passed once.
pub(super) fn weigh_again(mut parts: Parts, forward: &Forward, lookup: Lookup, reused: Reused) -> Result<Weighed> {
    let Reused { mut weights, max_norm } = reused;
    let stages = parts.stages;
    parts.dense.begin(1, parts.comm.size());
    let trunk = trunk(forward)?;
    let mut leaves = stages.time(Stage::Backward, || {
        let heads = heads(forward, &trunk)?;
        backward(&mut parts, forward, &trunk, heads, &weights)
    })?;
    let reduced = stages.time(Stage::Reduce, || parts.dense.reduce(parts.comm, 1))?;
    // Of a single row the Gram matrix is the squared norm of the shared update.
    let shared = reduced.gram.iter().sum::<f64>().sqrt();
    let factor = max_norm.filter(|limit| shared > *limit).map_or(1.0, |limit| limit / shared);
    let norm = stages.time(Stage::Optimizer, || parts.dense.combine(&reduced, &[factor]));
    if factor != 1.0 {
        weights.iter_mut().for_each(|weight| *weight *= factor);
        leaves.scale(factor as f32);
    }
    let row_gradients = parts.collect(lookup, &[leaves])?;
    Ok(Weighed { weights, gram: Vec::new(), norm, rows: 1, row_gradients })
}

/// The weighted sum of the heads once through the trunk: fills the dense gradients, and returns the leaves'.
fn backward(
    parts: &mut Parts,
    forward: &Forward,
    trunk: &Trunk,
    heads: Vec<Pass>,
    weights: &[f64],
) -> Result<LeafGradients> {
    for (head, &weight) in heads.iter().zip(weights) {
        parts.dense.put(parts.store, &head.grads, (0, 1), (weight, 1.0))?;
    }
    let through = through_trunk(parts, forward, trunk, &heads, weights)?;
    parts.dense.put(parts.store, &through.grads, (0, 1), (1.0, 1.0))?;
    let mut passes = heads;
    passes.push(through);
    let all: Vec<f64> = weights.iter().copied().chain([1.0]).collect();
    weighted_leaves(forward, &passes, &all)
}

/// What two or more tasks' losses go back to.
fn trunk(forward: &Forward) -> Result<Trunk> {
    let starts = forward.losses.starts.iter();
    let outputs: Vec<Vec<&Tensor>> = starts.map(|starts| starts.iter().map(|start| &start.output).collect()).collect();
    forward.graph.trunk(&outputs)
}

fn heads(forward: &Forward, trunk: &Trunk) -> Result<Vec<Pass>> {
    let head = |starts: &Vec<Start>| {
        let outputs = starts.iter().map(|start| Ok((&start.output, start.cotangent.copy()?)));
        forward.graph.backward_head(trunk, &outputs.collect::<Result<Vec<_>>>()?)
    };
    forward.losses.starts.iter().map(head).collect()
}

/// This rank's share of the Gram matrix of the representation's gradients. A part of the representation that only one
/// task reads (its own experts) has nothing to compare.
fn gram_of(forward: &Forward, trunk: &Trunk, heads: &[Pass]) -> Result<Vec<f64>> {
    let shared = |z: &&Tensor| trunk.boundary().iter().any(|x| x.id() == z.id());
    let mut gram = vec![0.0; heads.len() * heads.len()];
    for z in forward.output.representation.iter().filter(shared) {
        let rows = heads.iter().map(|head| flat(head, z)).collect::<Result<Vec<Vec<f32>>>>()?;
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        gram.iter_mut().zip(gram::partial_of(&rows)).for_each(|(sum, part)| *sum += part);
    }
    Ok(gram)
}

/// A head's gradient of `z`; zeros if it does not read it.
fn flat(head: &Pass, z: &Tensor) -> Result<Vec<f32>> {
    match head.grads.get(z) {
        Some(gradient) => Ok(gradient.flatten_all()?.to_vec1()?),
        None => Ok(vec![0.0; z.elem_count()]),
    }
}

/// One backward pass of what the heads left at the end of the trunk: the weighted sum, or what the method makes of the
/// representation's.
fn through_trunk(parts: &Parts, forward: &Forward, trunk: &Trunk, heads: &[Pass], weights: &[f64]) -> Result<Pass> {
    let mut outputs = Vec::new();
    for z in trunk.boundary() {
        let tensor = forward.output.representation.iter().position(|part| part.id() == z.id());
        let gradient = match (parts.balance.method.on_representation(), tensor) {
            (Some(method), Some(tensor)) => Some(combined(parts, method, forward, heads, (tensor, z))?),
            _ => weighted(heads, weights, z)?,
        };
        outputs.extend(gradient.map(|gradient| (z, gradient)));
    }
    forward.graph.backward(&outputs)
}

/// The weighted sum of the heads' gradients of `z`, if any of them reads it.
fn weighted(heads: &[Pass], weights: &[f64], z: &Tensor) -> Result<Option<Tensor>> {
    let read = heads.iter().zip(weights).filter_map(|(head, &weight)| Some((weight as f32, head.grads.get(z)?)));
    let parts = read.map(|(weight, gradient)| Ok((weight, gradient.contiguous()?))).collect::<Result<Vec<_>>>()?;
    if parts.is_empty() {
        return Ok(None);
    }
    let parts: Vec<_> = parts.iter().map(|(weight, gradient)| (*weight, gradient)).collect();
    // A copy: a single gradient of weight 1 comes back as it is, and the pass may add to what it is given.
    Ok(Some(weighted_sum(&parts)?.copy()?))
}

/// What the method makes of the heads' gradients of the representation's part `z`.
fn combined(
    parts: &Parts,
    method: &dyn OnRepresentation,
    forward: &Forward,
    heads: &[Pass],
    (tensor, z): (usize, &Tensor),
) -> Result<Tensor> {
    let values: Vec<f32> = z.flatten_all()?.to_vec1()?;
    let gradients = heads.iter().map(|head| flat(head, z)).collect::<Result<Vec<Vec<f32>>>>()?;
    let gradients: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
    let width = values.len() / forward.batch.rows.max(1);
    let slots = &forward.batch.slots;
    let representation = Representation { values: &values, gradients: &gradients, width, slots, tensor };
    let mut out = vec![0.0; values.len()];
    method.combine(&signal(forward, &[], parts.seed), &representation, &mut out);
    Ok(Tensor::from_vec(out, z.dims(), z.device())?)
}
