//! Adaptive information transfer (Xi et al., KDD 2021): along a chain of events each task's network is told what the one
//! before it found.
//!
//! ```text
//! q_k = f_k(x)                                     own bottoms
//! z_1 = q_1        p_k = g_k(z_{k−1})              what the task before hands on
//! z_k = Σ a_u W_V u over u ∈ {p_k, q_k},           a_u ∝ exp(⟨W_Q u, W_K u⟩ / √d)
//! ŷ_k = σ(T_k(z_k))
//! ```
//!
//! The calibrator adds `calibrator` · mean max(ŷ_k − ŷ_{k−1}, 0) to the loss of task k: an event cannot be likelier than
//! the one that it needs.

use super::chain::{After, Link, links};
use super::parts::{Tower, bottoms, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output, Term, TermKind};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::nn::{
    Activation, Builder, Context, Linear, Mlp, NormKind, ParamStore, Style, columns, concat, excess, inner, mix,
    softmax,
};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Options of `{kind: aitm}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The task whose event comes before a task's own. Default: the tasks are one chain, in the order of the job.
    pub after: After,
    /// Weight of the calibrator; 0: without. Default 0.6.
    pub calibrator: f64,
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
            calibrator: 0.6,
            bottom: vec![256, 128],
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// See the module.
struct Aitm {
    input: InputLayer,
    bottoms: Vec<Mlp>,
    /// In the order of the chain.
    links: Vec<Link>,
    /// Of each task that is after another.
    transfers: Vec<Option<Transfer>>,
    towers: Vec<Tower>,
    calibrator: f64,
}

/// From z of the task before and the task's own q to its z.
struct Transfer {
    /// g: what is handed on.
    given: Linear,
    /// W_Q, W_K and W_V side by side: one matrix product.
    attention: Linear,
    width: usize,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    if !(options.calibrator.is_finite() && options.calibrator >= 0.0) {
        return Err(Error::job(format!("a calibrator of weight {} makes no sense", options.calibrator))
            .at("key", "model.calibrator")
            .fix("give 0 (off) or more; the paper has 0.6"));
    }
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let width = last_width(&options.bottom, "bottom")?;
    let all: Vec<usize> = (0..spec.tasks.len()).collect();
    let links = links(&options.after, &all, spec, &component.kind)?;
    let inputs = vec![input.width(); all.len()];
    let bottoms = bottoms(store.builder(), &spec.tasks, &inputs, &options.bottom, style)?;
    let mut transfers: Vec<Option<Transfer>> = all.iter().map(|_| None).collect();
    for Link { task, .. } in links.iter().filter(|link| link.before.is_some()) {
        transfers[*task] = Some(Transfer::new(store.builder().at("transfers").at(&spec.tasks[*task]), width)?);
    }
    let towers = Tower::per_task(store.builder(), spec, width, &options.tower, style)?;
    Ok(Box::new(Aitm { input, bottoms, links, transfers, towers, calibrator: options.calibrator }))
}

impl Transfer {
    fn new(mut builder: Builder, width: usize) -> Result<Self> {
        let given = Linear::new(builder.at("given"), width, width, Activation::None)?;
        let attention = Linear::new(builder.at("attention"), width, 3 * width, Activation::None)?;
        Ok(Self { given, attention, width })
    }

    /// z `[B, d]` of the task before and q `[B, d]` → z `[B, d]`.
    fn forward(&self, before: &Tensor, own: &Tensor, context: &Context) -> Result<Tensor> {
        let (graph, d) = (&context.graph, self.width);
        let (mut scores, mut values) = (Vec::new(), Vec::new());
        for u in [self.given.forward(before, context)?, own.clone()] {
            let all = self.attention.forward(&u, context)?;
            let part = |i: usize| columns(graph, &all, i * d, d);
            scores.push(inner(&part(0)?, &part(1)?, 1.0 / (d as f32).sqrt(), context)?);
            values.push(part(2)?);
        }
        let weights = softmax(&concat(graph, &scores)?, context)?;
        mix(&weights, &concat(graph, &values)?, 2, 0, context)
    }
}

impl Model for Aitm {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let mut z = self.bottoms.iter().map(|bottom| bottom.forward(&x, context)).collect::<Result<Vec<_>>>()?;
        for &Link { task, before } in &self.links {
            if let (Some(before), Some(transfer)) = (before, &self.transfers[task]) {
                z[task] = transfer.forward(&z[before], &z[task], context)?;
            }
        }
        let of_tasks = self.towers.iter().zip(&z);
        let logits = of_tasks.map(|(tower, z)| tower.forward(z, context)).collect::<Result<_>>()?;
        let mut output = Output::new(logits, Vec::new());
        if self.calibrator > 0.0 && context.learns() {
            for &Link { task, before } in &self.links {
                let Some(before) = before else { continue };
                let tensor = excess(&output.logits[task], &output.logits[before], context)?;
                output.terms.push(Term { task, tensor, weight: self.calibrator, kind: TermKind::Penalty });
            }
        }
        Ok(output)
    }
}
