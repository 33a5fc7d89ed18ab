//! LLM4MSR (CIKM 2024, arXiv 2406.12529), a reconstruction: the paper's formulas were not to be had. Frozen vectors of
//! what a language model was told about scenarios and users drive meta networks, which make layers for any backbone.
//!
//! ```text
//! z_u = LN(P_u H_u), z_s = LN(P_s H_s)        H: the frozen vectors; a user without one has the mean of its scenario's users
//! e' = e + U · meta_u(e_p; z_u)                e: the input, e_p = V e + v: user level, at the bottom
//! logit_k = backbone_k(e') + κ_k · meta_s,k(e'; z_s)                         scenario level, in parallel
//! ```
//!
//! Vectors of users come as a feature with a frozen table ([`crate::embedding`]); those of scenarios are buffers, filled
//! from a file once and saved with the model. The scenario "other" has the mean of all scenarios' vectors.

mod meta;

use self::meta::{Layers, Sizes};
use super::registry;
use super::{Field, Input, InputLayer, InputSpec, Model, Output, RowClasses};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{
    Activation, Buffer, Builder, Context, Init, LayerNorm, Linear, ParamStore, add, columns, concat, multiply,
    or_by_scenario, stop_gradient,
};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Names of the buffers that hold what was read from a file of scenarios: rows by number, "other" last.
pub const SCENARIO_VECTORS: &str = "meta.scenario.vectors";
/// The mean vector of each scenario's users.
pub const USER_MEANS: &str = "meta.user.means";

/// Options of `{kind: llm4msr}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The architecture that the meta layers are added to: any that reads whole rows. Default `{kind: mmoe}`.
    pub backbone: Component,
    /// File with a vector for each scenario, as `tandem knowledge` writes it; without it there is no scenario level.
    pub scenario_knowledge: Option<String>,
    /// Numbers of a vector of that file; read from it.
    pub scenario_dim: Option<usize>,
    /// What that file holds, as a hash; read from it, and checked where it is given.
    pub scenario_fingerprint: Option<String>,
    /// The feature whose table holds the users' vectors; without it there is no user level.
    pub user_knowledge: Option<String>,
    /// Width of z: what a meta network sees of a vector. Default 64.
    pub knowledge_width: usize,
    /// Widths of the user level's layers; the first is also that of e_p. Default `[64, 64]`.
    pub user_layers: Vec<usize>,
    /// Whether the user level's result is added to the input or replaces it. Default `residual`.
    pub user_mode: UserMode,
    /// Widths of the scenario level's hidden layers; the layer to each task's logits is generated too. Default `[64, 32]`.
    pub scenario_layers: Vec<usize>,
    /// Activation of the hidden layers of both levels. Default `relu`.
    pub activation: Activation,
    /// Rank of the generated part of a weight matrix; 0: full. Default 16.
    pub rank: usize,
    /// Standard deviation of the first weights of what generates, and of the last layer of a level. Default 0.001.
    pub init_std: f32,
    /// First κ. Default 0.1.
    pub kappa: f32,
    /// Whether κ is learned. Default true.
    pub learn_kappa: bool,
}

/// What becomes of the user level's result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserMode {
    /// e' = e + U · result.
    #[default]
    Residual,
    /// e' = U · result.
    Replace,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backbone: Component::named("mmoe"),
            scenario_knowledge: None,
            scenario_dim: None,
            scenario_fingerprint: None,
            user_knowledge: None,
            knowledge_width: 64,
            user_layers: vec![64, 64],
            user_mode: UserMode::default(),
            scenario_layers: vec![64, 32],
            activation: Activation::Relu,
            rank: 16,
            init_std: 1e-3,
            kappa: 0.1,
            learn_kappa: true,
        }
    }
}

/// See the module.
pub struct Llm4Msr {
    /// Columns of the pooled embeddings that the input is made of, in order.
    kept: Vec<(usize, usize)>,
    input: InputLayer,
    user: Option<UserLevel>,
    scenario: Option<ScenarioLevel>,
    backbone: Box<dyn Model>,
}

/// The bottom layers, made for each user.
struct UserLevel {
    /// First column and width, in the pooled embeddings, of the users' vectors.
    columns: (usize, usize),
    /// `[S + 1, D]`: what a user without a vector has. None where there are no scenarios to take a mean of.
    means: Option<Buffer>,
    reduce: Reduce,
    down: Linear,
    layers: Layers,
    up: Linear,
    mode: UserMode,
}

