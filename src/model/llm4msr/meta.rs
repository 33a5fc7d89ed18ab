//! Layers whose weights a meta network makes of knowledge z.
//!
//! ```text
//! full       W = reshape(A z + a), b = B z + c            A: [64, in · out] for z of 64 numbers
//! rank r     W = V diag(v(z)) U + W⁰, b = B z + c         y = act([x, (x V) ⊙ v(z), z] · [W⁰; U; B] + c)
//! ```
//!
//! The second is one plain layer, since all that is made for a row is the r numbers v(z).

use super::Options;
use crate::error::Result;
use crate::nn::{Activation, Builder, Context, Groups, Init, Linear, by_scenario, concat, generated_linear, multiply};
use candle_core::Tensor;
use std::sync::Arc;

/// What a stack of layers reads and gives.
pub struct Sizes<'a> {
    /// Columns of x.
    pub input: usize,
    /// Columns of each layer.
    pub widths: &'a [usize],
    /// Numbers of z.
    pub knowledge: usize,
}

/// A stack of layers that are made of z.
pub struct Layers(Vec<Layer>);

enum Layer {
    Full {
        weight: Linear,
        bias: Linear,
        activation: Activation,
    },
    LowRank {
        /// V.
        down: Linear,
        /// v.
        diagonal: Linear,
        /// [W⁰; U; B] and c.
        up: Linear,
    },
}

/// What the layers are made of.
enum Knowledge<'a> {
    /// One z for each row.
    Rows(&'a Tensor),
    /// One z for each scenario.
    Scenarios(&'a Tensor, &'a Arc<[u32]>),
}

impl Layers {
    /// Layers that all end in `activation`. Where `ends` they are the last of their level: then the last layer begins
    /// near zero, and training near the backbone.
    pub fn new(
        mut builder: Builder,
        sizes: &Sizes,
        options: &Options,
        activation: Activation,
        ends: bool,
    ) -> Result<Self> {
        let mut input = sizes.input;
        let mut layers = Vec::new();
        for (i, &width) in sizes.widths.iter().enumerate() {
            let small = ends && i + 1 == sizes.widths.len();
            layers.push(Layer::new(builder.at(i), (input, width, sizes.knowledge), options, activation, small)?);
            input = width;
        }
        Ok(Self(layers))
    }

    /// `x` `[B, in]` with layers made of `z` `[B, knowledge]`.
    pub fn of_rows(&self, x: &Tensor, z: &Tensor, context: &Context) -> Result<Tensor> {
        self.forward(x, &Knowledge::Rows(z), context)
    }

    /// `x` `[B, in]` with layers made of the row of `z` `[S + 1, knowledge]` of each row's scenario.
    pub fn of_scenarios(&self, x: &Tensor, z: &Tensor, scenarios: &Arc<[u32]>, context: &Context) -> Result<Tensor> {
        self.forward(x, &Knowledge::Scenarios(z, scenarios), context)
    }

    fn forward(&self, x: &Tensor, knowledge: &Knowledge, context: &Context) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.0 {
            x = layer.forward(&x, knowledge, context)?;
        }
        Ok(x)
    }
}

impl Layer {
    fn new(
        mut builder: Builder,
        (input, output, knowledge): (usize, usize, usize),
        options: &Options,
        activation: Activation,
        small: bool,
    ) -> Result<Self> {
        let tiny = Init::Normal(options.init_std);
        if options.rank == 0 {
            let weight = [tiny, if small { tiny } else { Init::fan_in(input) }];
            let weight = Linear::starting(builder.at("weight"), knowledge, input * output, Activation::None, weight)?;
            let bias = [tiny, Init::Zeros];
            let bias = Linear::starting(builder.at("bias"), knowledge, output, Activation::None, bias)?;
            return Ok(Self::Full { weight, bias, activation });
        }
        let rank = options.rank;
        let none = Activation::None;
        let down = [Init::fan_in(input), Init::Zeros];
        let down = Linear::starting(builder.at("down"), input, rank, none, down)?;
        let diagonal = Linear::new(builder.at("diagonal"), knowledge, rank, none)?;
        let wide = input + rank + knowledge;
        let up = [if small { tiny } else { Init::fan_in(wide) }, Init::Zeros];
        let up = Linear::starting(builder.at("up"), wide, output, activation, up)?;
        Ok(Self::LowRank { down, diagonal, up })
    }

    fn forward(&self, x: &Tensor, knowledge: &Knowledge, context: &Context) -> Result<Tensor> {
        match self {
            Self::Full { weight, bias, activation } => {
                let (z, groups) = match knowledge {
                    Knowledge::Rows(z) => (*z, Groups::Rows),
                    Knowledge::Scenarios(z, scenarios) => (*z, Groups::Scenarios((*scenarios).clone())),
                };
                let (weight, bias) = (weight.forward(z, context)?, bias.forward(z, context)?);
                generated_linear(x, &weight, &bias, &groups, *activation, context)
            }
            Self::LowRank { down, diagonal, up } => {
                // What is made of a scenario is made once, not for each of its rows.
                let (z, diagonal) = match knowledge {
                    Knowledge::Rows(z) => ((*z).clone(), diagonal.forward(z, context)?),
                    Knowledge::Scenarios(z, scenarios) => {
                        let of_rows = |of_scenarios: &Tensor| by_scenario(of_scenarios, scenarios, context);
                        (of_rows(z)?, of_rows(&diagonal.forward(z, context)?)?)
                    }
                };
                let low = multiply(&down.forward(x, context)?, &diagonal, context)?;
                up.forward(&concat(&context.graph, &[x.clone(), low, z])?, context)
            }
        }
    }
}
