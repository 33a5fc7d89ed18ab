//! A transformer over behaviour sequences (Vaswani et al. 2017) whose layer norms are given to it.
//!
//! ```text
//! post    H = norm(X + attention(X))       X' = norm(H + feed_forward(H))
//! pre     H = X + attention(norm(X))       X' = H + feed_forward(norm(H))
//! ```
//!
//! With the norms after the sums, the first attention does not depend on what norms it is given: it runs once for all of
//! them ([`Transformer::shared`]).

use super::Options;
use crate::error::Result;
use crate::nn::{Activation, Builder, Context, Linear, Segments, SelfAttention, add, columns, layer_norm};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where the layer norms stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormOrder {
    /// After each residual sum, as in the first transformer: the first attention is shared by all tasks.
    #[default]
    Post,
    /// Before attention and feed-forward: every attention is run for each task.
    Pre,
}

/// Scale and shift of every layer norm, in the order in which they are used: `[1, norms · d]` each.
pub struct Norms {
    /// γ.
    pub scales: Tensor,
    /// β.
    pub shifts: Tensor,
}

impl Norms {
    /// Scale and shift `[1, d]` of the layer norm `number`.
    fn of(&self, number: usize, d: usize, context: &Context) -> Result<(Tensor, Tensor)> {
        let part = |all: &Tensor| columns(&context.graph, all, number * d, d);
        Ok((part(&self.scales)?, part(&self.shifts)?))
    }
}

/// N blocks over packed elements `[P, d]`.
pub struct Transformer {
    blocks: Vec<Block>,
    order: NormOrder,
    dim: usize,
}

struct Block {
    attention: SelfAttention,
    widen: Linear,
    narrow: Linear,
}

impl Transformer {
    /// Over elements of `dim` numbers.
    pub fn new(mut builder: Builder, options: &Options, dim: usize) -> Result<Self> {
        let wide = options.feed_forward.unwrap_or(4 * dim);
        let block = |number| -> Result<Block> {
            let mut builder = builder.at(number);
            let attention = SelfAttention::new(builder.at("attention"), dim, options.attention_heads)
                .map_err(|error| error.at("key", "model.attention_heads"))?;
            let widen = Linear::new(builder.at("feed_forward").at(0), dim, wide, Activation::Relu)?;
            let narrow = Linear::new(builder.at("feed_forward").at(1), wide, dim, Activation::None)?;
            Ok(Block { attention, widen, narrow })
        };
        let blocks = (0..options.blocks).map(block).collect::<Result<_>>()?;
        Ok(Self { blocks, order: options.norm_order, dim })
    }

    /// Number of layer norms: two a block.
    pub fn norms(&self) -> usize {
        2 * self.blocks.len()
    }

    /// As far as no norm has a say: `[P, d]` → `[P, d]`.
    pub fn shared(&self, x: &Tensor, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
        match (self.order, self.blocks.first()) {
            (NormOrder::Post, Some(block)) => add(&context.graph, x, &block.attention.forward(x, segments, context)?),
            _ => Ok(x.clone()),
        }
    }

    /// The rest, from what [`Transformer::shared`] gave: `[P, d]` → `[P, d]`.
    pub fn own(&self, shared: &Tensor, norms: &Norms, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
        let mut x = shared.clone();
        for (number, block) in self.blocks.iter().enumerate() {
            let norm = |which: usize, x: &Tensor| {
                let (scale, shift) = norms.of(2 * number + which, self.dim, context)?;
                layer_norm(x, &scale, &shift, context)
            };
            let attended =
                |x: &Tensor, of: &Tensor| add(&context.graph, x, &block.attention.forward(of, segments, context)?);
            let fed = |x: &Tensor, of: &Tensor| {
                add(&context.graph, x, &block.narrow.forward(&block.widen.forward(of, context)?, context)?)
            };
            x = match self.order {
                NormOrder::Post => {
                    let h = norm(0, &if number == 0 { x } else { attended(&x, &x)? })?;
                    norm(1, &fed(&h, &h)?)?
                }
                NormOrder::Pre => {
                    let h = attended(&x, &norm(0, &x)?)?;
                    fed(&h, &norm(1, &h)?)?
                }
            };
        }
        Ok(x)
    }
}
