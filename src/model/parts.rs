//! Gates and towers: what the architectures have in common.

use super::InputSpec;
use crate::error::{Error, Result};
use crate::nn::{Activation, Builder, Context, Linear, Mlp, Style, softmax};
use candle_core::Tensor;

/// softmax(V · hidden(x) + c): one weight per expert, summing to 1. Hidden layers are optional.
#[derive(Debug, Clone)]
pub struct Gate {
    hidden: Mlp,
    scores: Linear,
}

impl Gate {
    /// A gate over `experts` experts that reads `input` columns.
    pub fn new(mut builder: Builder, input: usize, hidden: &[usize], experts: usize, style: Style) -> Result<Self> {
        let hidden = Mlp::new(builder.at("hidden"), input, hidden, style)?;
        let scores = Linear::new(builder.at("scores"), hidden.width(), experts, Activation::None)?;
        Ok(Self { hidden, scores })
    }

    /// `[B, input]` → `[B, experts]`.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        softmax(&self.scores.forward(&self.hidden.forward(x, context)?, context)?, context)
    }

    /// [`Gate::forward`] of all `gates`, which read the same `x`.
    pub fn forward_all(gates: &[Self], x: &Tensor, context: &Context) -> Result<Vec<Tensor>> {
        if gates.iter().any(|gate| !gate.hidden.is_empty()) {
            return gates.iter().map(|gate| gate.forward(x, context)).collect();
        }
        let scores: Vec<&Linear> = gates.iter().map(|gate| &gate.scores).collect();
        Linear::forward_all(&scores, x, context)?.iter().map(|scores| softmax(scores, context)).collect()
    }
}

/// One stack of hidden layers per task, under `bottoms.<task>`; `inputs` are the columns that each reads.
pub fn bottoms(
    mut builder: Builder,
    tasks: &[String],
    inputs: &[usize],
    widths: &[usize],
    style: Style,
) -> Result<Vec<Mlp>> {
    let mut builder = builder.at("bottoms");
    tasks.iter().zip(inputs).map(|(task, &input)| Mlp::new(builder.at(task), input, widths, style)).collect()
}

/// Hidden layers, then one linear layer to a task's logits.
#[derive(Debug, Clone)]
pub struct Tower {
    hidden: Mlp,
    logits: Linear,
}

impl Tower {
    /// A tower from `input` columns to `outputs` logits.
    pub fn new(mut builder: Builder, input: usize, hidden: &[usize], outputs: usize, style: Style) -> Result<Self> {
        let hidden = Mlp::new(builder.at("hidden"), input, hidden, style)?;
        let logits = Linear::new(builder.at("logits"), hidden.width(), outputs, Activation::None)?;
        Ok(Self { hidden, logits })
    }

    /// One tower per task, under `towers.<task>`.
    pub fn per_task(
        mut builder: Builder,
        spec: &InputSpec,
        input: usize,
        hidden: &[usize],
        style: Style,
    ) -> Result<Vec<Self>> {
        let mut builder = builder.at("towers");
        let tasks = spec.tasks.iter().zip(&spec.outputs);
        tasks.map(|(task, &outputs)| Self::new(builder.at(task), input, hidden, outputs, style)).collect()
    }

    /// `[B, input]` → `[B, outputs]`.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        self.logits.forward(&self.hidden.forward(x, context)?, context)
    }
}

/// An error unless `value`, the option `model.<key>`, is at least 1.
pub fn at_least_one(value: usize, key: &str) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::job(format!("`{key}` must be at least 1")).at("key", format!("model.{key}")))
}

/// The last of an expert's widths; an error if there is none.
pub fn last_width(widths: &[usize], key: &str) -> Result<usize> {
    widths.last().copied().ok_or_else(|| {
        Error::job(format!("`{key}` has no layer"))
            .at("key", format!("model.{key}"))
            .fix("give the widths of the layers, for example [256, 128]")
    })
}
