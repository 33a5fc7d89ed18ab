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
//! The first line's ids have left during the step before ([`Embeddings::announce`]): so it waits for the rows alone.
//!
//! That is the way of a method that compares shared gradients; `weigh` has the others.

use super::context::{Kind, context};
use super::dense::DensePart;
use super::leaves::Leaves;
pub use super::losses::Asks;
use super::losses::{self, Losses, TaskSpec};
use super::non_finite::{self, Finding, Located, Refused};
use super::row_classes::RowClasses;
pub use super::weigh::Clock;
use super::weigh::{self, Forward, Parts, Weighed};
use crate::balance::{Balance, Scope};
use crate::comm::Comm;
use crate::data::batch::Batch;
use crate::data::plan::Plan;
use crate::embedding::{Embeddings, Lookup, Mode};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::model::{Input, InputSpec, Model};
use crate::nn::{Buffer, Context, Kernels, ParamStore, Precision};
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
    /// The feature of each dense column of that.
    pub dense_names: Vec<String>,
    /// The tasks, in order.
    pub tasks: Vec<TaskSpec>,
    /// Optimizer of the dense parameters.
    pub dense: DensePart,
    /// Balancing method, and the gradients that it compares.
    pub balance: Balance,
    /// Seed of the job.
    pub seed: u64,
    /// What computes the layers.
    pub kernels: Kernels,
    /// Of the matrix products of a step.
    pub precision: Precision,
    /// Classes of the training rows, where the model asks for them.
    pub row_classes: Option<RowClasses>,
}

/// What one step is given on one rank.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// This rank's rows.
    pub batch: &'a Batch,
    /// Those of the next step, if they are at hand: their ids travel while this step computes.
    pub next: Option<&'a Batch>,
    /// Where the rows come from, for messages.
    pub plan: &'a Plan,
    /// Where the run stands.
    pub clock: Clock,
    /// Learning-rate factor of the schedule.
    pub lr_factor: f64,
    /// What this rank asks for.
    pub asks: Asks,
    /// Whether to compare the tasks' gradients for the log, where the balancing method does not. The same on every rank;
    /// changes no bit of what is trained.
    pub looks: bool,
}

/// What a step reports; the same on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Loss of each task over the global batch, with the architecture's terms and the static weight.
    pub losses: Vec<f64>,
    /// Mean loss of each task over its labelled rows, without terms and static weight.
    pub plain: Vec<f64>,
    /// Whether each task is trained and has a labelled row in the global batch.
    pub present: Vec<bool>,
    /// Weight that the balancer gave each task.
    pub weights: Vec<f64>,
    /// Which of the tasks' gradients were compared, and the K × K Gram matrix of these, of the global batch.
    pub compared: Option<(Scope, Vec<f64>)>,
    /// Norm of the dense update direction before clipping.
    pub grad_norm: f64,
    /// What any rank asks for.
    pub asks: Asks,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Stepped {
    /// It was taken.
    Taken(StepReport),
    /// Its numbers were not finite, and no parameter was changed.
    Refused(Refused),
}

/// What a step changes before its numbers are known to be finite; not the rows that it gives to new ids, which depend on
/// their ids alone.
struct Before {
    /// Running moments.
    buffers: Vec<Vec<f32>>,
    balance: Vec<f64>,
}

impl Trainable {
    /// Takes one step, unless its numbers are not finite. Collective.
    pub fn step(&mut self, comm: &Comm, input: &StepInput, stages: &Stages) -> Result<Stepped> {
        let &StepInput { batch, next, clock, lr_factor, asks, looks, .. } = input;
        let step = clock.step;
        let before = self.before();
        let mut lookup = stages.time(Stage::Exchange, || {
            let found = self.embeddings.lookup(comm.as_ref(), &batch.ids, batch.rows, Mode::Train { step })?;
            if let Some(next) = next {
                self.embeddings.announce(comm.as_ref(), &next.ids, next.rows, step + 1)?;
            }
            Ok::<_, Error>(found)
        })?;
        let mut leaves = self.leaves(batch, &mut lookup)?;
        // Wide layers in bf16 multiply every row.
        if !self.precision.rounds() {
            leaves.input.repeats = self.embeddings.repeats(&lookup).into();
        }
        let context = context(comm, batch, Kind::Train(self.kernels, self.precision), self.seed, step)?;
        let context = Context { progress: clock.progress(), ..context };
        let output = stages.time(Stage::Forward, || self.model.forward(&leaves.input, &context))?;
        let losses = stages
            .time(Stage::Forward, || losses::compute(comm.as_ref(), &self.tasks, &output, batch, asks))
            .map_err(|error| error.at("after step", step))?;
        if !losses.finite {
            let finding = non_finite::loss(self.located(comm, input, &leaves), &losses)?;
            return self.refuse(before, finding, losses.asks);
        }
        let forward =
            Forward { graph: &context.graph, leaves: &leaves, output: &output, losses: &losses, batch, clock, looks };
        let Self { dense, embeddings, store, balance, seed, .. } = self;
        let parts = Parts { dense, embeddings, store, balance, seed: *seed, comm: comm.as_ref(), stages };
        let weighed = match weigh::weigh(parts, &forward, lookup) {
            Err(error) if error.kind() == ErrorKind::Numeric && error.is_agreed() => {
                let at = self.located(comm, input, &leaves);
                let finding = non_finite::gradient(at, &context.graph, &self.store, &losses)?;
                return self.refuse(before, finding, losses.asks);
            }
            weighed => weighed?,
        };
        let Weighed { weights, compared, norm, rows, row_gradients } = weighed;
        stages.time(Stage::Optimizer, || {
            let lr = self.dense.lr() * lr_factor;
            self.dense.apply(comm.as_ref(), &self.store, (rows, norm), lr)
        })?;
        stages.time(Stage::Exchange, || self.embeddings.apply(row_gradients, lr_factor))?;
        let Losses { means, plain, present, asks, .. } = losses;
        if self.balance.method.looks_back() {
            let after = stages.time(Stage::Forward, || self.look_again(comm, input))?;
            self.balance.method.look_back(&after.means, &present)?;
        }
        Ok(Stepped::Taken(StepReport { losses: means, plain, present, weights, compared, grad_norm: norm, asks }))
    }

