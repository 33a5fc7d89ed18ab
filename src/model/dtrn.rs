//! Deep task-specific bottom representation network (DTRN; Liu et al., CIKM 2023, arXiv 2308.05996): each task has a
//! representation of its own already at the bottom.
//!
//! ```text
//! behaviour m   S_m ──attention, once for all tasks──► A_m
//! task k        A_m ──layers normed for (k, m)──► pooled by the target item ──► interest r_km      (`interest`)
//!               e_k = [features x; r_k1; …; r_kM]
//!               o_k = s_k ⊙ e_k,  s_k = 2σ(W_b ReLU(W_a e_k))                                     (`refinement`)
//! head          mmoe, ple or shared_bottom, where task k reads o_k
//! ```
//!
//! A reconstruction: the paper's equations were not to be had. Known are its modules (a hypernetwork on task and behaviour-type
//! embeddings that generates the layer norms' scale and shift of one shared transformer; a network like squeeze-and-excitation
//! per task) and that they stand under MMoE or PLE. Everything else is a choice made here; other readings are options.
//!
//! The representation that all tasks share is what their own parts read: x, the target item, and every A_m; under PLE of
//! several levels, where tasks meet again, what all of them read there for the last time.

mod interest;
mod refinement;
#[cfg(test)]
mod tests;
mod transformer;

use super::head::Head;
use super::parts::at_least_one;
use super::ple::SharedInput;
use super::{Input, InputLayer, InputSpec, Model, Output, head};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{Context, ParamStore, columns, concat};
use candle_core::Tensor;
use interest::{Behaviour, Interest};
pub use refinement::Refine;
use refinement::Refinement;
use serde::{Deserialize, Serialize};
pub use transformer::NormOrder;

/// Options of `{kind: dtrn}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The sequence features that are behaviours, each of its own type. Default: all with `pooling: none`.
    pub behaviours: Vec<String>,
    /// The feature whose embedding is the query of `pool: target`. Default: the one categorical feature that shares the
    /// behaviours' table.
    pub target: Option<String>,
    /// Blocks of the transformer (N). Default 1.
    pub blocks: usize,
    /// Heads of its attention. Default 2.
    pub attention_heads: usize,
    /// Width of its feed-forward layers. Default: four times the behaviours' `dim`.
    pub feed_forward: Option<usize>,
    /// Where its layer norms stand. Default `post`.
    pub norm_order: NormOrder,
    /// Length of a task's embedding. Default 16.
    pub task_dim: usize,
    /// Length of a behaviour type's embedding. Default 16.
    pub behaviour_dim: usize,
    /// Width of the hypernetwork's hidden layer. Default 32.
    pub hypernetwork: usize,
    /// How a behaviour becomes one vector. Default `target`.
    pub pool: Pool,
    /// What the refinement has a factor for. Default `field`.
    pub refine: Refine,
    /// The refinement's hidden layer is e_k's width divided by this. Default 4.
    pub reduction: usize,
    /// What the shared experts of `head: {kind: ple}` read. Default `per_task`.
    pub shared_input: SharedInput,
    /// What stands above: `mmoe`, `ple` or `shared_bottom`, with its options. Default `mmoe`.
    pub head: Component,
}

/// How the elements of a behaviour become one vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Attention with the target item as the query.
    #[default]
    Target,
    /// Their mean.
    Mean,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            behaviours: Vec::new(),
            target: None,
            blocks: 1,
            attention_heads: 2,
            feed_forward: None,
            norm_order: NormOrder::Post,
            task_dim: 16,
            behaviour_dim: 16,
            hypernetwork: 32,
            pool: Pool::Target,
            refine: Refine::Field,
            reduction: 4,
            shared_input: SharedInput::PerTask,
            head: Component::named("mmoe"),
        }
    }
}

/// See the module.
struct Dtrn {
    input: InputLayer,
    /// Numbers of the behaviours among the sequences.
    behaviours: Vec<usize>,
    /// First column and width of the target item's embedding among the pooled ones, if it is the query.
    target: Option<(usize, usize)>,
    interest: Interest,
    /// One a task; none without refinement.
    refinements: Vec<Refinement>,
    head: Box<dyn Head>,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let mut options: Options = component.options("model")?;
    check(&options)?;
    let behaviours = behaviours(&options, spec)?;
    options.behaviours = behaviours.iter().map(|&number| spec.sequences[number].name.clone()).collect();
    let dim = spec.sequences[behaviours[0]].dim;
    options.feed_forward.get_or_insert(4 * dim);
    let target = target(&mut options, &behaviours, spec)?;
    let input = InputLayer::beside(spec, &component.kind, &behaviours)?;
    let of_behaviours: Vec<_> = behaviours.iter().map(|&number| &spec.sequences[number]).collect();
    let interest = Interest::new(store.builder().at("interest"), &options, &of_behaviours, &spec.tasks)?;
    let fields: Vec<usize> = input.fields().into_iter().chain(vec![dim; behaviours.len()]).collect();
    let refinements = Refinement::per_task(store.builder().at("refinement"), &options, &spec.tasks, &fields)?;
    let width = fields.iter().sum();
    let head = head::build(&mut options.head, "model.head", spec, width, options.shared_input, store)?;
    component.resolve(&options)?;
    Ok(Box::new(Dtrn { input, behaviours, target, interest, refinements, head }))
}

