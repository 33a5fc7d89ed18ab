//! The gradient of the model's input, computed once for all tasks.
//!
//! With one backward pass per task, dx_k = Σ_layers dz_k · Wᵀ over the layers that read the input x is a third
//! of the work of the widest layer, K times over, while only Σ_k w_k dx_k is needed. So the input is cut off
//! from the tape ([`super::Graph::cut`]), each first layer leaves its dz_k here instead of computing dx_k, and when
//! the weights are known
//!
//! ```text
//! dx = Σ_layers (Σ_k w_k dz_k) · Wᵀ        then on to the embeddings, once
//! ```

use super::floats::{self, Floats};
use super::gemm::{Matrix, Precision, multiply_add};
use super::repeats::Parted;
#[cfg(target_arch = "x86_64")]
use super::stack::RoundedPart;
use super::{mix, narrow, parallel};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// Numbers that are added up at a time: few enough to stay in a cache near the core.
const CHUNK: usize = 1024;

/// What one backward pass left to do for the gradient of the model's input.
#[derive(Debug, Default)]
pub struct InputGradient(Vec<Part>);

/// One operation's part of it.
#[derive(Debug)]
pub(crate) enum Part {
    /// dz `[rows, out]` of a linear layer with weights `[in, out]`: dx = dz · Wᵀ.
    Linear { weight: Tensor, dz: Tensor, blocks: Blocks, precision: Precision },
    /// The same of layers in bf16.
    #[cfg(target_arch = "x86_64")]
    Rounded(RoundedPart),
    /// dx itself.
    Whole(Tensor),
}

/// The part of dx in blocks of columns whose rows repeat.
#[derive(Debug)]
pub(crate) enum Blocks {
    /// The layer reads them as any other column.
    None,
    /// Computed, since the sums that it takes were at hand ([`Parted::gradients`]).
    Done(Vec<Vec<f32>>),
    /// To be computed of the weighted sum of the passes.
    Left,
}

/// The parts of all passes that are to be multiplied by one matrix, with their weights.
struct Layer<'a> {
    weight: &'a Tensor,
    precision: Precision,
    parts: Vec<(f32, &'a Tensor)>,
    blocks: Vec<(f32, &'a Blocks)>,
}

impl Layer<'_> {
    fn is_narrow(&self) -> bool {
        self.weight.dims().last().is_some_and(|&output| output > 0 && narrow::is_narrow(output))
    }
}

impl InputGradient {
    pub(crate) fn push(&mut self, part: Part) {
        self.0.push(part);
    }

    /// Σ w dx over `passes`, for an input of `shape`. Where it is `parted`, rows that repeat may have their sum in the first.
    pub(crate) fn weighted_sum(passes: &[(f64, &Self)], shape: &[usize], parted: Option<&Parted>) -> Result<Tensor> {
        let (rows, width) = floats::rows_of(shape);
        let mut dx = vec![0.0; rows * width];
        let Sorted {
            layers,
            whole,
            #[cfg(target_arch = "x86_64")]
            rounded,
        } = sorted(passes);
        for (w, part) in whole {
            add_scaled(&mut dx, &[(w, Floats::of(part)?)]);
        }
        #[cfg(target_arch = "x86_64")]
        for parts in rounded {
            RoundedPart::add(&parts, &mut dx)?;
        }
        let (narrow, wide): (Vec<_>, Vec<_>) = layers.into_iter().partition(Layer::is_narrow);
        add_narrow(&mut dx, width, &narrow)?;
        for Layer { weight, precision, parts, blocks } in wide {
            let dz = weighted_sum(&parts)?;
            let (dz, weight) = (Floats::of(&dz)?, Floats::of(weight)?);
            let out = dz.len() / rows.max(1);
            match parted.filter(|_| !blocks.is_empty()) {
                Some(parted) => {
                    for (w, blocks) in &blocks {
                        if let Blocks::Done(blocks) = blocks {
                            parted.add_blocks(*w, blocks, &mut dx);
                        }
                    }
                    match blocks.iter().filter(|(_, blocks)| matches!(blocks, Blocks::Left)).count() {
                        0 => {}
                        left if left == blocks.len() => {
                            parted.add_blocks(1.0, &parted.input_gradients(&dz, &weight, out), &mut dx);
                        }
                        _ => return Err(Error::internal("only some passes of a sum leave blocks of the input to it")),
                    }
                    parted.add_rest(&dz, &weight, out, &mut dx);
                }
                None => {
                    let dz = Matrix::new(&dz, rows, out, out);
                    multiply_add(precision, &mut dx, width, dz, Matrix::new(&weight, width, out, out).t());
                }
            }
        }
        Ok(floats::tensor(dx, shape)?)
    }
}