/// The parallel layers, made for each scenario.
struct ScenarioLevel {
    /// `[S + 1, D]`.
    vectors: Buffer,
    dim: usize,
    reduce: Reduce,
    hidden: Layers,
    /// For each task the layer to its logits, and κ.
    heads: Vec<(Layers, Kappa)>,
}

/// What the parallel logits are multiplied by.
enum Kappa {
    Learned(Tensor),
    Fixed(Tensor),
}

/// z = LN(P H).
struct Reduce {
    project: Linear,
    norm: LayerNorm,
}

/// The options of a model that reads knowledge; `None` for any other.
pub fn options(component: &Component) -> Result<Option<Options>> {
    match component.kind.as_str() {
        "llm4msr" => component.options("model").map(Some),
        _ => Ok(None),
    }
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let mut options: Options = component.options("model")?;
    check(&options)?;
    if options.scenario_knowledge.is_some() && spec.scenarios.is_empty() {
        return Err(Error::job("the scenario level needs scenarios")
            .at("key", "data.scenario")
            .fix("name the column that tells the scenarios apart, or leave `scenario_knowledge` out"));
    }
    let knowledge = options.user_knowledge.as_deref().map(|name| knowledge_field(spec, name)).transpose()?;
    let (own, kept) = without(spec, knowledge);
    let input = InputLayer::new(&own, &component.kind)?;
    let inner = as_one(&own, &input);
    let backbone = registry::build(&mut options.backbone, &inner, store).map_err(of_backbone)?;
    component.resolve(&options)?;
    let width = input.width();
    let user = knowledge.map(|field| UserLevel::new(&options, &spec.fields[field], width, spec, store)).transpose()?;
    let scenario = options.scenario_dim.filter(|_| options.scenario_knowledge.is_some());
    let scenario = scenario.map(|dim| ScenarioLevel::new(&options, dim, width, spec, store)).transpose()?;
    Ok(Box::new(Llm4Msr { kept, input, user, scenario, backbone }))
}

fn check(options: &Options) -> Result<()> {
    let wrong = |what: &str, key: &str| Err(Error::job(what).at("key", format!("model.{key}")));
    if options.scenario_knowledge.is_none() && options.user_knowledge.is_none() {
        return Err(Error::job("`llm4msr` without knowledge is its backbone")
            .at("key", "model.scenario_knowledge")
            .fix("write knowledge with `tandem knowledge`, and name its file here and in a table that `user_knowledge` reads"));
    }
    if options.backbone.kind == "llm4msr" {
        return wrong("the backbone of `llm4msr` cannot be another `llm4msr`", "backbone.kind");
    }
    if options.knowledge_width == 0 {
        return wrong("`knowledge_width` must be at least 1", "knowledge_width");
    }
    if options.user_layers.contains(&0) || options.user_layers.is_empty() {
        return wrong("`user_layers` needs layers of at least one column each", "user_layers");
    }
    if options.scenario_layers.contains(&0) {
        return wrong("a layer needs at least one column", "scenario_layers");
    }
    if !(options.init_std >= 0.0 && options.init_std.is_finite()) {
        return wrong("`init_std` must be a number ≥ 0", "init_std");
    }
    if !options.kappa.is_finite() {
        return wrong("`kappa` must be a number", "kappa");
    }
    Ok(())
}

/// The field of the users' vectors.
fn knowledge_field(spec: &InputSpec, name: &str) -> Result<usize> {
    spec.fields.iter().position(|field| field.name == name).ok_or_else(|| {
        Error::job(format!("no pooled feature is called `{name}`")).at("key", "model.user_knowledge").fix(
            "name a categorical feature with the user's column and a table of their vectors, \
             as in `{name: user_knowledge, kind: categorical, column: user_id}`",
        )
    })
}

/// The input without the field `left_out`, and the columns of the pooled embeddings that are left.
fn without(spec: &InputSpec, left_out: Option<usize>) -> (InputSpec, Vec<(usize, usize)>) {
    let mut own = InputSpec { fields: Vec::new(), ..spec.clone() };
    let mut kept: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    for (_, field) in spec.fields.iter().enumerate().filter(|(index, _)| Some(*index) != left_out) {
        own.fields.push(Field { start, ..field.clone() });
        start += field.width;
        match kept.last_mut() {
            Some((first, width)) if *first + *width == field.start => *width += field.width,
            _ => kept.push((field.start, field.width)),
        }
    }
    // Of a sequence whose query is left out nothing is left to attend with: the input layer says so.
    for sequence in &mut own.sequences {
        sequence.target = sequence.target.and_then(|target| match left_out {
            Some(left_out) if left_out == target => None,
            Some(left_out) if left_out < target => Some(target - 1),
            _ => Some(target),
        });
    }
    (own, kept)
}

