//! Multi-gate mixture of experts (Ma et al., KDD 2018): h_k = Σ_e softmax(V_k x)_e f_e(x), ŷ_k = T_k(h_k).

use super::head::of_task;
use super::parts::{Gate, Tower, at_least_one, last_width};
use super::{Head, InputLayer, InputSpec, Model, OnFeatures, Output};
use crate::config::Component;
use crate::error::Result;
use crate::nn::{Activation, Context, Mlp, NormKind, ParamStore, Style, mix, mix_all};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Options of `{kind: mmoe}` and `{kind: omoe}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Number of experts. Default 4.
    pub experts: usize,
    /// Widths of each expert. Default `[256, 128]`.
    pub expert: Vec<usize>,
    /// Hidden widths of a gate; none: one linear layer. Default `[]`.
    pub gate: Vec<usize>,
    /// Hidden widths of each task's tower. Default `[64]`.
    pub tower: Vec<usize>,
    /// Activation of hidden layers. Default `relu`.
    pub activation: Activation,
    /// Dropout rate of hidden layers. Default 0.
    pub dropout: f64,
    /// Normalisation of hidden layers. Default `none`.
    pub norm: NormKind,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            experts: 4,
            expert: vec![256, 128],
            gate: Vec::new(),
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// Experts that all tasks share, mixed by gates. The experts are one stack of layers side by side
/// ([`Mlp::grouped`]): their first layers are one matrix product.
pub(super) struct Mixture {
    experts: Mlp,
    count: usize,
    gates: Vec<Gate>,
    towers: Vec<Tower>,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let input = InputLayer::new(spec, &component.kind)?;
    let head = Box::new(head(component, spec, input.width(), &spec.tasks, store)?);
    Ok(Box::new(OnFeatures { input, head }))
}

/// What reads `width` columns, with one gate per name: a gate for each task, or one for all.
pub(super) fn head(
    component: &mut Component,
    spec: &InputSpec,
    width: usize,
    gates: &[String],
    store: &mut ParamStore,
) -> Result<Mixture> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    at_least_one(options.experts, "experts")?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let hidden = last_width(&options.expert, "expert")?;
    let experts = Mlp::grouped(store.builder().at("experts"), options.experts, width, &options.expert, style)?;
    let gate = |name| Gate::new(store.builder().at("gates").at(name), width, &options.gate, options.experts, style);
    let gates = gates.iter().map(gate).collect::<Result<_>>()?;
    let towers = Tower::per_task(store.builder(), spec, hidden, &options.tower, style)?;
    Ok(Mixture { experts, count: options.experts, gates, towers })
}

impl Head for Mixture {
    fn forward(&self, inputs: &[Tensor], context: &Context) -> Result<Output> {
        let experts = inputs.iter().map(|x| self.experts.forward(x, context)).collect::<Result<Vec<_>>>()?;
        // A mixture for each input and gate that differ: with one of both every tower reads the same.
        let mixed = match (inputs, experts.as_slice()) {
            ([x], [experts]) => mix_all(&Gate::forward_all(&self.gates, x, context)?, experts, self.count, 0, context)?,
            _ => {
                let mixed = |task| {
                    let gate = of_task(&self.gates, task).forward(of_task(inputs, task), context)?;
                    mix(&gate, of_task(&experts, task), self.count, 0, context)
                };
                (0..inputs.len().max(self.gates.len())).map(mixed).collect::<Result<Vec<_>>>()?
            }
        };
        let of_tasks = self.towers.iter().zip(mixed.iter().cycle());
        let logits = of_tasks.map(|(tower, h)| tower.forward(h, context)).collect::<Result<_>>()?;
        // The tasks meet last where they part: at the mixture, if there is only one.
        let representation = if mixed.len() == 1 { mixed } else { experts };
        Ok(Output::new(logits, representation))
    }
}