    fn before(&self) -> Before {
        let buffers = self.store.buffers().iter().map(Buffer::get).collect();
        Before { buffers, balance: self.balance.method.state() }
    }

    /// Leaves everything that is trained as it was before the step.
    fn refuse(&mut self, before: Before, finding: Finding, asks: Asks) -> Result<Stepped> {
        for (buffer, values) in self.store.buffers().iter().zip(&before.buffers) {
            buffer.set(values)?;
        }
        self.balance.method.restore(&before.balance)?;
        Ok(Stepped::Refused(Refused { finding, asks }))
    }

    fn located<'a>(&'a self, comm: &'a Comm, input: &StepInput<'a>, leaves: &'a Leaves) -> Located<'a> {
        let Self { tasks, spec, dense_names, .. } = self;
        let &StepInput { batch, plan, .. } = input;
        Located { comm: comm.as_ref(), tasks, spec, dense_names, leaves, batch, plan }
    }

    /// The leaves of a batch of training rows.
    fn leaves(&self, batch: &Batch, lookup: &mut Lookup) -> Result<Leaves> {
        let mut leaves = Leaves::new(batch, lookup, &self.spec)?;
        if let Some(classes) = &self.row_classes {
            leaves.input.classes = classes.of(batch);
        }
        Ok(leaves)
    }

    /// The losses of the same batch after the step, for methods that compare the two.
    fn look_again(&mut self, comm: &Comm, input: &StepInput) -> Result<Losses> {
        let &StepInput { batch, clock, .. } = input;
        let step = clock.step;
        let mut lookup = self.embeddings.lookup(comm.as_ref(), &batch.ids, batch.rows, Mode::Evaluate)?;
        let leaves = self.leaves(batch, &mut lookup)?;
        let context = context(comm, batch, Kind::Look(self.kernels, self.precision), self.seed, step)?;
        let context = Context { progress: clock.progress(), ..context };
        let output = self.model.forward(&leaves.input, &context)?;
        let losses = losses::compute(comm.as_ref(), &self.tasks, &output, batch, Asks::default())?;
        match losses.finite {
            true => Ok(losses),
            // The step has been taken, so that there is nothing to leave out.
            false => {
                let finding = non_finite::loss(self.located(comm, input, &leaves), &losses)?;
                Err(finding.error().at("after step", step + 1))
            }
        }
    }

    /// Logits of `batch` in evaluation mode: no dropout, no new rows, running moments. Collective.
    pub fn infer(&mut self, comm: &Comm, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        Ok(self.infer_from(comm, batch)?.1)
    }

    /// The same with what the model read for it. Collective.
    pub fn infer_from(&mut self, comm: &Comm, batch: &Batch) -> Result<(Input, Vec<Vec<f32>>)> {
        let mut lookup = self.embeddings.lookup(comm.as_ref(), &batch.ids, batch.rows, Mode::Evaluate)?;
        let leaves = Leaves::new(batch, &mut lookup, &self.spec)?;
        let output =
            self.model.forward(&leaves.input, &context(comm, batch, Kind::Infer(self.kernels), self.seed, 0)?)?;
        let logits = output.logits.iter().map(|logits| Ok(logits.flatten_all()?.to_vec1()?));
        let logits = logits.collect::<Result<_>>()?;
        Ok((leaves.input, logits))
    }
}
