//! Progressive layered extraction (Tang et al., RecSys 2020): stacked levels of customized gate control.
//!
//! ```text
//! level l     own experts of task k read x_k, shared experts read x_s     (x_k = x_s = x at the first level)
//! x_k'      = Σ over own_k ∪ shared of softmax(V_k x_k) · expert
//! x_s'      = Σ over own_1 … own_K ∪ shared of softmax(V_s x_s) · expert  (not at the last level)
//! ŷ_k       = T_k(x_k after the last level)
//! ```

use super::head::of_task;
use super::parts::{Gate, Tower, at_least_one, last_width};
use super::{Head, InputLayer, InputSpec, Model, OnFeatures, Output};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{Activation, Builder, Context, Mlp, NormKind, ParamStore, Style, add, mean, mix};
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

/// What the shared experts of the first level read, where each task has an input of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedInput {
    /// Each task's input in turn: K evaluations, one for each task's mixture.
    #[default]
    PerTask,
    /// The mean of the tasks' inputs.
    Mean,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let input = InputLayer::new(spec, &component.kind)?;
    let head = Box::new(head(component, spec, input.width(), SharedInput::PerTask, store)?);
    Ok(Box::new(OnFeatures { input, head }))
}

/// What reads `width` columns.
pub(super) fn head(
    component: &mut Component,
    spec: &InputSpec,
    width: usize,
    shared_input: SharedInput,
    store: &mut ParamStore,
) -> Result<Ple> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    Ple::new(width, spec, store, &options, shared_input)
}

/// See the module.
pub(super) struct Ple {
    levels: Vec<Level>,
    towers: Vec<Tower>,
    shared_input: SharedInput,
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
    /// One, or one for each task.
    shared: Vec<Tensor>,
}

impl Ple {
    pub(super) fn new(
        mut width: usize,
        spec: &InputSpec,
        store: &mut ParamStore,
        options: &Options,
        shared_input: SharedInput,
    ) -> Result<Self> {
        at_least_one(options.shared_experts, "shared_experts")?;
        at_least_one(options.task_experts, "task_experts")?;
        let style = Style::new(options.activation, options.dropout, options.norm)?;
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
        Ok(Self { levels, towers, shared_input })
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
        let shared = x.shared.iter().map(|x| self.shared.layers.forward(x, context)).collect::<Result<Vec<_>>>()?;
        let mut tasks = Vec::new();
        for (task, ((experts, gate), x)) in self.tasks.iter().zip(&x.tasks).enumerate() {
            let gate = gate.forward(x, context)?;
            let own_part = mix(&gate, &outputs[task], experts.count, 0, context)?;
            let shared_part = mix(&gate, of_task(&shared, task), self.shared.count, experts.count, context)?;
            tasks.push(add(&context.graph, &own_part, &shared_part)?);
        }
        let next_shared = match &self.shared_gate {
            Some(gate) => {
                let streams = x.shared.iter().zip(&shared);
                let mixed = |(x, shared)| self.mix_all(&gate.forward(x, context)?, &outputs, shared, context);
                streams.map(mixed).collect::<Result<_>>()?
            }
            None => shared.clone(),
        };
        outputs.extend(shared);
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

impl Ple {
    /// What the first level reads.
    fn streams(&self, inputs: &[Tensor], context: &Context) -> Result<Streams> {
        let tasks = (0..self.towers.len()).map(|task| of_task(inputs, task).clone()).collect();
        let shared = match (self.shared_input, inputs) {
            (SharedInput::PerTask, _) | (_, [_]) => inputs.to_vec(),
            (SharedInput::Mean, _) => vec![mean(&context.graph, inputs)?],
        };
        Ok(Streams { tasks, shared })
    }
}

impl Head for Ple {
    fn forward(&self, inputs: &[Tensor], context: &Context) -> Result<Output> {
        let mut streams = self.streams(inputs, context)?;
        let mut representation = Vec::new();
        for level in &self.levels {
            let (next, outputs) = level.forward(&streams, context)?;
            match inputs {
                [_] => representation = outputs,
                // Tasks with inputs of their own meet where one's experts feed the others' next level, and last where
                // that is so for the last time.
                _ => representation.extend(streams.tasks.into_iter().chain(outputs)),
            }
            streams = next;
        }
        let of_tasks = self.towers.iter().zip(&streams.tasks);
        let logits = of_tasks.map(|(tower, x)| tower.forward(x, context)).collect::<Result<_>>()?;
        Ok(Output::new(logits, representation))
    }
}
