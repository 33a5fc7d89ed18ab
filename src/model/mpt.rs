//! MPT-Rec: multi-task prompt tuning (arXiv 2408.17214; the authors' code BAI-LAB/MPTRec), for N tasks.
//!
//! ```text
//! shared     h_g = MLP_s(x)        task i     h_i = MLP_i(x)        prompt p_i, a vector
//! gate       π_i = softmax(W_i x), two weights                      f_i = π_i1 (h_i ⊙ p_i) + π_i2 h_g
//! ŷ_i      = σ(tower_i(f_i))       generic    ŷ_i^g = σ(tower_i(h_g))
//! adversary  softmax(U · GRL_α(h_g)) against the row's environment c ∈ {1 … N}
//! L        = Σ_i BCE(ŷ_i) + λ_g Σ_i BCE(ŷ_i^g) + λ_c NLL(c)         α = 2 / (1 + e^(−10 p)) − 1, p the progress
//! ```
//!
//! A row's environment is the task that the model fits best on it ([`super::RowClasses`]). A task of `new_tasks` has no
//! expert: `new_task` attends over those of the others, which a job freezes.

mod new_task;

use super::parts::{Tower, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output, RowClasses, Term, TermKind};
use crate::config::{Component, suggest};
use crate::error::{Error, Result};
use crate::nn::{
    Activation, Builder, Context, Init, Linear, Mlp, NormKind, ParamStore, Style, add, mix, reverse_gradient,
    scale_columns, softmax,
};
use candle_core::Tensor;
use new_task::Attention;
use serde::{Deserialize, Serialize};

/// Options of `{kind: mpt}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Widths of the shared expert and of each task's. Default `[256, 128]`.
    pub expert: Vec<usize>,
    /// Hidden widths of each task's tower. Default `[64, 32]`.
    pub tower: Vec<usize>,
    /// Weight λ_g of the generic predictions' losses. Default 0.9.
    pub generic: f64,
    /// Weight λ_c of the adversary's loss. Default 0.1.
    pub adversary: f64,
    /// Epochs between two assignments of the rows' environments. Default 1.
    pub clustering_interval: u64,
    /// λ_dnn: ½ λ ‖W‖² of the weights of experts and towers is added to the loss. Default 0.
    pub l2: f64,
    /// Tasks that are added to the others, which are frozen. Default `[]`.
    pub new_tasks: Vec<String>,
    /// Temperature T of a new task's attention over the prompts. Default 150.
    pub temperature: f64,
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
            expert: vec![256, 128],
            tower: vec![64, 32],
            generic: 0.9,
            adversary: 0.1,
            clustering_interval: 1,
            l2: 0.0,
            new_tasks: Vec::new(),
            temperature: 150.0,
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// See the module.
struct Mpt {
    input: InputLayer,
    shared: Mlp,
    tasks: Vec<Task>,
    towers: Vec<Tower>,
    /// Absent where a task is new: the others are not trained then.
    adversary: Option<Linear>,
    options: Options,
}

/// What one task has beside its tower.
struct Task {
    prompt: Tensor,
    gate: Linear,
    source: Source,
}

/// Where a task's own representation h comes from.
enum Source {
    Expert(Mlp),
    Others(Attention),
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    check(&options, spec)?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let (x, h) = (input.width(), last_width(&options.expert, "expert")?);
    let shared = Mlp::new(store.builder().at("experts").at("shared"), x, &options.expert, style)?;
    let task = |name: &String| Task::new(store.builder(), name, x, &options, style);
    let tasks: Vec<Task> = spec.tasks.iter().map(task).collect::<Result<_>>()?;
    let towers = Tower::per_task(store.builder(), spec, h, &options.tower, style)?;
    let adversary = match options.new_tasks.is_empty() && options.adversary > 0.0 && tasks.len() > 1 {
        true => Some(Linear::new(store.builder().at("adversary"), h, tasks.len(), Activation::None)?),
        false => None,
    };
    store.penalise(options.l2, |name| {
        (name.starts_with("experts.") || name.starts_with("towers.")) && name.ends_with(".weight")
    });
    Ok(Box::new(Mpt { input, shared, tasks, towers, adversary, options }))
}

