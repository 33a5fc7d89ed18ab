//! Methods that look at the last shared representation, or at the last shared layer's weights: each task is pulled back
//! through its own head, and the weighted sum of the heads once through the trunk (MGDA-UB, Sener & Koltun 2018, for any
//! method).
//!
//! The representation's gradients of different rows are different coordinates, and a row is on one rank only: so the
//! Gram matrix is a sum over ranks, exact without exchanging any gradient. Of the last layer's weights K gradients are
//! summed over ranks, and of no other layer more than one.

use super::gradients::weighted_leaves;
use super::heads::{Heads, flat};
use super::{Forward, Parts, Weighed, signal};
use crate::balance::{OnRepresentation, Representation, Reused, Scope};
use crate::embedding::Lookup;
use crate::error::Result;
use crate::nn::{Pass, weighted_sum};
use crate::observe::Stage;
use crate::train::leaves::LeafGradients;
use candle_core::Tensor;

pub(super) fn weigh(mut parts: Parts, forward: &Forward, lookup: Lookup, scope: Scope) -> Result<Weighed> {
    let heads = parts.stages.time(Stage::Backward, || Heads::new(forward, scope))?;
    let gram = heads.gram(&parts, forward, scope)?;
    let weights = parts.weights(forward, &gram)?;
    finish(parts, forward, lookup, heads, Reused { weights, max_norm: None }, Some((scope, gram)))
}

/// A step with the weights of an earlier one: the heads keep their own gradients, and the trunk is passed once.
pub(super) fn weigh_again(parts: Parts, forward: &Forward, lookup: Lookup, reused: Reused) -> Result<Weighed> {
    let scope = Scope::Representation;
    let heads = parts.stages.time(Stage::Backward, || Heads::new(forward, scope))?;
    let gram = match forward.looks {
        true => Some((scope, heads.gram(&parts, forward, scope)?)),
        false => None,
    };
    finish(parts, forward, lookup, heads, reused, gram)
}

/// The weighted sum of the heads through the trunk, to one gradient.
fn finish(
    mut parts: Parts,
    forward: &Forward,
    lookup: Lookup,
    heads: Heads,
    Reused { mut weights, max_norm }: Reused,
    compared: Option<(Scope, Vec<f64>)>,
) -> Result<Weighed> {
    let stages = parts.stages;
    parts.dense.begin(1, parts.comm.size());
    let mut leaves = stages.time(Stage::Backward, || backward(&mut parts, forward, heads, &weights))?;
    let reduced = stages.time(Stage::Reduce, || parts.dense.reduce(parts.comm, 1, leaves.are_finite()))?;
    // Of a single row the Gram matrix is the squared norm of the shared update.
    let shared = reduced.gram.iter().sum::<f64>().sqrt();
    let factor = max_norm.filter(|limit| shared > *limit).map_or(1.0, |limit| limit / shared);
    let norm = stages.time(Stage::Optimizer, || parts.dense.combine(&reduced, &[factor]));
    if factor != 1.0 {
        weights.iter_mut().for_each(|weight| *weight *= factor);
        leaves.scale(factor as f32);
    }
    let row_gradients = parts.collect(lookup, &[leaves])?;
    Ok(Weighed { weights, compared, norm, rows: 1, row_gradients })
}

/// Fills the dense gradients, and returns the leaves'.
fn backward(parts: &mut Parts, forward: &Forward, heads: Heads, weights: &[f64]) -> Result<LeafGradients> {
    for (head, &weight) in heads.passes.iter().zip(weights) {
        parts.dense.put(parts.store, &head.grads, (0, 1), (weight, 1.0))?;
    }
    let through = through_trunk(parts, forward, &heads, weights)?;
    parts.dense.put(parts.store, &through.grads, (0, 1), (1.0, 1.0))?;
    let mut passes = heads.passes;
    passes.push(through);
    let all: Vec<f64> = weights.iter().copied().chain([1.0]).collect();
    weighted_leaves(forward, &passes, &all)
}

/// One backward pass of what the heads left at the end of the trunk: the weighted sum, or what the method makes of the
/// representation's.
fn through_trunk(parts: &Parts, forward: &Forward, heads: &Heads, weights: &[f64]) -> Result<Pass> {
    let mut outputs = Vec::new();
    for z in heads.trunk.boundary() {
        let tensor = forward.output.representation.iter().position(|part| part.id() == z.id());
        let gradient = match (parts.balance.method.on_representation(), tensor) {
            (Some(method), Some(tensor)) => Some(combined(parts, method, forward, &heads.passes, (tensor, z))?),
            _ => weighted(&heads.passes, weights, z)?,
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
    let sum = weighted_sum(&parts)?;
    // A single gradient of weight 1 comes back as it is, and the pass may add to what it is given.
    Ok(Some(if parts.len() == 1 { sum.copy()? } else { sum }))
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
