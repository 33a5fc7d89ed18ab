//! Progressive layered extraction (Tang et al., RecSys 2020): stacked levels of customized gate control.
//!
//! ```text
//! level l     own experts of task k read x_k, shared experts read x_s     (x_k = x_s = x at the first level)
//! x_k'      = Σ over own_k ∪ shared of softmax(V_k x_k) · expert
//! x_s'      = Σ over own_1 … own_K ∪ shared of softmax(V_s x_s) · expert  (not at the last level)
//! ŷ_k       = T_k(x_k after the last level)
//! ```

use super::parts::{Gate, Tower, at_least_one, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{Activation, Builder, Context, Mlp, NormKind, ParamStore, Style, add, mix};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Options of `{kind: ple}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Experts that all tasks share, at each level. Default 2.
    pub shared_experts: usize,
    /// Experts of each task, at each level. Default 2.
    pub task_experts: usize,
    /// Widths of the experts of each level. Default `[[256], [128]]`: two levels.
    pub levels: Vec<Vec<usize>>,
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
            shared_experts: 2,
            task_experts: 2,
            levels: vec![vec![256], vec![128]],
            gate: Vec::new(),
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let input = InputLayer::new(spec, &component.kind)?;
    Ok(Box::new(Ple::new(input, spec, store, &options)?))
}

/// See the module.
pub struct Ple {
    input: InputLayer,
    levels: Vec<Level>,
    towers: Vec<Tower>,
}

/// One level; h is the width of its experts.
struct Level {
    /// One stack of experts and one gate per task.
    tasks: Vec<(Experts, Gate)>,
    shared: Experts,
    /// Absent at the last level.
    shared_gate: Option<Gate>,
}

/// Experts with the same input, side by side.
struct Experts {
    layers: Mlp,
    count: usize,
}

/// What the experts of one level read, and after them what the next level's read.
struct Streams {
    tasks: Vec<Tensor>,
    shared: Tensor,
}

impl Ple {
    pub(super) fn new(input: InputLayer, spec: &InputSpec, store: &mut ParamStore, options: &Options) -> Result<Self> {
        at_least_one(options.shared_experts, "shared_experts")?;
        at_least_one(options.task_experts, "task_experts")?;
        let style = Style::new(options.activation, options.dropout, options.norm)?;
        let mut width = input.width();
        let mut levels = Vec::new();
        for (l, widths) in options.levels.iter().enumerate() {
            let is_last = l + 1 == options.levels.len();
            let mut builder = store.builder();
            levels.push(Level::new(builder.at("levels").at(l), spec, width, l, is_last, options, style)?);
            width = last_width(widths, "levels")?;
        }
        if levels.is_empty() {
            return Err(Error::job("`levels` is empty").at("key", "model.levels").fix("for example [[256], [128]]"));
        }
        let towers = Tower::per_task(store.builder(), spec, width, &options.tower, style)?;
        Ok(Self { input, levels, towers })
    }
}

impl Level {
    fn new(
        mut builder: Builder,
        spec: &InputSpec,
        input: usize,
        level: usize,
        is_last: bool,
        options: &Options,
        style: Style,
    ) -> Result<Self> {
        let (own, shared) = (options.task_experts, options.shared_experts);
        let widths = &options.levels[level];
        let mut tasks = Vec::new();
        for task in &spec.tasks {
            let mut builder = builder.at("tasks");
            let mut builder = builder.at(task);
            let experts = Experts::new(builder.at("experts"), own, input, widths, style)?;
            tasks.push((experts, Gate::new(builder.at("gate"), input, &options.gate, own + shared, style)?));
        }
        let mut builder = builder.at("shared");
        let shared_experts = Experts::new(builder.at("experts"), shared, input, widths, style)?;
        let all = own * spec.tasks.len() + shared;
        let shared_gate = match is_last {
            true => None,
            false => Some(Gate::new(builder.at("gate"), input, &options.gate, all, style)?),
        };
        Ok(Self { tasks, shared: shared_experts, shared_gate })
    }

    /// Returns what the next level reads, and the outputs of the experts: each task's, then the shared ones.
    fn forward(&self, x: &Streams, context: &Context) -> Result<(Streams, Vec<Tensor>)> {
        let mut outputs = Vec::new();
        for ((experts, _), x) in self.tasks.iter().zip(&x.tasks) {
            outputs.push(experts.layers.forward(x, context)?);
        }
        let shared = self.shared.layers.forward(&x.shared, context)?;
        let mut tasks = Vec::new();
        for (((experts, gate), x), own) in self.tasks.iter().zip(&x.tasks).zip(&outputs) {
            let gate = gate.forward(x, context)?;
            let own_part = mix(&gate, own, experts.count, 0, context)?;
            let shared_part = mix(&gate, &shared, self.shared.count, experts.count, context)?;
            tasks.push(add(&context.graph, &own_part, &shared_part)?);
        }
        let next_shared = match &self.shared_gate {
            Some(gate) => self.mix_all(&gate.forward(&x.shared, context)?, &outputs, &shared, context)?,
            None => shared.clone(),
        };
        outputs.push(shared);
        Ok((Streams { tasks, shared: next_shared }, outputs))
    }

    /// The shared mixture over every expert of the level.
    fn mix_all(&self, gate: &Tensor, outputs: &[Tensor], shared: &Tensor, context: &Context) -> Result<Tensor> {
        let own: usize = self.tasks.iter().map(|(experts, _)| experts.count).sum();
        let mut sum = mix(gate, shared, self.shared.count, own, context)?;
        let mut start = 0;
        for ((experts, _), output) in self.tasks.iter().zip(outputs) {
            sum = add(&context.graph, &sum, &mix(gate, output, experts.count, start, context)?)?;
            start += experts.count;
        }
        Ok(sum)
    }
}

impl Experts {
    fn new(builder: Builder, count: usize, input: usize, widths: &[usize], style: Style) -> Result<Self> {
        last_width(widths, "levels")?;
        Ok(Self { layers: Mlp::grouped(builder, count, input, widths, style)?, count })
    }
}

impl Model for Ple {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let mut streams = Streams { tasks: vec![x.clone(); self.towers.len()], shared: x };
        let mut representation = Vec::new();
        for level in &self.levels {
            (streams, representation) = level.forward(&streams, context)?;
        }
        let of_tasks = self.towers.iter().zip(&streams.tasks);
        let logits = of_tasks.map(|(tower, x)| tower.forward(x, context)).collect::<Result<_>>()?;
        Ok(Output::new(logits, representation))
    }
}
