//! Entire space multi-task model (Ma et al., SIGIR 2018): each task has a network of its own on the shared embeddings,
//! and what a network gives is the probability of its event *given the one before it*. A task's prediction is the
//! product along its chain, whose loss is taken over all rows:
//!
//! ```text
//! pCTR    = σ(T_click(x))
//! pCTCVR  = pCTR · pCVR        pCVR = σ(T_buy(x)) never has a loss of its own
//! ```
//!
//! Products are taken as logits ([`crate::nn::joint`]), so that nothing is lost where probabilities are tiny.

use super::chain::{After, Link, links};
use super::parts::{Tower, bottoms, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{Activation, Context, Mlp, NormKind, ParamStore, Style, joint};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Options of `{kind: esmm}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The task whose event comes before a task's own. Default: the tasks are one chain, in the order of the job.
    pub after: After,
    /// Tasks of weight 0 that show a factor: `{cvr: buy}` gives `cvr` the probability of `buy` after the event before it.
    pub conditional: BTreeMap<String, String>,
    /// Widths of each task's bottom. Default `[256, 128]`.
    pub bottom: Vec<usize>,
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
            after: After::new(),
            conditional: BTreeMap::new(),
            bottom: vec![256, 128],
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// See the module.
struct Esmm {
    input: InputLayer,
    /// In the order of the chain, with the network of each.
    steps: Vec<(Link, Mlp, Tower)>,
    /// Tasks that show the factor of another: `(task, other)`.
    shown: Vec<(usize, usize)>,
    tasks: usize,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let width = last_width(&options.bottom, "bottom")?;
    let shown = shown(&options.conditional, spec)?;
    let members: Vec<usize> =
        (0..spec.tasks.len()).filter(|task| shown.iter().all(|(conditional, _)| conditional != task)).collect();
    let links = links(&options.after, &members, spec, &component.kind)?;
    let names: Vec<String> = links.iter().map(|link| spec.tasks[link.task].clone()).collect();
    let bottoms = bottoms(store.builder(), &names, &vec![input.width(); names.len()], &options.bottom, style)?;
    let of_chain = InputSpec { outputs: vec![1; names.len()], tasks: names, ..InputSpec::default() };
    let towers = Tower::per_task(store.builder(), &of_chain, width, &options.tower, style)?;
    let steps = links.into_iter().zip(bottoms).zip(towers).map(|((link, bottom), tower)| (link, bottom, tower));
    Ok(Box::new(Esmm { input, steps: steps.collect(), shown, tasks: spec.tasks.len() }))
}

/// The option `conditional` by number.
fn shown(conditional: &BTreeMap<String, String>, spec: &InputSpec) -> Result<Vec<(usize, usize)>> {
    let wrong = |what: String| Error::job(what).at("key", "model.conditional");
    let number = |name: &String| {
        let found = spec.tasks.iter().position(|task| task == name);
        found.ok_or_else(|| {
            wrong(format!("`{name}` is no task")).fix(format!("the tasks here are: {}", spec.tasks.join(", ")))
        })
    };
    let mut pairs = Vec::new();
    for (name, of) in conditional {
        let (task, other) = (number(name)?, number(of)?);
        if spec.losses.get(task).is_some_and(Option::is_some) {
            return Err(wrong(format!("`{name}` shows a factor of `{of}`, which never has a loss of its own"))
                .fix(format!("give the task `{name}` `weight: 0`")));
        }
        if conditional.contains_key(of) {
            return Err(wrong(format!("`{name}` shows a factor of `{of}`, which shows one itself"))
                .fix("name a task of the chain"));
        }
        pairs.push((task, other));
    }
    Ok(pairs)
}

impl Model for Esmm {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let mut factors: Vec<Option<Tensor>> = vec![None; self.tasks];
        let mut logits = factors.clone();
        for (Link { task, before }, bottom, tower) in &self.steps {
            let factor = tower.forward(&bottom.forward(&x, context)?, context)?;
            logits[*task] = Some(match before.and_then(|before| logits[before].as_ref()) {
                Some(before) => joint(before, &factor, context)?,
                None => factor.clone(),
            });
            factors[*task] = Some(factor);
        }
        for &(task, other) in &self.shown {
            logits[task].clone_from(&factors[other]);
        }
        let logits = logits.into_iter().map(|logits| logits.ok_or_else(|| Error::internal("a task without a step")));
        Ok(Output::new(logits.collect::<Result<_>>()?, Vec::new()))
    }
}