fn check(options: &Options, spec: &InputSpec) -> Result<()> {
    let names: Vec<&str> = spec.tasks.iter().map(String::as_str).collect();
    if let Some(at) = options.new_tasks.iter().position(|task| !spec.tasks.contains(task)) {
        let task = &options.new_tasks[at];
        return Err(Error::job(format!("`{task}` is not a task of this job"))
            .at("key", format!("model.new_tasks[{at}]"))
            .fix(suggest(task, &names, "tasks")));
    }
    if spec.tasks.iter().all(|task| options.new_tasks.contains(task)) {
        return Err(Error::job("a new task needs others, over whose prompts it attends")
            .at("key", "model.new_tasks")
            .fix("list the tasks of the checkpoint in `tasks` too; they are frozen and stay as they are"));
    }
    for (key, value, fine) in [
        ("generic", options.generic, options.generic >= 0.0),
        ("adversary", options.adversary, options.adversary >= 0.0),
        ("l2", options.l2, options.l2 >= 0.0),
        ("temperature", options.temperature, options.temperature > 0.0),
    ] {
        if !(fine && value.is_finite()) {
            let wanted = if key == "temperature" { "above 0" } else { "0 or more" };
            return Err(
                Error::job(format!("expected a number {wanted}, found {value}")).at("key", format!("model.{key}"))
            );
        }
    }
    super::parts::at_least_one(options.clustering_interval as usize, "clustering_interval")
}

impl Task {
    fn new(mut root: Builder, name: &str, x: usize, options: &Options, style: Style) -> Result<Self> {
        let h = last_width(&options.expert, "expert")?;
        let prompt = root.at("prompts").at(name).param("vector", &[h], Init::Normal(1.0))?;
        let gate = Linear::without_bias(root.at("gates").at(name), x, 2, Activation::None)?;
        let source = match options.new_tasks.iter().any(|new| new == name) {
            true => Source::Others(Attention::new(root.at("attention").at(name), x, h, options)?),
            false => {
                let mut experts = root.at("experts");
                Source::Expert(Mlp::new(experts.at("tasks").at(name), x, &options.expert, style)?)
            }
        };
        Ok(Self { prompt, gate, source })
    }

    /// f = π_1 (h ⊙ p) + π_2 h_g.
    fn fuse(&self, x: &Tensor, h: &Tensor, shared: &Tensor, context: &Context) -> Result<Tensor> {
        let gate = softmax(&self.gate.forward(x, context)?, context)?;
        let prompted = scale_columns(h, &self.prompt, context)?;
        let (own, generic) = (mix(&gate, &prompted, 1, 0, context)?, mix(&gate, shared, 1, 1, context)?);
        add(&context.graph, &own, &generic)
    }
}

impl Mpt {
    /// h of every task: of its expert, or of those of the others.
    fn own(&self, x: &Tensor, context: &Context) -> Result<Vec<Tensor>> {
        let mut known = Vec::new();
        for task in &self.tasks {
            if let Source::Expert(expert) = &task.source {
                known.push((&task.prompt, expert.forward(x, context)?));
            }
        }
        let mut experts = known.iter().map(|(_, h)| h.clone());
        let h = |task: &Task| match &task.source {
            Source::Expert(_) => experts.next().ok_or_else(|| Error::internal("a task without its expert")),
            Source::Others(attention) => attention.forward(x, &known, context),
        };
        self.tasks.iter().map(h).collect()
    }

    /// The losses of the generic predictions and of the adversary. The adversary's is every task's in equal parts, so that
    /// no task is favoured by it.
    fn terms(&self, shared: &Tensor, input: &Input, context: &Context) -> Result<Vec<Term>> {
        let mut terms = Vec::new();
        let Options { generic, adversary, new_tasks, .. } = &self.options;
        if *generic > 0.0 && new_tasks.is_empty() {
            for (task, tower) in self.towers.iter().enumerate() {
                let tensor = tower.forward(shared, context)?;
                terms.push(Term { task, tensor, weight: *generic, kind: TermKind::Label });
            }
        }
        if let Some(classifier) = &self.adversary {
            let strength = 2.0 / (1.0 + (-10.0 * context.progress).exp()) - 1.0;
            let logits = classifier.forward(&reverse_gradient(shared, strength, context)?, context)?;
            let targets: Vec<Option<u32>> = input.classes.iter().copied().map(Some).collect();
            let weight = adversary / self.tasks.len() as f64;
            let term = |task| Term {
                task,
                tensor: logits.clone(),
                weight,
                kind: TermKind::Class { targets: targets.clone() },
            };
            terms.extend((0..self.tasks.len()).map(term));
        }
        Ok(terms)
    }
}

impl Model for Mpt {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let shared = self.shared.forward(&x, context)?;
        let own = self.own(&x, context)?;
        let parts = self.tasks.iter().zip(&self.towers).zip(&own);
        let logits = parts
            .map(|((task, tower), h)| tower.forward(&task.fuse(&x, h, &shared, context)?, context))
            .collect::<Result<_>>()?;
        let terms = if context.learns() { self.terms(&shared, input, context)? } else { Vec::new() };
        Ok(Output { terms, ..Output::new(logits, vec![shared]) })
    }

    fn row_classes(&self) -> Option<RowClasses> {
        let tasks = (0..self.tasks.len()).collect();
        self.adversary.is_some().then_some(RowClasses { tasks, every_epochs: self.options.clustering_interval })
    }
}

#[cfg(test)]
mod tests;
