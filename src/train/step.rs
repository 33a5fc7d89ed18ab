//! One training step: the heart of tandem.
//!
//! ```text
//!     ids ──dedup──► all-to-all ids ──► owners' rows ──all-to-all──► pooled rows E (a leaf)
//!     E, dense ──model──► logits z_k ──► losses L_k  (normalised by GLOBAL label counts)
//!     L_k ──backward, once per task──► g_k (shared), own_k (task's own), dE_k
//!     g_1..g_K ──reduce-scatter──► slices ──► partial Gram ──all-reduce K×K──► G
//!     G, L ──balancer──► weights w, the same on every rank
//!     Σ w_k g_k (slice) ──► optimizer on the slice ──all-gather──► parameters
//!     Σ w_k dE_k ──dedup──► all-to-all ──► owners: sum duplicates, sparse optimizer
//! ```
//!
//! A method that needs only losses takes one backward pass of Σ w_k L_k: the same path with one row.

use super::context::{Kind, context};
use super::dense::{DensePart, Reduced};
use super::leaves::{LeafGradients, Leaves};
use super::losses::{self, Losses, TaskSpec};
use crate::balance::{Balancer, Needs, Signal};
use crate::comm::{Comm, Communicator};
use crate::data::batch::Batch;
use crate::data::plan::Plan;
use crate::embedding::{Embeddings, Mode};
use crate::error::{Error, Result};
use crate::model::{InputSpec, Model, Output};
use crate::nn::{Graph, Kernels, ParamStore, Precision};
use crate::observe::{Stage, Stages};

/// Everything that a step changes or reads, on one rank.
pub struct Trainable {
    /// Tables of which this rank owns some buckets.
    pub embeddings: Embeddings,
    /// Dense parameters, whole on every rank.
    pub store: ParamStore,
    /// The architecture.
    pub model: Box<dyn Model>,
    /// What it is fed.
    pub spec: InputSpec,
    /// The tasks, in order.
    pub tasks: Vec<TaskSpec>,
    /// Optimizer of the dense parameters.
    pub dense: DensePart,
    /// Balancing method.
    pub balancer: Box<dyn Balancer>,
    /// Seed of the job.
    pub seed: u64,
    /// What computes the layers.
    pub kernels: Kernels,
    /// Of the matrix products of a step.
    pub precision: Precision,
}

/// What one step is given on one rank.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// This rank's rows.
    pub batch: &'a Batch,
    /// Where they come from, for messages.
    pub plan: &'a Plan,
    /// Steps taken before this one.
    pub step: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Learning-rate factor of the schedule.
    pub lr_factor: f64,
    /// This rank's wish to stop after this step.
    pub stop: bool,
}

/// What a step reports; the same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Mean loss of each task over the global batch, static weight included.
    pub losses: Vec<f64>,
    /// Whether each task has a labelled row in the global batch.
    pub present: Vec<bool>,
    /// Weight that the balancer gave each task.
    pub weights: Vec<f64>,
    /// K × K Gram matrix of the global shared gradients; empty for methods that need only losses.
    pub gram: Vec<f64>,
    /// Norm of the dense update direction before clipping.
    pub grad_norm: f64,
    /// Whether a rank was asked to stop.
    pub stop: bool,
}

impl Trainable {
    /// Takes one step. Collective.
    pub fn step(&mut self, comm: &Comm, input: &StepInput, stages: &Stages) -> Result<StepReport> {
        let &StepInput { batch, plan, step, steps_per_epoch, lr_factor, stop } = input;
        let mut lookup = stages.time(Stage::Exchange, || {
            self.embeddings.lookup(comm.as_ref(), &batch.ids, batch.rows, Mode::Train { step })
        })?;
        let leaves = Leaves::new(batch, &mut lookup, &self.spec)?;
        let context = context(comm, batch, Kind::Train(self.kernels, self.precision), self.seed, step)?;
        let output = stages.time(Stage::Forward, || self.model.forward(&leaves.input, &context))?;
        let losses = stages
            .time(Stage::Forward, || losses::compute(comm.as_ref(), &self.tasks, &output.logits, batch, plan, stop))
            .map_err(|error| error.at("after step", step))?;
        let pass =
            Forward { graph: &context.graph, leaves: &leaves, output: &output, losses: &losses, step, steps_per_epoch };
        let Weighed { weights, reduced, gram, leaf_gradients } = match self.balancer.needs() {
            Needs::Gram => self.weigh_gradients(comm.as_ref(), &pass, stages)?,
            Needs::Losses => self.weigh_losses(comm.as_ref(), &pass, stages)?,
        };
        // Already weighted gradients stand in a single row, whose weight is 1.
        let row_weights: &[f64] = if gram { &weights } else { &[1.0] };
        let grad_norm = stages.time(Stage::Optimizer, || {
            let lr = self.dense.lr() * lr_factor;
            self.dense.apply(comm.as_ref(), &self.store, &reduced, row_weights, lr)
        })?;
        stages.time(Stage::Exchange, || {
            let LeafGradients { pooled, sequences } = leaf_gradients;
            self.embeddings.update(comm.as_ref(), lookup, &pooled, &sequences, lr_factor)
        })?;
        let gram = if gram { reduced.gram } else { Vec::new() };
        Ok(StepReport { losses: losses.means, present: losses.present, weights, gram, grad_norm, stop: losses.stop })
    }