fn check(options: &Options) -> Result<()> {
    let Options { blocks, attention_heads, task_dim, behaviour_dim, hypernetwork, reduction, .. } = *options;
    at_least_one(blocks, "blocks")?;
    at_least_one(attention_heads, "attention_heads")?;
    at_least_one(options.feed_forward.unwrap_or(1), "feed_forward")?;
    at_least_one(task_dim, "task_dim")?;
    at_least_one(behaviour_dim, "behaviour_dim")?;
    at_least_one(hypernetwork, "hypernetwork")?;
    at_least_one(reduction, "reduction")?;
    if options.shared_input != SharedInput::PerTask && options.head.kind != "ple" {
        return Err(Error::job(format!("`{}` has no shared experts beside the tasks' own", options.head.kind))
            .at("key", "model.shared_input")
            .fix("remove `shared_input`, or use `head: {kind: ple}`"));
    }
    Ok(())
}

/// Numbers of the behaviours among the sequences: those that are named, else all that are not pooled.
fn behaviours(options: &Options, spec: &InputSpec) -> Result<Vec<usize>> {
    let unpooled = spec.sequences.iter().enumerate().filter(|(_, sequence)| sequence.target.is_none());
    let unpooled: Vec<usize> = unpooled.map(|(number, _)| number).collect();
    let of_name = |name: &String| {
        unpooled.iter().copied().find(|&number| &spec.sequences[number].name == name).ok_or_else(|| {
            Error::job(format!("the behaviour `{name}` is no sequence that reaches the model unpooled"))
                .at("key", "model.behaviours")
                .fix("name features of `kind: sequence` with `pooling: none`")
        })
    };
    let chosen = match options.behaviours.as_slice() {
        [] => unpooled.clone(),
        names => names.iter().map(of_name).collect::<Result<_>>()?,
    };
    let Some(&first) = chosen.first() else {
        return Err(Error::job("`dtrn` reads behaviour sequences, and there is none")
            .at("key", "features")
            .fix("give features of `kind: sequence` the option `pooling: none`"));
    };
    let dim = spec.sequences[first].dim;
    if let Some(other) = chosen.iter().map(|&number| &spec.sequences[number]).find(|other| other.dim != dim) {
        let first = &spec.sequences[first].name;
        return Err(Error::job(format!(
            "one transformer reads `{first}` of {dim} and `{}` of {} numbers",
            other.name, other.dim
        ))
        .at("key", "features")
        .fix("give all behaviours the same `dim`"));
    }
    Ok(chosen)
}

/// Where the query of `pool: target` stands; its name is written into the options.
fn target(options: &mut Options, behaviours: &[usize], spec: &InputSpec) -> Result<Option<(usize, usize)>> {
    if options.pool != Pool::Target {
        return Ok(None);
    }
    let first = &spec.sequences[behaviours[0]];
    let shares_all = |field: &&usize| behaviours.iter().all(|&other| spec.sequences[other].candidates.contains(field));
    let candidates: Vec<usize> = first.candidates.iter().filter(shares_all).copied().collect();
    let field = match (&options.target, candidates.as_slice()) {
        (Some(name), _) => spec.fields.iter().find(|field| &field.name == name),
        (None, &[only]) => Some(&spec.fields[only]),
        _ => None,
    };
    match field {
        Some(field) if field.width == first.dim => {
            options.target = Some(field.name.clone());
            Ok(Some((field.start, field.width)))
        }
        Some(field) => Err(Error::job(format!(
            "the target `{}` has {} numbers and the behaviours have {}",
            field.name, field.width, first.dim
        ))
        .at("key", "model.target")
        .fix("name a feature that shares the behaviours' `table`")),
        None => Err(Error::job("which feature is the target item that the behaviours are pooled by?")
            .at("key", "model.target")
            .fix("name a categorical feature of the behaviours' `table` as `target`, or use `pool: mean`")),
    }
}

impl Model for Dtrn {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.side_by_side(input, context)?;
        let query = match self.target {
            Some((start, width)) => Some(columns(&context.graph, &input.pooled, start, width)?),
            None => None,
        };
        let sequences = self.behaviours.iter().map(|&number| &input.sequences[number]);
        let behaviours = sequences.map(|sequence| self.interest.read(sequence, context)).collect::<Result<Vec<_>>>()?;
        let inputs = (0..self.interest.tasks())
            .map(|task| self.of_task(task, (&x, query.as_ref(), &behaviours), context))
            .collect::<Result<Vec<_>>>()?;
        let mut output = self.head.forward(&inputs, context)?;
        output.representation.extend([x].into_iter().chain(query));
        output.representation.extend(behaviours.into_iter().map(|behaviour| behaviour.shared));
        Ok(output)
    }
}

impl Dtrn {
    /// o_k.
    fn of_task(
        &self,
        task: usize,
        (x, query, behaviours): (&Tensor, Option<&Tensor>, &[Behaviour]),
        context: &Context,
    ) -> Result<Tensor> {
        let mut parts = vec![x.clone()];
        for (number, behaviour) in behaviours.iter().enumerate() {
            parts.push(self.interest.of_task((task, number), behaviour, query, context)?);
        }
        let e = concat(&context.graph, &parts)?;
        match self.refinements.get(task) {
            Some(refinement) => refinement.forward(&e, context),
            None => Ok(e),
        }
    }
}
