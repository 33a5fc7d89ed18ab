//! Layers of the dense part, with their own backward, and the store of their parameters.
//!
//! Each layer is one operation that computes on slices, forward and backward, and stands as one node on the tape
//! of the step. Plain candle is three times slower than that: its backward allocates and adds a tensor for every
//! bias, broadcast and activation, mostly on one thread.
//!
//! | file | operation |
//! |---|---|
//! | `linear` | x · W + b and the activation, for one layer or for experts side by side |
//! | `narrow` | its products where there are few outputs |
//! | `mix`, `softmax` | gates and mixtures of experts |
//! | `batch_norm`, `layer_norm`, `dropout` | with masks and moments of the global batch |
//! | `attention` | a sequence pooled by a query |
//! | `prompt` | rows times one vector: by column, and inner products |
//! | `reverse` | gradient reversal |
//! | `pair` | inner products of two embeddings, and their margins |
//! | `template` | a weight made of a global, a task's and a scenario's part |
//! | `mlp`, `finish` | hidden layers made of these |
//! | `stack` | hidden layers as one operation in bf16 |
//! | `loss`, `seed` | losses on numbers, and the start of a backward pass from their gradients |
//! | `columns` | columns side by side, some of them, sums |
//! | `graph` | the tape of a forward pass, and the way back |
//! | `program` | a forward pass as plain operations, for export |
//! | `input_gradient` | the gradient of the model's input, once for all tasks |
//! | `reference` | the same layers in candle's own operations |

mod activation;
mod attention;
mod batch_norm;
mod columns;
mod context;
mod dropout;
mod finish;
mod floats;
mod gemm;
mod graph;
mod input_gradient;
mod layer_norm;
mod linear;
mod loss;
mod mix;
mod mlp;
mod narrow;
mod pair;
mod parallel;
mod params;
mod program;
mod prompt;
mod reference;
mod reverse;
mod seed;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod stack;
mod template;
#[cfg(test)]
pub(crate) mod testing;

pub use activation::Activation;
pub use attention::attention_pool;
pub use batch_norm::BatchNorm;
pub use columns::{add, columns, concat};
pub use context::{AllSum, Context, Kernels};
pub use dropout::Dropout;
pub use finish::Finish;
pub use gemm::Precision;
pub use graph::{Graph, Pass, Tape, Trace, Trunk};
pub use input_gradient::{InputGradient, weighted_sum};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use loss::Loss;
pub use mix::mix;
pub use mlp::{Mlp, NormKind, Style};
pub use pair::{Sides, pair_margin, pair_score};
pub use params::{Buffer, Builder, Init, ParamStore};
pub use program::{Node, Primitive, Program, Source, Value};
pub use prompt::{project, scale_columns};
pub use reverse::reverse_gradient;
pub use seed::backward_from;
pub use softmax::softmax;
pub use template::{Template, template};
