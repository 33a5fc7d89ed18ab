//! y = act(x · W + b) as one operation with its own backward.
//!
//! ```text
//! x  [rows, G · in]     G blocks of columns, one for each group (expert); G = 1 is the plain layer
//! W  [G, in, out]       (plain: [in, out]); row-major, so that all three products below read rows
//! b  [G · out]
//! y  [rows, G · out]    y_g = act(x_g · W_g + b_g)
//!
//! dz = dy ⊙ act'        dx_g = dz_g · W_gᵀ        dW_g = x_gᵀ · dz_g        db = column sums of dz
//! ```
//!
//! The experts of a mixture are one plain layer whose columns are the experts' first layers side by side,
//! then grouped layers: their outputs stay side by side and nothing is copied between layers.

mod at_input;
mod fused;
mod parted;

use super::activation::Activation;
use super::{Builder, Context, Init, Kernels, reference};
use at_input::AtInput;
use candle_core::{DType, Device, Tensor};
use fused::{Dims, Fused};
use std::sync::OnceLock;

/// A linear layer, or G of them side by side, with activation.
#[derive(Debug, Clone)]
pub struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) groups: usize,
    /// Columns of one group.
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) activation: Activation,
}

impl Linear {
    /// A layer from `input` to `output` columns. Weights and biases start as in PyTorch ([`Init::fan_in`]).
    pub fn new(builder: Builder, input: usize, output: usize, activation: Activation) -> crate::Result<Self> {
        let init = Init::fan_in(input);
        Self::build(builder, 1, &[input, output], activation, [init; 2])
    }

    /// A layer whose weights and biases start as `[weights, biases]` say.
    pub fn starting(
        builder: Builder,
        input: usize,
        output: usize,
        activation: Activation,
        init: [Init; 2],
    ) -> crate::Result<Self> {
        Self::build(builder, 1, &[input, output], activation, init)
    }

    /// `groups` layers, each from its own `input` to its own `output` columns.
    pub fn grouped(
        builder: Builder,
        groups: usize,
        input: usize,
        output: usize,
        activation: Activation,
    ) -> crate::Result<Self> {
        match groups {
            1 => Self::new(builder, input, output, activation),
            _ => Self::build(builder, groups, &[groups, input, output], activation, [Init::fan_in(input); 2]),
        }
    }

    /// A layer from `input` to `output` columns whose bias stays 0.
    pub fn without_bias(
        mut builder: Builder,
        input: usize,
        output: usize,
        activation: Activation,
    ) -> crate::Result<Self> {
        let weight = builder.param("weight", &[input, output], Init::fan_in(input))?;
        let bias = Tensor::zeros(output, DType::F32, &Device::Cpu)?;
        Ok(Self { weight, bias, groups: 1, input, output, activation })
    }

    /// The layer of a `weight` `[in, out]` and a `bias` `[out]` that are computed, not registered.
    pub fn of(weight: Tensor, bias: Tensor, activation: Activation) -> crate::Result<Self> {
        let (input, output) = weight.dims2()?;
        Ok(Self { weight, bias, groups: 1, input, output, activation })
    }

    fn build(
        mut builder: Builder,
        groups: usize,
        shape: &[usize],
        activation: Activation,
        init: [Init; 2],
    ) -> crate::Result<Self> {
        let (input, output) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let weight = builder.param("weight", shape, init[0])?;
        let bias = builder.param("bias", &[groups * output], init[1])?;
        Ok(Self { weight, bias, groups, input, output, activation })
    }

    /// `[…, G · in]` → `[…, G · out]`.
    pub fn forward(&self, x: &Tensor, context: &Context) -> crate::Result<Tensor> {
        let Self { weight, bias, groups, activation, .. } = self;
        let x = &x.contiguous()?;
        if context.kernels == Kernels::Reference {
            return Ok(reference::linear(x, weight, bias, *groups, *activation)?);
        }
        let graph = &context.graph;
        let op = Fused {
            groups: *groups,
            activation: *activation,
            precision: context.precision.of_layer(self.input, self.output),
            wants_dx: graph.tracks(x),
            input: OnceLock::new(),
        };
        if !graph.is_input(x) || *groups > 1 {
            return graph.three(x, weight, bias, op);
        }
        let by_rows = self.is_narrow() || op.precision.rounds();
        let parted = if by_rows { None } else { graph.parted(x)? };
        let y = match &parted {
            Some(parted) => op.forward_parted(parted, weight, bias)?,
            None => x.apply_op3_no_bwd(weight, bias, &op)?,
        };
        graph.record(&[x, weight, bias], &y, AtInput { op, parted, family: None })?;
        Ok(y)
    }

    /// Whether it is one layer of few outputs ([`narrow`]).
    fn is_narrow(&self) -> bool {
        let Self { groups, input, output, .. } = *self;
        Dims { rows: 0, groups, input, output }.is_narrow()
    }
}

#[cfg(test)]
mod tests;