/// The narrow layers' part, in one pass over `dx`.
fn add_narrow(dx: &mut [f32], width: usize, layers: &[Layer]) -> Result<()> {
    let sums = layers.iter().map(|layer| weighted_sum(&layer.parts)).collect::<Result<Vec<_>>>()?;
    let both = sums.iter().zip(layers).map(|(dz, layer)| Ok((Floats::of(dz)?, Floats::of(layer.weight)?)));
    let both = both.collect::<Result<Vec<_>>>()?;
    let both: Vec<(&[f32], &[f32])> = both.iter().map(|(dz, weight)| (&**dz, &**weight)).collect();
    if !both.is_empty() && width > 0 {
        narrow::add_input_gradient(&both, width, dx);
    }
    Ok(())
}

/// The parts of all passes, in the order in which the layers first left something.
#[derive(Default)]
struct Sorted<'a> {
    layers: Vec<Layer<'a>>,
    #[cfg(target_arch = "x86_64")]
    rounded: Vec<Vec<(f32, &'a RoundedPart)>>,
    whole: Vec<(f32, &'a Tensor)>,
}

fn sorted<'a>(passes: &[(f64, &'a InputGradient)]) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    for &(w, InputGradient(parts)) in passes {
        let w = w as f32;
        for part in parts {
            match part {
                Part::Whole(dx) => sorted.whole.push((w, dx)),
                #[cfg(target_arch = "x86_64")]
                Part::Rounded(part) => match sorted.rounded.iter_mut().find(|known| known[0].1.joins(part)) {
                    Some(layer) => layer.push((w, part)),
                    None => sorted.rounded.push(vec![(w, part)]),
                },
                Part::Linear { weight, dz, blocks, precision } => {
                    let known = sorted.layers.iter().position(|known| known.weight.id() == weight.id());
                    let at = known.unwrap_or_else(|| {
                        let (parts, blocks) = (Vec::new(), Vec::new());
                        sorted.layers.push(Layer { weight, precision: *precision, parts, blocks });
                        sorted.layers.len() - 1
                    });
                    let layer = &mut sorted.layers[at];
                    layer.parts.push((w, dz));
                    if !matches!(blocks, Blocks::None) {
                        layer.blocks.push((w, blocks));
                    }
                }
            }
        }
    }
    sorted
}

/// Σ w · part over contiguous tensors of one shape, without a copy where that is the part itself.
///
/// # Errors
/// No part, or one that is not contiguous f32.
pub fn weighted_sum(parts: &[(f32, &Tensor)]) -> Result<Tensor> {
    match parts {
        [] => Err(Error::internal("a weighted sum of nothing")),
        [(1.0, only)] => Ok((*only).clone()),
        [(_, first), ..] => {
            let mut sum = vec![0.0; first.elem_count()];
            let parts = parts.iter().map(|(w, dz)| Ok((*w, Floats::of(dz)?))).collect::<Result<Vec<_>>>()?;
            add_scaled(&mut sum, &parts);
            Ok(floats::tensor(sum, first.dims())?)
        }
    }
}

/// `sum` += Σ w · part.
fn add_scaled(sum: &mut [f32], parts: &[(f32, Floats)]) {
    parallel::rows(
        sum,
        CHUNK,
        #[inline(always)]
        |chunk, sum| {
            for (w, part) in parts {
                mix::add_scaled(sum, *w, &part[chunk * CHUNK..]);
            }
        },
    );
}
