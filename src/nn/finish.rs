//! What follows the product of a hidden layer: normalisation, activation, dropout.

use super::{Activation, BatchNorm, Builder, Context, Dropout, LayerNorm, NormKind, Style};
use crate::error::Result;
use candle_core::Tensor;

/// The end of a hidden layer, or of G of them side by side.
#[derive(Debug, Clone)]
pub struct Finish {
    norm: Option<Norm>,
    dropout: Dropout,
}

#[derive(Debug, Clone)]
enum Norm {
    Batch(BatchNorm),
    Layer(LayerNorm),
}

impl Finish {
    /// For `groups` layers of `width` columns each; a norm's parameters go under `norm`.
    pub fn new(builder: &mut Builder, groups: usize, width: usize, style: Style) -> Result<Self> {
        let dropout = Dropout::new(builder, style.dropout);
        let activation = style.activation;
        let norm = match style.norm {
            NormKind::None => None,
            NormKind::Batch => Some(Norm::Batch(BatchNorm::new(builder.at("norm"), groups * width, activation)?)),
            NormKind::Layer => Some(Norm::Layer(LayerNorm::new(builder.at("norm"), groups, width, activation)?)),
        };
        Ok(Self { norm, dropout })
    }

    /// The activation that the product itself applies: none where a norm comes between.
    pub fn of_product(style: Style) -> Activation {
        if style.norm == NormKind::None { style.activation } else { Activation::None }
    }

    /// Whether the product's own activation is all that there is to do now.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_nothing(&self, context: &Context) -> bool {
        self.norm.is_none() && !self.dropout.drops(context)
    }

    /// `[B, G · width]` → the same shape.
    pub fn forward(&self, z: Tensor, context: &Context) -> Result<Tensor> {
        let y = match &self.norm {
            None => z,
            Some(Norm::Batch(norm)) => norm.forward(&z, context)?,
            Some(Norm::Layer(norm)) => norm.forward(&z, context)?,
        };
        self.dropout.forward(&y, context)
    }
}
