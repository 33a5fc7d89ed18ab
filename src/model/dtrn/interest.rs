//! DTRN's task-specific interest module: what each behaviour says for each task, by one transformer whose layer norms depend
//! on both.
//!
//! ```text
//! z_km    = ReLU(W [t_k; b_m] + c)         t_k task embedding, b_m behaviour-type embedding
//! γ^l_km  = γ^l + W^l_γ z_km               for each layer norm l; W_γ and W_β start at 0, γ^l at 1, β^l at 0:
//! β^l_km  = β^l + W^l_β z_km               a plain transformer that all tasks and behaviours share
//! r_km    = pooled transformer_km(S_m + positions)
//! ```
//!
//! A reconstruction ([`super`]). The scale and shift that the hypernetwork's are added to, γ^l and β^l, are trained like those of
//! any layer norm.

use super::transformer::{Norms, Transformer};
use super::{Options, Pool};
use crate::error::Result;
use crate::model::{Sequence, SequenceSpec};
use crate::nn::{
    Activation, Builder, Context, Init, Linear, Segments, add_positions, concat, pack, segment_attention, segment_mean,
    unpack,
};
use candle_core::Tensor;
use std::sync::Arc;

/// See the module. K tasks, M behaviours.
pub struct Interest {
    /// `[L, d]`.
    positions: Tensor,
    transformer: Transformer,
    hypernetwork: Hypernetwork,
    pool: Pool,
}

/// One behaviour of a batch, as far as all tasks share it.
pub struct Behaviour {
    /// `[B, L · d]`: the first attention's output, with what it is added to.
    pub shared: Tensor,
    segments: Arc<Segments>,
}

impl Interest {
    /// For these behaviours, all of one width, and tasks.
    pub fn new(
        mut builder: Builder,
        options: &Options,
        behaviours: &[&SequenceSpec],
        tasks: &[String],
    ) -> Result<Self> {
        let dim = behaviours.iter().map(|behaviour| behaviour.dim).max().unwrap_or(0);
        let longest = behaviours.iter().map(|behaviour| behaviour.max_len).max().unwrap_or(0);
        let names: Vec<&str> = behaviours.iter().map(|behaviour| behaviour.name.as_str()).collect();
        let positions = builder.param("positions", &[longest, dim], Init::Normal(0.02))?;
        let transformer = Transformer::new(builder.at("transformer"), options, dim)?;
        let norms = transformer.norms() * dim;
        let hypernetwork = Hypernetwork::new(builder.at("hypernetwork"), options, (tasks, &names), norms)?;
        Ok(Self { positions, transformer, hypernetwork, pool: options.pool })
    }

    /// K.
    pub fn tasks(&self) -> usize {
        self.hypernetwork.tasks.len()
    }

    /// What all tasks share of one behaviour: the first attention runs here, once.
    pub fn read(&self, sequence: &Sequence, context: &Context) -> Result<Behaviour> {
        let segments = Segments::of(&sequence.mask)?;
        let x = pack(&sequence.values, &segments, context)?;
        let x = add_positions(&x, &self.positions, &segments, context)?;
        let shared = unpack(&self.transformer.shared(&x, &segments, context)?, &segments, context)?;
        Ok(Behaviour { shared, segments })
    }

    /// r_km `[B, d]` of task k and behaviour m; zeros where the behaviour has no element.
    pub fn of_task(
        &self,
        (task, number): (usize, usize),
        behaviour: &Behaviour,
        query: Option<&Tensor>,
        context: &Context,
    ) -> Result<Tensor> {
        let segments = &behaviour.segments;
        let norms = self.hypernetwork.norms(task, number, context)?;
        let x = pack(&behaviour.shared, segments, context)?;
        let x = self.transformer.own(&x, &norms, segments, context)?;
        match (self.pool, query) {
            (Pool::Target, Some(query)) => segment_attention(query, &x, segments, context),
            _ => segment_mean(&x, segments, context),
        }
    }
}

/// From a task and a behaviour type to the scales and shifts of all layer norms.
struct Hypernetwork {
    /// `[1, task_dim]` each.
    tasks: Vec<Tensor>,
    /// `[1, behaviour_dim]` each.
    behaviours: Vec<Tensor>,
    hidden: Linear,
    scales: Linear,
    shifts: Linear,
}

impl Hypernetwork {
    /// `width`: numbers of all scales together.
    fn new(
        mut builder: Builder,
        options: &Options,
        (tasks, behaviours): (&[String], &[&str]),
        width: usize,
    ) -> Result<Self> {
        let Options { task_dim, behaviour_dim, hypernetwork, .. } = *options;
        // As wide apart as PyTorch's embeddings: alike ones would generate alike norms for long.
        let embedding = |builder: &mut Builder, kind: &str, name: &str, dim| {
            builder.at(kind).at(name).param("embedding", &[1, dim], Init::Normal(1.0))
        };
        let tasks = tasks.iter().map(|name| embedding(&mut builder, "tasks", name, task_dim)).collect::<Result<_>>()?;
        let behaviours = behaviours
            .iter()
            .map(|name| embedding(&mut builder, "behaviours", name, behaviour_dim))
            .collect::<Result<_>>()?;
        let hidden = Linear::new(builder.at("hidden"), task_dim + behaviour_dim, hypernetwork, Activation::Relu)?;
        let mut generated = |name, bias| {
            let init = [Init::Zeros, bias];
            Linear::starting(builder.at(name), hypernetwork, width, Activation::None, init)
        };
        let (scales, shifts) = (generated("scales", Init::Ones)?, generated("shifts", Init::Zeros)?);
        Ok(Self { tasks, behaviours, hidden, scales, shifts })
    }

    fn norms(&self, task: usize, behaviour: usize, context: &Context) -> Result<Norms> {
        let names = [self.tasks[task].clone(), self.behaviours[behaviour].clone()];
        let z = self.hidden.forward(&concat(&context.graph, &names)?, context)?;
        Ok(Norms { scales: self.scales.forward(&z, context)?, shifts: self.shifts.forward(&z, context)? })
    }
}
