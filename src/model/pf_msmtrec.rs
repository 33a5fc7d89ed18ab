//! The model of a PF-MSMTRec client (arXiv 2406.18938; a reconstruction, as the paper's equations were not to be had): a
//! multi-gate mixture of experts whose experts' weights are made of three parts each,
//!
//!   W = W^G + W^T + W^S   or   W = W^G ⊙ (1 + W^T) ⊙ (1 + W^S),   b = b^G + b^T + b^S,
//!
//! of which `federated:` says what leaves the client. All of it starts in W^G and b^G; the others start at 0. Alone, it is an
//! `mmoe` with more parameters.

use super::parts::{Gate, Tower, at_least_one, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::Result;
use crate::nn::{
    Activation, Builder, Context, Finish, Init, Linear, NormKind, ParamStore, Style, Template, concat, mix_all,
    template,
};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Options of `{kind: pf_msmtrec}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Number of experts.
    experts: usize,
    /// Widths of each expert.
    expert: Vec<usize>,
    /// How an expert's weights are made of their parts.
    template: Template,
    /// Hidden widths of a gate; none: one linear layer.
    gate: Vec<usize>,
    /// Hidden widths of each task's tower.
    tower: Vec<usize>,
    /// Activation of hidden layers.
    activation: Activation,
    /// Dropout rate of hidden layers.
    dropout: f64,
    /// Normalisation of hidden layers.
    norm: NormKind,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            experts: 4,
            expert: vec![256, 128],
            template: Template::Additive,
            gate: Vec::new(),
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::Batch,
        }
    }
}

/// Names of an expert's parts, below the path of a layer.
pub const PARTS: [&str; 3] = ["global", "task", "scenario"];

/// Experts with parts, mixed by a gate per task. Each expert's parameters have a name of their own, `experts.E.L.PART.…`, for
/// they are aggregated expert by expert.
struct PfMsmtRec {
    input: InputLayer,
    experts: Vec<Vec<Layer>>,
    gates: Vec<Gate>,
    towers: Vec<Tower>,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    at_least_one(options.experts, "experts")?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let (x, width) = (input.width(), last_width(&options.expert, "expert")?);
    let expert = |e: usize| expert(store.builder().at("experts").at(e), x, &options, style);
    let experts = (0..options.experts).map(expert).collect::<Result<_>>()?;
    let gate = |name| Gate::new(store.builder().at("gates").at(name), x, &options.gate, options.experts, style);
    let gates = spec.tasks.iter().map(gate).collect::<Result<_>>()?;
    let towers = Tower::per_task(store.builder(), spec, width, &options.tower, style)?;
    Ok(Box::new(PfMsmtRec { input, experts, gates, towers }))
}

fn expert(mut builder: Builder, input: usize, options: &Options, style: Style) -> Result<Vec<Layer>> {
    let mut before = input;
    let mut layers = Vec::new();
    for (i, &width) in options.expert.iter().enumerate() {
        at_least_one(width, "expert")?;
        layers.push(Layer::new(builder.at(i), before, width, options.template, style)?);
        before = width;
    }
    Ok(layers)
}

/// One layer of an expert: weight and bias by part, in the order of [`PARTS`].
struct Layer {
    weights: [Tensor; 3],
    biases: [Tensor; 3],
    form: Template,
    activation: Activation,
    finish: Finish,
}

impl Layer {
    fn new(mut builder: Builder, input: usize, output: usize, form: Template, style: Style) -> Result<Self> {
        let mut part = |part: &str| -> Result<(Tensor, Tensor)> {
            let init = if part == PARTS[0] { Init::fan_in(input) } else { Init::Zeros };
            let mut builder = builder.at(part);
            Ok((builder.param("weight", &[input, output], init)?, builder.param("bias", &[output], init)?))
        };
        let [global, task, scenario] = PARTS;
        let ((wg, bg), (wt, bt), (ws, bs)) = (part(global)?, part(task)?, part(scenario)?);
        let finish = Finish::new(&mut builder, 1, output, style)?;
        let activation = Finish::of_product(style);
        Ok(Self { weights: [wg, wt, ws], biases: [bg, bt, bs], form, activation, finish })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let whole = |form, [global, task, scenario]: &[Tensor; 3]| template(form, global, task, scenario, context);
        let weight = whole(self.form, &self.weights)?;
        let bias = whole(Template::Additive, &self.biases)?;
        let z = Linear::of(weight, bias, self.activation)?.forward(x, context)?;
        self.finish.forward(z, context)
    }
}

impl Model for PfMsmtRec {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let expert = |layers: &Vec<Layer>| layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, context));
        let outputs: Vec<Tensor> = self.experts.iter().map(expert).collect::<Result<_>>()?;
        let experts = concat(&context.graph, &outputs)?;
        let gates = Gate::forward_all(&self.gates, &x, context)?;
        let mixed = mix_all(&gates, &experts, self.experts.len(), 0, context)?;
        let logits = mixed.iter().zip(&self.towers).map(|(mixed, tower)| tower.forward(mixed, context));
        Ok(Output::new(logits.collect::<Result<_>>()?, vec![experts]))
    }
}
