//! Stage 2 of MPT-Rec: a new task's representation, made of the old tasks' by attention over their prompts.
//!
//! ```text
//! q = LayerNorm(W_2 act(W_1 x))        W_1: x → d/2, W_2: d/2 → d, without biases; act is ReLU by default
//! a = softmax(q · [p_1 … p_N] / T)     h* = Σ_i a_i h_i
//! ```

use super::Options;
use crate::error::Result;
use crate::nn::{Activation, Builder, Context, LayerNorm, Linear, add, concat, mix, project, softmax};
use candle_core::Tensor;

/// Attention over the prompts of other tasks.
pub(super) struct Attention {
    hidden: Linear,
    query: Linear,
    norm: LayerNorm,
    temperature: f64,
}

impl Attention {
    /// Reads `x` columns; prompts and representations have `width` (d).
    pub fn new(mut builder: Builder, x: usize, width: usize, options: &Options) -> Result<Self> {
        let half = (width / 2).max(1);
        Ok(Self {
            hidden: Linear::without_bias(builder.at("hidden"), x, half, options.activation)?,
            query: Linear::without_bias(builder.at("query"), half, width, Activation::None)?,
            norm: LayerNorm::new(builder.at("norm"), 1, width, Activation::None)?,
            temperature: options.temperature,
        })
    }

    /// h* `[B, d]` from each other task's prompt `[d]` and representation `[B, d]`.
    pub fn forward(&self, x: &Tensor, others: &[(&Tensor, Tensor)], context: &Context) -> Result<Tensor> {
        let query = self.query.forward(&self.hidden.forward(x, context)?, context)?;
        let query = self.norm.forward(&query, context)?;
        let score = |(prompt, _): &(&Tensor, Tensor)| project(&query, prompt, 1.0 / self.temperature, context);
        let scores = others.iter().map(score).collect::<Result<Vec<_>>>()?;
        let weights = softmax(&concat(&context.graph, &scores)?, context)?;
        let mut sum = mix(&weights, &others[0].1, 1, 0, context)?;
        for (i, (_, h)) in others.iter().enumerate().skip(1) {
            sum = add(&context.graph, &sum, &mix(&weights, h, 1, i, context)?)?;
        }
        Ok(sum)
    }
}