    /// Weights from the losses, then one backward pass of the weighted sum.
    fn weigh_losses(&mut self, comm: &dyn Communicator, pass: &Forward, stages: &Stages) -> Result<Weighed> {
        let weights = self.balance(pass, &[], stages)?;
        self.dense.begin(1, comm.size());
        let leaf_gradients = stages.time(Stage::Backward, || {
            let outputs = pass.output.logits.iter().zip(&pass.losses.cotangents).zip(&weights);
            let outputs = outputs
                .map(|((logits, cotangent), &weight)| Ok((logits, (cotangent * weight)?)))
                .collect::<Result<Vec<_>>>()?;
            let backward = pass.graph.backward(&outputs)?;
            self.dense.put(&self.store, &backward.grads, 0, 1)?;
            let at_input = pass.graph.backward_input(&[(1.0, &backward.at_input)])?;
            pass.leaves.gradients(&[(1.0, &backward.grads), (1.0, &at_input)])
        })?;
        let reduced = stages.time(Stage::Reduce, || self.dense.reduce(comm, 1))?;
        Ok(Weighed { weights, reduced, gram: false, leaf_gradients })
    }

    /// One backward pass per task, then weights from the Gram matrix of the global gradients. The input's
    /// gradient is needed only for the weighted sum, so it is taken once, at the end.
    fn weigh_gradients(&mut self, comm: &dyn Communicator, pass: &Forward, stages: &Stages) -> Result<Weighed> {
        let rows = self.tasks.len();
        self.dense.begin(rows, comm.size());
        let backward = stages.time(Stage::Backward, || {
            let mut all = Vec::with_capacity(rows);
            for (row, (logits, cotangent)) in pass.output.logits.iter().zip(&pass.losses.cotangents).enumerate() {
                let backward = pass.graph.backward(&[(logits, cotangent.copy()?)])?;
                self.dense.put(&self.store, &backward.grads, row, rows)?;
                all.push(backward);
            }
            Ok::<_, Error>(all)
        })?;
        let reduced = stages.time(Stage::Reduce, || self.dense.reduce(comm, rows))?;
        let weights = self.balance(pass, &reduced.gram, stages)?;
        let leaf_gradients = stages.time(Stage::Backward, || {
            let weighted = || weights.iter().copied().zip(&backward);
            let at_input: Vec<_> = weighted().map(|(w, pass)| (w, &pass.at_input)).collect();
            let at_input = pass.graph.backward_input(&at_input)?;
            let mut passes: Vec<_> = weighted().map(|(w, pass)| (w, &pass.grads)).collect();
            passes.push((1.0, &at_input));
            pass.leaves.gradients(&passes)
        })?;
        Ok(Weighed { weights, reduced, gram: true, leaf_gradients })
    }

    fn balance(&mut self, pass: &Forward, gram: &[f64], stages: &Stages) -> Result<Vec<f64>> {
        let Losses { means, present, .. } = pass.losses;
        let &Forward { step, steps_per_epoch, .. } = pass;
        let signal = Signal { losses: means, present, gram, step, steps_per_epoch, seed: self.seed };
        stages.time(Stage::Balance, || self.balancer.weights(&signal))
    }

    /// Logits of `batch` in evaluation mode: no dropout, no new rows, running moments. Collective.
    pub fn infer(&mut self, comm: &Comm, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let mut lookup = self.embeddings.lookup(comm.as_ref(), &batch.ids, batch.rows, Mode::Evaluate)?;
        let leaves = Leaves::new(batch, &mut lookup, &self.spec)?;
        let output =
            self.model.forward(&leaves.input, &context(comm, batch, Kind::Infer(self.kernels), self.seed, 0)?)?;
        output.logits.iter().map(|logits| Ok(logits.flatten_all()?.to_vec1()?)).collect()
    }
}

/// What the backward passes of a step start from.
struct Forward<'a> {
    graph: &'a Graph,
    leaves: &'a Leaves,
    output: &'a Output,
    losses: &'a Losses,
    step: u64,
    steps_per_epoch: u64,
}

/// What they give.
struct Weighed {
    /// Weight of each task.
    weights: Vec<f64>,
    /// Gradients of the dense parameters, summed over ranks: one row per task, or one in all.
    reduced: Reduced,
    /// Whether there is one row per task.
    gram: bool,
    /// Gradients of the embedding leaves for the weighted sum of the tasks.
    leaf_gradients: LeafGradients,
}
