//! STAR (Sheng et al., CIKM 2021): one network for all scenarios, whose layers each scenario scales and shifts.
//!
//! ```text
//! x' = PN(x)                                        partitioned norm, with the moments of the row's scenario s
//! layer     y = act(x · (W ⊙ W_s) + b + b_s)        eqs. 6 and 7; "other" has W and b alone
//! logit_k = tower_k(bottom(x')) + a_k([e_s; x])      a: the auxiliary network, e_s: the scenario's embedding, eq. 8
//! ```
//!
//! The paper has one task. Here the bottom is shared by the tasks and each has a tower of such layers; the auxiliary
//! network's hidden layers are shared too. W_s starts as ones and b_s as zeros, so that all scenarios start as one.

use super::parts::last_width;
use super::scenario::{self, ScenarioEmbedding};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{
    Activation, Builder, Context, Dropout, Groups, Init, Join, Linear, Mlp, NormKind, ParamStore, PartitionedNorm,
    Style, add, concat, generated_linear, join_shared,
};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Options of `{kind: star}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Widths of the bottom, which all tasks share. Default `[256, 128]`.
    pub bottom: Vec<usize>,
    /// Hidden widths of each task's tower. Default `[64]`.
    pub tower: Vec<usize>,
    /// Hidden widths of the auxiliary network; `null`: there is none. Default `[32]`.
    pub auxiliary: Option<Vec<usize>>,
    /// Numbers of a scenario's embedding, which the auxiliary network reads. Default 16.
    pub scenario_dim: usize,
    /// Whether the input is normalised by the moments of its scenario. Default true.
    pub partitioned_norm: bool,
    /// Activation of hidden layers. Default `relu`.
    pub activation: Activation,
    /// Dropout rate of hidden layers. Default 0.
    pub dropout: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bottom: vec![256, 128],
            tower: vec![64],
            auxiliary: Some(vec![32]),
            scenario_dim: 16,
            partitioned_norm: true,
            activation: Activation::Relu,
            dropout: 0.0,
        }
    }
}

/// See the module.
pub struct Star {
    input: InputLayer,
    norm: Option<PartitionedNorm>,
    bottom: Topology,
    towers: Vec<(Topology, Layer)>,
    auxiliary: Option<Auxiliary>,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let style = Style::new(options.activation, options.dropout, NormKind::None)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let scenarios = scenario::count(spec, &component.kind)?;
    let width = last_width(&options.bottom, "bottom")?;
    let norm = match options.partitioned_norm {
        true => Some(PartitionedNorm::new(store.builder().at("norm"), input.width(), scenarios)?),
        false => None,
    };
    let bottom = Topology::new(store.builder().at("bottom"), scenarios, input.width(), &options.bottom, style)?;
    let mut towers = Vec::new();
    for (task, &outputs) in spec.tasks.iter().zip(&spec.outputs) {
        let mut builder = store.builder();
        let mut builder = builder.at("towers");
        let mut builder = builder.at(task);
        let hidden = Topology::new(builder.at("hidden"), scenarios, width, &options.tower, style)?;
        let logits = Layer::new(
            builder.at("logits"),
            scenarios,
            hidden.width,
            outputs,
            Style { activation: Activation::None, ..Style::default() },
        )?;
        towers.push((hidden, logits));
    }
    let auxiliary = options.auxiliary.as_deref();
    let auxiliary = auxiliary.map(|widths| {
        Auxiliary::new(store.builder().at("auxiliary"), spec, (input.width(), options.scenario_dim), widths, style)
    });
    Ok(Box::new(Star { input, norm, bottom, towers, auxiliary: auxiliary.transpose()? }))
}

impl Model for Star {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let groups = Groups::Scenarios(input.scenarios.clone());
        let normalised = match &self.norm {
            Some(norm) => norm.forward(&x, &input.scenarios, context)?,
            None => x.clone(),
        };
        let bottom = self.bottom.forward(&normalised, &groups, context)?;
        let tower = |(hidden, logits): &(Topology, Layer)| {
            logits.forward(&hidden.forward(&bottom, &groups, context)?, &groups, context)
        };
        let mut logits: Vec<Tensor> = self.towers.iter().map(tower).collect::<Result<_>>()?;
        let mut representation = vec![bottom.clone()];
        if let Some(Auxiliary { scenarios, hidden, heads }) = &self.auxiliary {
            let scenario = scenarios.forward(&input.scenarios, context)?;
            let hidden = hidden.forward(&concat(&context.graph, &[scenario, x])?, context)?;
            for (logits, head) in logits.iter_mut().zip(heads) {
                *logits = add(&context.graph, logits, &head.forward(&hidden, context)?)?;
            }
            representation.push(hidden);
        }
        Ok(Output::new(logits, representation))
    }
}

/// Hidden layers of the star topology.
struct Topology {
    layers: Vec<Layer>,
    width: usize,
}

impl Topology {
    fn new(mut builder: Builder, scenarios: usize, input: usize, widths: &[usize], style: Style) -> Result<Self> {
        let (mut layers, mut width) = (Vec::new(), input);
        for (i, &output) in widths.iter().enumerate() {
            if output == 0 {
                return Err(Error::job(format!("layer {i} of `{}` has width 0", builder.path()))
                    .at("key", "model")
                    .fix("give every layer at least one unit"));
            }
            layers.push(Layer::new(builder.at(i), scenarios, width, output, style)?);
            width = output;
        }
        Ok(Self { layers, width })
    }

    fn forward(&self, x: &Tensor, groups: &Groups, context: &Context) -> Result<Tensor> {
        self.layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, groups, context))
    }
}

/// act(x · (W ⊙ W_s) + b + b_s), then dropout.
struct Layer {
    /// Shared, and own of each scenario.
    weight: [Tensor; 2],
    bias: [Tensor; 2],
    activation: Activation,
    dropout: Dropout,
}

impl Layer {
    fn new(mut builder: Builder, scenarios: usize, input: usize, output: usize, style: Style) -> Result<Self> {
        let init = Init::fan_in(input);
        let dropout = Dropout::new(&builder, style.dropout);
        let weight = [
            builder.param("weight", &[input, output], init)?,
            builder.param("own_weight", &[scenarios, input * output], Init::Ones)?,
        ];
        let bias =
            [builder.param("bias", &[output], init)?, builder.param("own_bias", &[scenarios, output], Init::Zeros)?];
        Ok(Self { weight, bias, activation: style.activation, dropout })
    }

    fn forward(&self, x: &Tensor, groups: &Groups, context: &Context) -> Result<Tensor> {
        let weight = join_shared(&self.weight[0], &self.weight[1], Join::Factors, context)?;
        let bias = join_shared(&self.bias[0], &self.bias[1], Join::Terms, context)?;
        let y = generated_linear(x, &weight, &bias, groups, self.activation, context)?;
        self.dropout.forward(&y, context)
    }
}

/// A small network that sees which scenario a row is of, for what a scenario changes for all of its rows.
struct Auxiliary {
    scenarios: ScenarioEmbedding,
    hidden: Mlp,
    heads: Vec<Linear>,
}

impl Auxiliary {
    fn new(
        mut builder: Builder,
        spec: &InputSpec,
        (input, dim): (usize, usize),
        widths: &[usize],
        style: Style,
    ) -> Result<Self> {
        super::parts::at_least_one(dim, "scenario_dim")?;
        let scenarios = ScenarioEmbedding::new(builder.at("scenarios"), spec.scenarios.len(), dim)?;
        let hidden = Mlp::new(builder.at("hidden"), dim + input, widths, style)?;
        let mut builder = builder.at("heads");
        let tasks = spec.tasks.iter().zip(&spec.outputs);
        let head = |(task, &outputs)| Linear::new(builder.at(task), hidden.width(), outputs, Activation::None);
        Ok(Self { scenarios, heads: tasks.map(head).collect::<Result<_>>()?, hidden })
    }
}
