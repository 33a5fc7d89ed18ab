//! M2M (Zhang et al., WSDM 2022): experts mixed by an attention, and towers, whose weights a meta network makes for each
//! scenario.
//!
//! ```text
//! k_s = mlp(e_s)                                              knowledge of scenario s, from its embedding
//! a_{t,i} = v_t · act(E_i · W(k_s) + b_t(k_s))                attention over the experts E_i for task t
//! R_t = Σ_i softmax_i(a_{t,i}) E_i
//! L ← act(L · W_{t,j}(k_s) + b_{t,j}(k_s) + L)                 residual meta tower, layers j, from L = R_t
//! logit_t = W_t L + c_t                                       W(k), b(k): linear in k
//! ```
//!
//! A reconstruction where the paper is silent. In the paper the attention's meta unit reads an expert beside a vector
//! of the task. That vector is the same for all rows, so its product with the meta weights is a bias that each task
//! has of its own: b_t. "other" has the mean of the scenarios' embeddings.

use super::parts::{at_least_one, last_width};
use super::scenario::{self, ScenarioEmbedding};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::Result;
use crate::nn::{
    Activation, Builder, Context, Dropout, Groups, Linear, Mlp, NormKind, ParamStore, Style, add, columns, concat,
    generated_linear, mix, softmax,
};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Options of `{kind: m2m}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Number of experts. Default 4.
    pub experts: usize,
    /// Widths of each expert; the last is that of the meta towers too. Default `[256, 64]`.
    pub expert: Vec<usize>,
    /// Numbers of a scenario's embedding. Default 16.
    pub scenario_dim: usize,
    /// Widths of the network from a scenario's embedding to its knowledge. Default `[32]`.
    pub knowledge: Vec<usize>,
    /// Width of the attention's meta layer. Default 32.
    pub attention: usize,
    /// Meta layers of each task's tower. Default 2.
    pub tower_layers: usize,
    /// Activation of hidden layers. Default `relu`.
    pub activation: Activation,
    /// Dropout rate of the hidden layers of experts and towers. Default 0.
    pub dropout: f64,
    /// Normalisation of the experts' hidden layers. Default `none`.
    pub norm: NormKind,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            experts: 4,
            expert: vec![256, 64],
            scenario_dim: 16,
            knowledge: vec![32],
            attention: 32,
            tower_layers: 2,
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// See the module.
pub struct M2m {
    input: InputLayer,
    experts: Mlp,
    count: usize,
    scenarios: ScenarioEmbedding,
    knowledge: Mlp,
    /// Makes the attention's weights.
    attention: Linear,
    tasks: Vec<Task>,
    activation: Activation,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    at_least_one(options.experts, "experts")?;
    at_least_one(options.attention, "attention")?;
    at_least_one(options.scenario_dim, "scenario_dim")?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let scenarios = scenario::count(spec, &component.kind)?;
    let width = last_width(&options.expert, "expert")?;
    let experts = Mlp::grouped(store.builder().at("experts"), options.experts, input.width(), &options.expert, style)?;
    let embedding = ScenarioEmbedding::new(store.builder().at("scenarios"), scenarios, options.scenario_dim)?;
    // Its rows are scenarios: there is no batch to drop units from or to take moments of.
    let plain = Style { activation: options.activation, ..Style::default() };
    let knowledge = Mlp::new(store.builder().at("knowledge"), options.scenario_dim, &options.knowledge, plain)?;
    let known = knowledge.width();
    let attention = linear(store.builder().at("attention").at("weight"), known, width * options.attention)?;
    let task = |(task, &outputs)| {
        Task::new(store.builder().at("tasks").at(task), known, (scenarios, width, outputs), &options)
    };
    let tasks = spec.tasks.iter().zip(&spec.outputs).map(task).collect::<Result<_>>()?;
    let activation = options.activation;
    Ok(Box::new(M2m {
        input,
        experts,
        count: options.experts,
        scenarios: embedding,
        knowledge,
        attention,
        tasks,
        activation,
    }))
}

fn linear(builder: Builder, input: usize, output: usize) -> Result<Linear> {
    Linear::new(builder, input, output, Activation::None)
}

impl Model for M2m {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let experts = self.experts.forward(&x, context)?;
        let width = self.experts.width() / self.count;
        let expert = |i| columns(&context.graph, &experts, i * width, width);
        let each: Vec<Tensor> = (0..self.count).map(expert).collect::<Result<_>>()?;
        let scenarios = Scenarios {
            knowledge: &self.knowledge.forward(&self.scenarios.table(context)?, context)?,
            groups: Groups::Scenarios(input.scenarios.clone()),
            activation: self.activation,
            context,
        };
        let weight = self.attention.forward(scenarios.knowledge, context)?;
        let logits = self.tasks.iter().map(|task| {
            let gate = task.attention(&each, &weight, &scenarios)?;
            task.tower(mix(&gate, &experts, self.count, 0, context)?, &scenarios)
        });
        Ok(Output::new(logits.collect::<Result<_>>()?, vec![experts]))
    }
}

/// What the layers that are made for each scenario have in common in one forward pass.
struct Scenarios<'a> {
    /// `[S + 1, d]`.
    knowledge: &'a Tensor,
    groups: Groups,
    activation: Activation,
    context: &'a Context,
}

impl Scenarios<'_> {
    fn layer(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        generated_linear(x, weight, bias, &self.groups, self.activation, self.context)
    }
}

/// One task's part.
struct Task {
    /// Makes the attention's bias.
    bias: Linear,
    /// v, from the attention's layer to an expert's score.
    scores: Linear,
    tower: Vec<MetaLayer>,
    logits: Linear,
}

/// A residual layer of the tower.
struct MetaLayer {
    weight: Linear,
    bias: Linear,
    /// `[S + 1, width · width]`: what the residual adds to the weights.
    identity: Tensor,
    dropout: Dropout,
}

impl Task {
    fn new(
        mut builder: Builder,
        known: usize,
        (scenarios, width, outputs): (usize, usize, usize),
        options: &Options,
    ) -> Result<Self> {
        let bias = linear(builder.at("attention_bias"), known, options.attention)?;
        let scores = linear(builder.at("scores"), options.attention, 1)?;
        let identity: Vec<f32> = (0..=scenarios)
            .flat_map(|_| (0..width * width).map(|place| f32::from(u8::from(place / width == place % width))))
            .collect();
        let identity = Tensor::from_vec(identity, (scenarios + 1, width * width), &Device::Cpu)?;
        let layer = |j: usize| -> Result<MetaLayer> {
            let mut builder = builder.at("tower");
            let mut builder = builder.at(j);
            let dropout = Dropout::new(&builder, options.dropout);
            let weight = linear(builder.at("weight"), known, width * width)?;
            Ok(MetaLayer {
                weight,
                bias: linear(builder.at("bias"), known, width)?,
                identity: identity.clone(),
                dropout,
            })
        };
        let tower = (0..options.tower_layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { bias, scores, tower, logits: linear(builder.at("logits"), width, outputs)? })
    }

    /// The weights of the experts: `[B, experts]`.
    fn attention(&self, experts: &[Tensor], weight: &Tensor, scenarios: &Scenarios) -> Result<Tensor> {
        let context = scenarios.context;
        let bias = self.bias.forward(scenarios.knowledge, context)?;
        let score = |expert| self.scores.forward(&scenarios.layer(expert, weight, &bias)?, context);
        let scores: Vec<Tensor> = experts.iter().map(score).collect::<Result<_>>()?;
        softmax(&concat(&context.graph, &scores)?, context)
    }

    fn tower(&self, mixed: Tensor, scenarios: &Scenarios) -> Result<Tensor> {
        let context = scenarios.context;
        let mut x = mixed;
        for MetaLayer { weight, bias, identity, dropout } in &self.tower {
            let weight = add(&context.graph, &weight.forward(scenarios.knowledge, context)?, identity)?;
            let bias = bias.forward(scenarios.knowledge, context)?;
            x = dropout.forward(&scenarios.layer(&x, &weight, &bias)?, context)?;
        }
        self.logits.forward(&x, context)
    }
}
