//! Shared and task-specific embeddings (Su et al., AAAI 2024): every feature has an embedding for each task beside the
//! shared one, and a task's loss never reaches the embeddings of another.
//!
//! ```text
//! x_s, x_1 … x_K        the input by each set of tables
//! experts of task k read x_k, shared experts read x_s
//! h_k = Σ over all experts of softmax(V_k (x_k + x_s)) · expert      the other tasks' experts without their gradient
//! ŷ_k = T_k(h_k)
//! ```
//!
//! One level, as in the paper's experiments. Dense columns have no embedding and stand in every x; in x_k + x_s they are
//! doubled, which the gate's first layer makes up for.

use super::parts::{Gate, Tower, at_least_one, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{Activation, Context, Mlp, NormKind, ParamStore, Style, add, mix, stop_gradient};
use serde::{Deserialize, Serialize};

/// Options of `{kind: stem}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Experts that read the shared embeddings. Default 1.
    pub shared_experts: usize,
    /// Experts of each task, which read its own embeddings. Default 1.
    pub task_experts: usize,
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
            shared_experts: 1,
            task_experts: 1,
            expert: vec![256, 128],
            gate: Vec::new(),
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// See the module.
struct Stem {
    /// By the shared tables, then by those of each task.
    inputs: Vec<InputLayer>,
    shared: Mlp,
    shared_experts: usize,
    tasks: Vec<OfTask>,
    task_experts: usize,
}

struct OfTask {
    experts: Mlp,
    gate: Gate,
    tower: Tower,
}

/// The sets of embedding tables: the shared one, then one for each task.
pub fn table_sets(tasks: &[String]) -> Vec<String> {
    std::iter::once(String::new()).chain(tasks.iter().cloned()).collect()
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let Options { shared_experts, task_experts, .. } = options;
    at_least_one(shared_experts, "shared_experts")?;
    at_least_one(task_experts, "task_experts")?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let width = last_width(&options.expert, "expert")?;
    let inputs = InputLayer::of_sets(spec, &component.kind)?;
    if inputs.len() != spec.tasks.len() + 1 {
        return Err(Error::internal(format!("{} sets of tables for {} tasks", inputs.len(), spec.tasks.len())));
    }
    let x = inputs[0].width();
    let mut experts =
        |name: &str, count| Mlp::grouped(store.builder().at("experts").at(name), count, x, &options.expert, style);
    let shared = experts("shared", shared_experts)?;
    let own = spec.tasks.iter().map(|task| experts(task, task_experts)).collect::<Result<Vec<_>>>()?;
    let all = spec.tasks.len() * task_experts + shared_experts;
    let gate = |task| Gate::new(store.builder().at("gates").at(task), x, &options.gate, all, style);
    let gates = spec.tasks.iter().map(gate).collect::<Result<Vec<_>>>()?;
    let towers = Tower::per_task(store.builder(), spec, width, &options.tower, style)?;
    let tasks = own.into_iter().zip(gates).zip(towers).map(|((experts, gate), tower)| OfTask { experts, gate, tower });
    Ok(Box::new(Stem { inputs, shared, shared_experts, tasks: tasks.collect(), task_experts }))
}

impl Model for Stem {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let inputs = self.inputs.iter().map(|layer| layer.forward(input, context)).collect::<Result<Vec<_>>>()?;
        let shared = self.shared.forward(&inputs[0], context)?;
        let experts = self.tasks.iter().zip(&inputs[1..]).map(|(task, x)| task.experts.forward(x, context));
        let mut experts = experts.collect::<Result<Vec<_>>>()?;
        let mut logits = Vec::new();
        for (k, task) in self.tasks.iter().enumerate() {
            let gate = task.gate.forward(&add(&context.graph, &inputs[0], &inputs[k + 1])?, context)?;
            let mut h = mix(&gate, &shared, self.shared_experts, self.tasks.len() * self.task_experts, context)?;
            for (j, experts) in experts.iter().enumerate() {
                let experts = if j == k { experts.clone() } else { stop_gradient(experts)? };
                let part = mix(&gate, &experts, self.task_experts, j * self.task_experts, context)?;
                h = add(&context.graph, &h, &part)?;
            }
            logits.push(task.tower.forward(&h, context)?);
        }
        experts.push(shared);
        Ok(Output::new(logits, experts))
    }
}
