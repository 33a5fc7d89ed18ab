//! Shared bottom (Caruana 1997): ŷ_k = T_k(f(x)).

use super::parts::{Tower, last_width};
use super::{Head, InputLayer, InputSpec, Model, OnFeatures, Output};
use crate::config::Component;
use crate::error::Result;
use crate::nn::{Activation, Context, Mlp, NormKind, ParamStore, Style};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Options of `{kind: shared_bottom}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Widths of the bottom, which all tasks share. Default `[256, 128]`.
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
            bottom: vec![256, 128],
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// The bottom and the towers.
pub(super) struct SharedBottom {
    bottom: Mlp,
    towers: Vec<Tower>,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let input = InputLayer::new(spec, &component.kind)?;
    let head = Box::new(head(component, spec, input.width(), store)?);
    Ok(Box::new(OnFeatures { input, head }))
}

/// What reads `width` columns.
pub(super) fn head(
    component: &mut Component,
    spec: &InputSpec,
    width: usize,
    store: &mut ParamStore,
) -> Result<SharedBottom> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let hidden = last_width(&options.bottom, "bottom")?;
    let bottom = Mlp::new(store.builder().at("bottom"), width, &options.bottom, style)?;
    let towers = Tower::per_task(store.builder(), spec, hidden, &options.tower, style)?;
    Ok(SharedBottom { bottom, towers })
}

impl Head for SharedBottom {
    fn forward(&self, inputs: &[Tensor], context: &Context) -> Result<Output> {
        let bottoms = inputs.iter().map(|x| self.bottom.forward(x, context)).collect::<Result<Vec<_>>>()?;
        let of_tasks = self.towers.iter().zip(bottoms.iter().cycle());
        let logits = of_tasks.map(|(tower, bottom)| tower.forward(bottom, context)).collect::<Result<_>>()?;
        Ok(Output::new(logits, bottoms))
    }
}
