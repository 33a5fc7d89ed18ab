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
//! | `repeats` | the input of a batch in which few distinct rows repeat |
//! | `mix`, `softmax` | gates and mixtures of experts |
//! | `batch_norm`, `layer_norm`, `dropout` | with masks and moments of the global batch |
//! | `attention` | a sequence pooled by a query |
//! | `prompt` | rows times one vector: by column, and inner products |
//! | `reverse` | gradient reversal |
//! | `chain` | probabilities of events of which each needs the one before |
//! | `inner` | inner products row by row |
//! | `segments`, `positions` | sequences without their padding, and where in them an element stands |
//! | `self_attention`, `segment_pool` | on those: multi-head attention, one vector of each |
//! | `rescale` | fields multiplied by their importance |
//! | `pair` | inner products of two embeddings, and their margins |
//! | `generated` | a layer whose weights another network made, for each row or scenario |
//! | `by_scenario` | rows of a table with one row for each scenario |
//! | `product` | products number by number |
//! | `shared_own` | what scenarios share and have of their own, joined |
//! | `mean_row` | a table of scenarios with their mean, for "other" |
//! | `partitioned_norm` | batch norm with the moments of the row's scenario |
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
mod by_scenario;
mod chain;
mod columns;
mod context;
mod dropout;
mod finish;
mod floats;
mod gemm;
mod generated;
mod graph;
mod inner;
mod input_gradient;
mod layer_norm;
mod linear;
mod loss;
mod mean_row;
mod mix;
mod mlp;
mod narrow;
mod pair;
mod parallel;
mod params;
mod partitioned_norm;
mod positions;
mod product;
mod program;
mod prompt;
mod reference;
mod repeats;
mod rescale;
mod reverse;
mod seed;
mod segment_pool;
mod segments;
mod self_attention;
mod shared_own;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod stack;
mod template;
#[cfg(test)]
pub(crate) mod testing;

pub use activation::Activation;
pub use attention::attention_pool;
pub use batch_norm::BatchNorm;
pub use by_scenario::{by_scenario, or_by_scenario};
pub use chain::{excess, joint};
pub use columns::{add, columns, concat, mean, stop_gradient};
pub use context::{AllSum, Context, Kernels};
pub use dropout::Dropout;
pub use finish::Finish;
pub(crate) use floats::Floats;
pub use gemm::Precision;
pub use generated::{Groups, generated_linear};
pub use graph::{Graph, Pass, Tape, Trace, Trunk};
pub use inner::inner;
pub use input_gradient::{InputGradient, weighted_sum};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::Linear;
pub use loss::Loss;
pub use mean_row::with_mean_row;
pub use mix::{mix, mix_all};
pub use mlp::{Mlp, NormKind, Style};
pub use pair::{Sides, pair_margin, pair_score};
pub use params::{Buffer, Builder, Init, ParamStore};
pub use partitioned_norm::PartitionedNorm;
pub use positions::add_positions;
pub use product::multiply;
pub use program::{Node, Primitive, Program, Source, Value};
pub use prompt::{project, scale_columns};
pub use repeats::Repeats;
pub use rescale::rescale;
pub use reverse::reverse_gradient;
pub use seed::backward_from;
pub use segment_pool::{segment_attention, segment_mean};
pub use segments::{Segments, pack, unpack};
pub use self_attention::SelfAttention;
pub use shared_own::{Join, join_shared};
pub use softmax::softmax;
pub use template::{Template, template};
