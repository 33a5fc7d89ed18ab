//! DTRN's task-specific representation refinement module: how much each field of its input matters to a task.
//!
//! ```text
//! s_k = 2σ(W_b ReLU(W_a e_k + a) + b)      one number a field, or one a column; W_b and b start at 0, where s_k = 1
//! o_k = s_k ⊙ e_k
//! ```
//!
//! A reconstruction ([`super`]): an MLP that outputs importance weights for the embeddings, like squeeze-and-excitation (Hu et
//! al., CVPR 2018) but without its squeeze to one number a field.

use super::Options;
use crate::error::Result;
use crate::nn::{Activation, Builder, Context, Init, Linear, rescale};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What has a factor of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refine {
    /// Each field: an embedding, an interest, a number.
    #[default]
    Field,
    /// Each column.
    Element,
    /// Nothing: o_k = e_k.
    None,
}

/// See the module.
pub struct Refinement {
    squeeze: Linear,
    excite: Linear,
    /// Columns that share a factor.
    widths: Arc<[usize]>,
}

impl Refinement {
    /// One for each task, over `fields` of these widths.
    pub fn per_task(mut builder: Builder, options: &Options, tasks: &[String], fields: &[usize]) -> Result<Vec<Self>> {
        let columns: usize = fields.iter().sum();
        let widths: Arc<[usize]> = match options.refine {
            Refine::Field => fields.into(),
            Refine::Element => vec![1; columns].into(),
            Refine::None => return Ok(Vec::new()),
        };
        let hidden = (columns / options.reduction).max(1);
        let build = |task| {
            let mut builder = builder.at(task);
            let squeeze = Linear::new(builder.at("squeeze"), columns, hidden, Activation::Relu)?;
            let init = [Init::Zeros; 2];
            let excite = Linear::starting(builder.at("excite"), hidden, widths.len(), Activation::Sigmoid, init)?;
            Ok(Self { squeeze, excite, widths: widths.clone() })
        };
        tasks.iter().map(build).collect()
    }

    /// e_k `[B, Σ widths]` → o_k of the same shape.
    pub fn forward(&self, e: &Tensor, context: &Context) -> Result<Tensor> {
        let gate = self.excite.forward(&self.squeeze.forward(e, context)?, context)?;
        rescale(e, &gate, &self.widths, context)
    }
}
