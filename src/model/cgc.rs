//! Customized gate control (Tang et al., RecSys 2020, section 3.1): one level of [`super::ple`].

use super::{InputLayer, InputSpec, Model, OnFeatures, ple};
use crate::config::Component;
use crate::error::Result;
use crate::nn::{Activation, NormKind, ParamStore};
use serde::{Deserialize, Serialize};

/// Options of `{kind: cgc}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Experts that all tasks share. Default 2.
    pub shared_experts: usize,
    /// Experts of each task. Default 2.
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
            shared_experts: 2,
            task_experts: 2,
            expert: vec![256, 128],
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
    super::parts::last_width(&options.expert, "expert")?;
    let Options { shared_experts, task_experts, expert, gate, tower, activation, dropout, norm } = options;
    let levels = vec![expert];
    let stacked = ple::Options { shared_experts, task_experts, levels, gate, tower, activation, dropout, norm };
    let input = InputLayer::new(spec, &component.kind)?;
    let head = Box::new(ple::Ple::new(input.width(), spec, store, &stacked, ple::SharedInput::PerTask)?);
    Ok(Box::new(OnFeatures { input, head }))
}