/// What the backbone reads: the whole input as pooled fields. The features keep their names and columns; what was
/// attended with and the dense columns are fields too.
fn as_one(own: &InputSpec, input: &InputLayer) -> InputSpec {
    let mut fields = own.fields.clone();
    let mut start = fields.iter().map(|field| field.width).sum();
    let mut push = |name: &str, width: usize| {
        fields.push(Field { name: name.to_string(), start, width });
        start += width;
    };
    own.sequences.iter().for_each(|sequence| push(&sequence.name, sequence.dim));
    if own.dense_width > 0 {
        push("dense", own.dense_width);
    }
    debug_assert_eq!(start, input.width());
    InputSpec { fields, sequences: Vec::new(), dense_width: 0, ..own.clone() }
}

/// The backbone's options stand below `model.backbone`.
fn of_backbone(error: Error) -> Error {
    let key = error.place("key").and_then(|key| key.strip_prefix("model")).map(|rest| format!("model.backbone{rest}"));
    match key {
        Some(key) => error.moved("key", key),
        None => error,
    }
}

impl Reduce {
    fn new(store: &mut ParamStore, level: &str, dim: usize, width: usize) -> Result<Self> {
        let mut builder = store.builder();
        let mut builder = builder.at(format!("meta.{level}"));
        let project = Linear::new(builder.at("project"), dim, width, Activation::None)?;
        let norm = LayerNorm::new(builder.at("norm"), 1, width, Activation::None)?;
        Ok(Self { project, norm })
    }

    fn forward(&self, knowledge: &Tensor, context: &Context) -> Result<Tensor> {
        self.norm.forward(&self.project.forward(knowledge, context)?, context)
    }
}

impl UserLevel {
    fn new(options: &Options, field: &Field, width: usize, spec: &InputSpec, store: &mut ParamStore) -> Result<Self> {
        let rows = spec.scenarios.len() + 1;
        let means = options.scenario_knowledge.as_ref();
        let means = means.map(|_| store.builder().buffer(USER_MEANS, vec![0.0; rows * field.width])).transpose()?;
        let reduce = Reduce::new(store, "user", field.width, options.knowledge_width)?;
        let mut builder = store.builder();
        let mut builder = builder.at("meta.user");
        let first = options.user_layers[0];
        let last = options.user_layers[options.user_layers.len() - 1];
        let down = Linear::new(builder.at("down"), width, first, Activation::None)?;
        let sizes = Sizes { input: first, widths: &options.user_layers, knowledge: options.knowledge_width };
        let layers = Layers::new(builder.at("layers"), &sizes, options, options.activation, true)?;
        let init = [Init::fan_in(last), Init::Zeros];
        let up = Linear::starting(builder.at("up"), last, width, Activation::None, init)?;
        let columns = (field.start, field.width);
        Ok(Self { columns, means, reduce, down, layers, up, mode: options.user_mode })
    }

    fn forward(&self, e: &Tensor, input: &Input, context: &Context) -> Result<Tensor> {
        let graph = &context.graph;
        // Cut off: the vectors are frozen.
        let known = columns(graph, &stop_gradient(&input.pooled)?, self.columns.0, self.columns.1)?;
        let known = match &self.means {
            Some(means) => {
                let means = table(means, self.columns.1)?;
                or_by_scenario(&known, &means, &input.scenarios, context)?
            }
            None => known,
        };
        let z = self.reduce.forward(&known, context)?;
        let h = self.layers.of_rows(&self.down.forward(e, context)?, &z, context)?;
        let h = self.up.forward(&h, context)?;
        match self.mode {
            UserMode::Residual => add(graph, e, &h),
            UserMode::Replace => Ok(h),
        }
    }
}

