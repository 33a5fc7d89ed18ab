//! Each task pulled back through its own head, and what can be compared there.

use super::{Forward, Parts};
use crate::balance::{Scope, gram};
use crate::comm::collectives;
use crate::error::Result;
use crate::nn::{Graph, Pass, Trunk};
use crate::observe::Stage;
use crate::train::dense::not_finite;
use crate::train::losses::Start;
use candle_core::Tensor;

/// One backward pass a task, down to where the trunk begins.
pub(super) struct Heads {
    /// What is left to be passed, once for all tasks.
    pub trunk: Trunk,
    /// By task.
    pub passes: Vec<Pass>,
    /// Of `scope: last_layer`: the matrices of the last shared layer, which the heads passed too.
    layer: Vec<Tensor>,
}

impl Heads {
    /// Runs the passes. With [`Scope::LastLayer`] the last shared layer counts among the heads.
    pub fn new(forward: &Forward, scope: Scope) -> Result<Self> {
        let starts = forward.losses.starts.iter();
        let outputs: Vec<Vec<&Tensor>> =
            starts.map(|starts| starts.iter().map(|start| &start.output).collect()).collect();
        let (trunk, layer) = match scope {
            Scope::LastLayer => forward.graph.without_last_layer(&outputs, &forward.output.representation)?,
            _ => (forward.graph.trunk(&outputs)?, Vec::new()),
        };
        let head = |starts: &Vec<Start>| {
            let outputs = starts.iter().map(|start| Ok((&start.output, start.cotangent.copy()?)));
            forward.graph.backward_head(&trunk, &outputs.collect::<Result<Vec<_>>>()?)
        };
        let passes = forward.losses.starts.iter().map(head).collect::<Result<_>>()?;
        Ok(Self { trunk, passes, layer })
    }

    /// The Gram matrix of the global gradients: of the last layer's matrices where that is what was asked for, else of
    /// the representation. Collective.
    pub fn gram(&self, parts: &Parts, forward: &Forward, scope: Scope) -> Result<Vec<f64>> {
        let mut gram = match scope {
            Scope::LastLayer => self.gram_of_layer(parts)?,
            _ => self.gram_of_representation(forward)?,
        };
        parts.stages.time(Stage::Reduce, || collectives::all_reduce_sum(parts.comm, &mut gram))?;
        match gram.iter().all(|product| product.is_finite()) {
            true => Ok(gram),
            false => Err(not_finite()),
        }
    }

    /// The parts of the representation at which tasks meet. A part that only one task reads (its own experts) has
    /// nothing to compare.
    fn meeting<'a>(&'a self, forward: &'a Forward) -> impl Iterator<Item = &'a Tensor> {
        let shared = move |z: &&Tensor| self.trunk.boundary().iter().any(|x| x.id() == z.id());
        forward.output.representation.iter().filter(shared)
    }

    /// This rank's share: the representation's gradients of different rows are different coordinates.
    fn gram_of_representation(&self, forward: &Forward) -> Result<Vec<f64>> {
        let mut gram = vec![0.0; self.passes.len() * self.passes.len()];
        for z in self.meeting(forward) {
            let rows = self.passes.iter().map(|head| flat(head, z)).collect::<Result<Vec<Vec<f32>>>>()?;
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            gram.iter_mut().zip(gram::partial_of(&rows)).for_each(|(sum, part)| *sum += part);
        }
        Ok(gram)
    }

    /// This rank's share: its slice of the layer's gradients, which are summed over ranks before they are compared.
    fn gram_of_layer(&self, parts: &Parts) -> Result<Vec<f64>> {
        let (tasks, ranks) = (self.passes.len(), parts.comm.size());
        let len: usize = self.layer.iter().map(Tensor::elem_count).sum();
        let slice = len.div_ceil(ranks);
        // By rank, and then by task.
        let mut send = vec![0.0; ranks * tasks * slice];
        for (task, head) in self.passes.iter().enumerate() {
            let gradients = self.layer.iter().map(|weight| flat(head, weight)).collect::<Result<Vec<_>>>()?.concat();
            for (rank, part) in gradients.chunks(slice.max(1)).enumerate() {
                send[(rank * tasks + task) * slice..][..part.len()].copy_from_slice(part);
            }
        }
        let mut own = vec![0.0; tasks * slice];
        let wire = parts.dense.wire();
        parts.stages.time(Stage::Reduce, || collectives::reduce_scatter_sum(parts.comm, wire, &send, &mut own))?;
        Ok(gram::partial(&own, tasks))
    }
}

/// The Gram matrix of the representation's gradients, for a step whose method did not look at any: nothing where there is
/// no representation at which tasks meet, or no tape to find it on. Collective.
pub(super) fn look(parts: &Parts, forward: &Forward) -> Result<Option<(Scope, Vec<f64>)>> {
    if forward.losses.starts.len() < 2 || !matches!(forward.graph, Graph::Tape(_)) {
        return Ok(None);
    }
    let heads = parts.stages.time(Stage::Balance, || Heads::new(forward, Scope::Representation))?;
    if heads.meeting(forward).next().is_none() {
        return Ok(None);
    }
    let gram = heads.gram(parts, forward, Scope::Representation)?;
    Ok(Some((Scope::Representation, gram)))
}

/// A head's gradient of `x`; zeros if it does not read it.
pub(super) fn flat(head: &Pass, x: &Tensor) -> Result<Vec<f32>> {
    match head.grads.get(x) {
        Some(gradient) => Ok(gradient.flatten_all()?.to_vec1()?),
        None => Ok(vec![0.0; x.elem_count()]),
    }
}
