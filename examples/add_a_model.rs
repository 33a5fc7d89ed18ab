//! Wide & deep (Cheng et al., 2016) for several tasks: docs/add-a-model.md explains it block by block.

use serde::{Deserialize, Serialize};
use tandem::Result;
use tandem::config::Component;
use tandem::model::{Input, InputLayer, InputSpec, Model, Output, Tower, last_width, register};
use tandem::nn::{Activation, Context, Linear, Mlp, NormKind, ParamStore, Style, add};

/// Options of `{kind: wide_deep}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Widths of the network that all tasks share. Default `[256, 128]`.
    pub deep: Vec<usize>,
    /// Hidden widths of each task's tower. Default `[64]`.
    pub tower: Vec<usize>,
    /// Dropout rate of hidden layers. Default 0.
    pub dropout: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { deep: vec![256, 128], tower: vec![64], dropout: 0.0 }
    }
}

/// See the module.
struct WideDeep {
    input: InputLayer,
    deep: Mlp,
    towers: Vec<Tower>,
    wide: Vec<Linear>,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    let style = Style::new(Activation::Relu, options.dropout, NormKind::None)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let deep = Mlp::new(store.builder().at("deep"), input.width(), &options.deep, style)?;
    let width = last_width(&options.deep, "deep")?;
    let towers = Tower::per_task(store.builder(), spec, width, &options.tower, style)?;
    let mut wide = Vec::new();
    for (task, &outputs) in spec.tasks.iter().zip(&spec.outputs) {
        let mut builder = store.builder();
        wide.push(Linear::new(builder.at("wide").at(task), input.width(), outputs, Activation::None)?);
    }
    Ok(Box::new(WideDeep { input, deep, towers, wide }))
}

impl Model for WideDeep {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let deep = self.deep.forward(&x, context)?;
        let mut logits = Vec::new();
        for (tower, wide) in self.towers.iter().zip(&self.wide) {
            logits.push(add(&context.graph, &tower.forward(&deep, context)?, &wide.forward(&x, context)?)?);
        }
        Ok(Output::new(logits, vec![deep]))
    }
}

fn main() {
    // SAFETY: no other thread has been started yet.
    unsafe { tandem::observe::threads::keep_candle_on_one_thread() };
    if let Err(error) = register("wide_deep", build) {
        eprintln!("{error}");
        std::process::exit(1);
    }
    std::process::exit(tandem::cli::main());
}