impl ScenarioLevel {
    fn new(options: &Options, dim: usize, width: usize, spec: &InputSpec, store: &mut ParamStore) -> Result<Self> {
        let rows = spec.scenarios.len() + 1;
        let vectors = store.builder().buffer(SCENARIO_VECTORS, vec![0.0; rows * dim])?;
        let reduce = Reduce::new(store, "scenario", dim, options.knowledge_width)?;
        let mut builder = store.builder();
        let mut builder = builder.at("meta.scenario");
        let knowledge = options.knowledge_width;
        let sizes = Sizes { input: width, widths: &options.scenario_layers, knowledge };
        let hidden = Layers::new(builder.at("hidden"), &sizes, options, options.activation, false)?;
        let last = options.scenario_layers.last().copied().unwrap_or(width);
        let mut heads = Vec::new();
        for (task, &outputs) in spec.tasks.iter().zip(&spec.outputs) {
            let mut builder = builder.at("heads");
            let mut builder = builder.at(task);
            let sizes = Sizes { input: last, widths: &[outputs], knowledge };
            let head = Layers::new(builder.at("layers"), &sizes, options, Activation::None, true)?;
            heads.push((head, Kappa::new(builder.at("kappa"), options)?));
        }
        Ok(Self { vectors, dim, reduce, hidden, heads })
    }

    /// The last hidden layer, and what is added to each task's logits.
    fn forward(&self, e: &Tensor, scenarios: &Arc<[u32]>, context: &Context) -> Result<(Tensor, Vec<Tensor>)> {
        let z = self.reduce.forward(&table(&self.vectors, self.dim)?, context)?;
        let hidden = self.hidden.of_scenarios(e, &z, scenarios, context)?;
        let add = |(head, kappa): &(Layers, Kappa)| {
            kappa.times(&head.of_scenarios(&hidden, &z, scenarios, context)?, context)
        };
        let added = self.heads.iter().map(add).collect::<Result<_>>()?;
        Ok((hidden, added))
    }
}

impl Kappa {
    fn new(mut builder: Builder, options: &Options) -> Result<Self> {
        Ok(match options.learn_kappa {
            true => Self::Learned(builder.param("value", &[1], Init::Constant(options.kappa))?),
            false => Self::Fixed(Tensor::new(&[options.kappa], &Device::Cpu)?),
        })
    }

    fn times(&self, logits: &Tensor, context: &Context) -> Result<Tensor> {
        let (Self::Learned(kappa) | Self::Fixed(kappa)) = self;
        multiply(logits, kappa, context)
    }
}

/// A buffer as rows of `width` numbers.
fn table(buffer: &Buffer, width: usize) -> Result<Tensor> {
    let values = buffer.get();
    let rows = values.len() / width.max(1);
    Ok(Tensor::from_vec(values, (rows, width), &Device::Cpu)?)
}

impl Llm4Msr {
    /// The pooled embeddings without the users' vectors.
    fn own(&self, input: &Input, context: &Context) -> Result<Tensor> {
        let pooled = &input.pooled;
        if self.kept == [(0, pooled.dim(1)?)] {
            return Ok(pooled.clone());
        }
        let kept = self.kept.iter().map(|&(start, width)| columns(&context.graph, pooled, start, width));
        match kept.collect::<Result<Vec<_>>>()? {
            parts if parts.is_empty() => columns(&context.graph, pooled, 0, 0),
            parts => concat(&context.graph, &parts),
        }
    }
}

impl Model for Llm4Msr {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let graph = &context.graph;
        let mut e = self
            .input
            .forward(&Input { pooled: self.own(input, context)?, repeats: [].into(), ..input.clone() }, context)?;
        if let Some(user) = &self.user {
            e = user.forward(&e, input, context)?;
        }
        let dense = Tensor::zeros((e.dim(0)?, 0), candle_core::DType::F32, &Device::Cpu)?;
        let inner = Input { pooled: e.clone(), repeats: [].into(), sequences: Vec::new(), dense, ..input.clone() };
        let mut output = self.backbone.forward(&inner, context)?;
        if let Some(scenario) = &self.scenario {
            let (hidden, added) = scenario.forward(&e, &input.scenarios, context)?;
            let sums = output.logits.iter().zip(&added).map(|(logits, added)| add(graph, logits, added));
            output.logits = sums.collect::<Result<_>>()?;
            // Where the backbone's tasks meet nowhere, there is no place to compare them at.
            if !output.representation.is_empty() {
                output.representation.push(hidden);
            }
        }
        Ok(output)
    }

    fn row_classes(&self) -> Option<RowClasses> {
        self.backbone.row_classes()
    }
}

#[cfg(test)]
mod tests;
