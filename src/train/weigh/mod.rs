//! From the tasks' losses to one update: backward passes, the exchange of gradients, the balancing method's weights.
//! What it costs depends on what the method looks at:
//!
//! | it looks at | backward passes | dense gradients summed over ranks | row gradients |
//! |---|---|---|---|
//! | losses ([`losses`]) | 1 | 1 | 1 |
//! | representation, or nothing new ([`representation`]) | K of the heads, 1 of the trunk | 1 | 1 |
//! | last shared layer ([`representation`]) | K of the heads and that layer, 1 of the rest | 1, of that layer K + 1 | 1 |
//! | shared gradients ([`gradients`]) | K, the input's once | K | 1 |
//! | shared gradients and rows ([`gradients`]) | K | K | K of the rows that several tasks touch |

mod gradients;
mod heads;
mod losses;
mod representation;

use super::dense::DensePart;
use super::leaves::{LeafGradients, Leaves};
use super::losses::Losses;
use crate::balance::{Balance, Needs, Scope, Signal};
use crate::comm::Communicator;
use crate::data::batch::Batch;
use crate::embedding::{BatchGradient, Embeddings, Lookup, RowGradients};
use crate::error::Result;
use crate::model::Output;
use crate::nn::{Graph, ParamStore};
use crate::observe::{Stage, Stages};

/// Where a run stands.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Steps taken before this one.
    pub step: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps planned in all.
    pub total_steps: u64,
}

impl Clock {
    /// The part of the planned steps that is done, from 0 to 1.
    pub fn progress(&self) -> f64 {
        self.step as f64 / self.total_steps.max(1) as f64
    }
}

/// What the backward passes of a step start from.
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    /// The operations that made the output.
    pub graph: &'a Graph,
    /// What the model read.
    pub leaves: &'a Leaves,
    /// What it gave.
    pub output: &'a Output,
    /// The losses of that.
    pub losses: &'a Losses,
    /// This rank's rows.
    pub batch: &'a Batch,
    /// Where the run stands.
    pub clock: Clock,
    /// Whether the tasks' gradients are to be compared for the log, where the method compares none.
    pub looks: bool,
}

/// What they give. The update direction of the dense parameters stands in the [`DensePart`].
pub struct Weighed {
    /// Weight of each task.
    pub weights: Vec<f64>,
    /// Which of the tasks' gradients were compared, and their row-major K × K Gram matrix; none if none were.
    pub compared: Option<(Scope, Vec<f64>)>,
    /// Global norm of the dense direction.
    pub norm: f64,
    /// Rows of dense gradients that were reduced.
    pub rows: usize,
    /// Gradients of the tables' rows at their owners, for the weighted sum of the tasks.
    pub row_gradients: RowGradients,
}

/// What a step weighs with.
pub struct Parts<'a> {
    /// Dense parameters' gradients and optimizer.
    pub dense: &'a mut DensePart,
    /// The tables.
    pub embeddings: &'a mut Embeddings,
    /// The dense parameters.
    pub store: &'a ParamStore,
    /// The method.
    pub balance: &'a mut Balance,
    /// Seed of the job.
    pub seed: u64,
    /// The ranks.
    pub comm: &'a dyn Communicator,
    /// Where the time goes.
    pub stages: &'a Stages,
}

/// Runs the backward passes that the job's balancing method needs, and weighs their gradients. Collective.
///
/// # Errors
/// Gradients that the method refuses, or a failed exchange.
pub fn weigh(parts: Parts, forward: &Forward, lookup: Lookup) -> Result<Weighed> {
    if matches!(forward.graph, Graph::Tape(_))
        && parts.balance.scope == Some(Scope::Shared)
        && let Some(reused) = parts.balance.method.reuse(&forward.losses.present)
    {
        return representation::weigh_again(parts, forward, lookup, reused);
    }
    match (parts.balance.method.needs(), parts.balance.scope) {
        (Needs::Losses, _) => losses::weigh(parts, forward, lookup),
        (_, Some(scope @ (Scope::Representation | Scope::LastLayer))) => {
            representation::weigh(parts, forward, lookup, scope)
        }
        _ => gradients::weigh(parts, forward, lookup),
    }
}

impl Parts<'_> {
    /// The method's weights from the losses, and the Gram matrix if it wants one.
    fn weights(&mut self, forward: &Forward, gram: &[f64]) -> Result<Vec<f64>> {
        let signal = signal(forward, gram, self.seed);
        self.stages.time(Stage::Balance, || self.balance.method.weights(&signal))
    }

    /// Brings the leaves' gradients to the owners of the rows.
    fn collect(&mut self, lookup: Lookup, leaves: &[LeafGradients]) -> Result<RowGradients> {
        let gradients: Vec<BatchGradient> =
            leaves.iter().map(|LeafGradients { pooled, sequences }| BatchGradient { pooled, sequences }).collect();
        self.stages.time(Stage::Exchange, || self.embeddings.collect(self.comm, lookup, &gradients))
    }
}

fn signal<'a>(forward: &Forward<'a>, gram: &'a [f64], seed: u64) -> Signal<'a> {
    let Losses { means, present, .. } = forward.losses;
    let Clock { step, steps_per_epoch, total_steps } = forward.clock;
    Signal { losses: means, present, gram, step, steps_per_epoch, total_steps, seed }
}
