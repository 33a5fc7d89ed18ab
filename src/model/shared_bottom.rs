//! Shared bottom (Caruana 1997): ŷ_k = T_k(f(x)).

use super::parts::{Tower, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::Result;
use crate::nn::{Activation, Context, Mlp, NormKind, ParamStore, Style};
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

/// See the module.
pub struct SharedBottom {
    input: InputLayer,
    bottom: Mlp,
    towers: Vec<Tower>,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let width = last_width(&options.bottom, "bottom")?;
    let bottom = Mlp::new(store.builder().at("bottom"), input.width(), &options.bottom, style)?;
    let towers = Tower::per_task(store.builder(), spec, width, &options.tower, style)?;
    Ok(Box::new(SharedBottom { input, bottom, towers }))
}

impl Model for SharedBottom {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let bottom = self.bottom.forward(&x, context)?;
        let logits = self.towers.iter().map(|tower| tower.forward(&bottom, context)).collect::<Result<_>>()?;
        Ok(Output::new(logits, vec![bottom]))
    }
}
