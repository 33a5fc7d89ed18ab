//! The layers in candle's own operations: what the fused ones must agree with. Slow, and chosen by `kernels: reference`.
//!
//! Batch norm and dropout are not here: they depend on other ranks and on the position in the global batch, which
//! candle does not know.

mod sequences;

pub use sequences::{add_positions, pack, segment_attention, segment_mean, self_attention, unpack};

use super::{Activation, Sides, Template};
use candle_core::{D, Device, Result, Tensor};

/// act(x · W + b), group by group.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, activation: Activation) -> Result<Tensor> {
    let (input, output) = (x.dim(D::Minus1)? / groups, bias.dim(0)? / groups);
    let weight = weight.reshape((groups, input, output))?;
    let group = |g: usize| {
        let x = x.narrow(D::Minus1, g * input, input)?.contiguous()?;
        let z = x.broadcast_matmul(&weight.get(g)?)?.broadcast_add(&bias.narrow(0, g * output, output)?)?;
        self::activation(activation, &z)
    };
    Tensor::cat(&(0..groups).map(group).collect::<Result<Vec<_>>>()?, D::Minus1)
}

/// The activation of every number.
pub fn activation(activation: Activation, z: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(z.clone()),
        Activation::Relu => z.relu(),
        Activation::Gelu => z.gelu_erf(),
        Activation::Tanh => z.tanh(),
        Activation::Sigmoid => (z.neg()?.exp()? + 1.0)?.recip(),
        Activation::LeakyRelu => z.relu()? - (z.neg()?.relu()? * 0.01)?,
        Activation::Silu => z.silu(),
    }
}

/// The weight of [`super::template`].
pub fn template(global: &Tensor, task: &Tensor, scenario: &Tensor, form: Template) -> Result<Tensor> {
    match form {
        Template::Additive => (global + task)? + scenario,
        Template::Multiplicative => (global * (task + 1.0)?)? * (scenario + 1.0)?,
    }
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    // The largest number is a constant here: the softmax does not depend on it.
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// The mixture of [`super::mix`].
pub fn mix(gate: &Tensor, x: &Tensor, experts: usize, start: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let x = x.reshape((rows, experts, width / experts))?;
    x.broadcast_mul(&gate.narrow(1, start, experts)?.unsqueeze(2)?)?.sum(1)
}

/// Layer norm of each block of `width` columns, then the activation.
pub fn layer_norm(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    width: usize,
    epsilon: f64,
    activation: Activation,
) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let x = x.reshape(((), x.dim(D::Minus1)? / width, width))?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let hat = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?.reshape(dims)?;
    self::activation(activation, &hat.broadcast_mul(scale)?.broadcast_add(shift)?)
}

/// The score of [`super::pair_score`].
pub fn pair_score(x: &Tensor, Sides { left, right, width }: Sides) -> Result<Tensor> {
    (x.narrow(1, left, width)? * x.narrow(1, right, width)?)?.sum_keepdim(1)
}

/// The margins of [`super::pair_margin`].
pub fn pair_margin(x: &Tensor, drawn: &Tensor, sides: Sides) -> Result<Tensor> {
    let left = x.narrow(1, sides.left, sides.width)?.unsqueeze(1)?;
    pair_score(x, sides)?.broadcast_sub(&drawn.broadcast_mul(&left)?.sum(2)?)
}

/// The attention of [`super::attention_pool`]; a row without elements gives zeros.
pub fn attention_pool(query: &Tensor, values: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let d = query.dim(1)? as f64;
    let scores = (values.broadcast_mul(&query.unsqueeze(1)?)?.sum(D::Minus1)? / d.sqrt())?;
    let here = mask.ne(0.0)?.to_dtype(scores.dtype())?;
    let away = ((&here - 1.0)? * 1e30)?;
    let weights = (softmax(&(scores * &here)?.add(&away)?)? * here)?;
    values.broadcast_mul(&weights.unsqueeze(2)?)?.sum(1)
}

/// `factor` · ⟨x_b, p⟩ of every row.
pub fn project(x: &Tensor, vector: &Tensor, factor: f64) -> Result<Tensor> {
    (x.broadcast_mul(vector)?.sum_keepdim(1)? * factor)?.contiguous()
}

/// x, whose gradient is multiplied by −strength: (1 + strength) · x as a constant, less strength · x.
pub fn reverse_gradient(x: &Tensor, strength: f64) -> Result<Tensor> {
    (x.detach() * (1.0 + strength))? - (x * strength)?
}

/// The logit of both events of [`super::joint`].
pub fn joint(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let terms = Tensor::cat(&[a.neg()?, b.neg()?, (a + b)?.neg()?], 1)?;
    let largest = terms.max_keepdim(1)?.detach();
    terms.broadcast_sub(&largest)?.exp()?.sum_keepdim(1)?.log()?.add(&largest)?.neg()
}

/// The difference of [`super::excess`].
pub fn excess(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (activation(Activation::Sigmoid, a)? - activation(Activation::Sigmoid, b)?)?.relu()
}

/// The products of [`super::inner`].
pub fn inner(a: &Tensor, b: &Tensor, factor: f32) -> Result<Tensor> {
    (a * b)?.sum_keepdim(1)? * f64::from(factor)
}

/// The rescaled fields of [`super::rescale`].
pub fn rescale(x: &Tensor, gate: &Tensor, widths: &[usize]) -> Result<Tensor> {
    let of_column = widths.iter().enumerate().flat_map(|(field, &width)| vec![field as u32; width]);
    let of_column = Tensor::from_vec(of_column.collect(), widths.iter().sum::<usize>(), &Device::Cpu)?;
    (x * gate.index_select(&of_column, 1)?)? * 2.0
}
