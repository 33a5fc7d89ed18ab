//! Methods that look at losses only: weights first, then one backward pass of Σ w_k L_k.

use super::{Forward, Parts, Weighed, heads};
use crate::embedding::Lookup;
use crate::error::Result;
use crate::observe::Stage;

pub(super) fn weigh(mut parts: Parts, forward: &Forward, lookup: Lookup) -> Result<Weighed> {
    let weights = parts.weights(forward, &[])?;
    let compared = if forward.looks { heads::look(&parts, forward)? } else { None };
    let stages = parts.stages;
    parts.dense.begin(1, parts.comm.size());
    let leaves = stages.time(Stage::Backward, || {
        let starts = forward.losses.starts.iter().zip(&weights);
        let starts = starts.flat_map(|(starts, &weight)| starts.iter().map(move |start| (start, weight)));
        let outputs = starts
            .map(|(start, weight)| Ok((&start.output, (&start.cotangent * weight)?)))
            .collect::<Result<Vec<_>>>()?;
        let pass = forward.graph.backward(&outputs)?;
        parts.dense.put(parts.store, &pass.grads, (0, 1), (1.0, 1.0))?;
        let at_input = forward.graph.backward_input(&[(1.0, &pass.at_input)])?;
        forward.leaves.gradients(&[(1.0, &pass.grads), (1.0, &at_input)])
    })?;
    let reduced = stages.time(Stage::Reduce, || parts.dense.reduce(parts.comm, 1, leaves.are_finite()))?;
    let norm = stages.time(Stage::Optimizer, || parts.dense.combine(&reduced, &[1.0]));
    let row_gradients = parts.collect(lookup, &[leaves])?;
    Ok(Weighed { weights, compared, norm, rows: 1, row_gradients })
}
