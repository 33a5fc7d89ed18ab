//! A network for each task: ŷ_k = T_k(f_k(x_k)). The baseline that shares nothing, or only the embeddings.

use super::parts::{Tower, bottoms, last_width};
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::Component;
use crate::error::Result;
use crate::nn::{Activation, Context, Mlp, NormKind, ParamStore, Style};
use serde::{Deserialize, Serialize};

/// Options of `{kind: single_task}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Whose the embedding tables are. Default `shared`.
    pub embeddings: Tables,
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

/// Whose the embedding tables are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tables {
    /// All tasks'.
    #[default]
    Shared,
    /// Each task has its own: then the tasks are models of their own, trained side by side.
    Own,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            embeddings: Tables::Shared,
            bottom: vec![256, 128],
            tower: vec![64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// See the module.
struct SingleTask {
    /// One, or one per task.
    inputs: Vec<InputLayer>,
    bottoms: Vec<Mlp>,
    towers: Vec<Tower>,
}

/// The sets of embedding tables: one for all tasks, or one for each.
pub fn table_sets(component: &Component, tasks: &[String]) -> Result<Vec<String>> {
    let Options { embeddings, .. } = component.options("model")?;
    Ok(match embeddings {
        Tables::Shared => vec![String::new()],
        Tables::Own => tasks.to_vec(),
    })
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let width = last_width(&options.bottom, "bottom")?;
    let inputs = InputLayer::of_sets(spec, &component.kind)?;
    let widths: Vec<usize> = spec.tasks.iter().zip(inputs.iter().cycle()).map(|(_, input)| input.width()).collect();
    let bottoms = bottoms(store.builder(), &spec.tasks, &widths, &options.bottom, style)?;
    let towers = Tower::per_task(store.builder(), spec, width, &options.tower, style)?;
    Ok(Box::new(SingleTask { inputs, bottoms, towers }))
}

impl Model for SingleTask {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let inputs = self.inputs.iter().map(|layer| layer.forward(input, context)).collect::<Result<Vec<_>>>()?;
        let networks = self.bottoms.iter().zip(&self.towers).zip(inputs.iter().cycle());
        let logits = networks.map(|((bottom, tower), x)| tower.forward(&bottom.forward(x, context)?, context));
        Ok(Output::new(logits.collect::<Result<_>>()?, Vec::new()))
    }
}
