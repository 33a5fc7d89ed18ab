//! Hidden layers one after the other as one operation in bf16.
//!
//! Layer by layer, every product would round its factors anew from f32 matrices that bias and activation have passed over
//! in between; with products as fast as AMX's, that traffic is most of the time. Here what a layer gives is finished
//! and rounded while it is in the cache, and is the next product's factor as it lies in memory:
//!
//! ```text
//! forward    x ─round─► X₀ ──W₁──► (+ b₁, act, round) X₁ ──W₂──► (+ b₂, act) y
//! backward   dy ─(act', round)─► D₂   dW₂, db₂ = [X₁ 1]ᵀ · D₂     D₂ ──W₂ᵀ──► (act', round) D₁     dW₁, db₁ = [X₀ 1]ᵀ · D₁ …
//! ```
//!
//! The numbers are those of the layers one by one, but for db, which sums rounded gradients, and the derivatives of curved
//! activations, which are taken at the rounded output. The experts of a mixture are
//! groups: the first layer is one matrix whose columns are theirs side by side, the others have a matrix for each.

use super::Activation;
use super::floats::{self, Floats};
use super::gemm::bf16::{
    Block, Panels, Rows, WORDS, product, round_row, store, store_new, store_rounded, widen_rows, words_of,
};
use super::gemm::{BF16_BLOCK as BLOCK, Matrix};
use super::graph::{Operation, Pass};
use super::input_gradient::Part;
use super::linear::Linear;
use super::mix::{add, add_scaled};
use super::program::{Describe, Program, Value, only_in_training};
use super::{Context, Graph, Kernels};
use crate::error::{Error, Result};
use crate::simd;
use candle_core::Tensor;
use rayon::prelude::*;
use std::cell::OnceCell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// `[B, in]` through `layers`, if they can be one operation here: `None` where they must go one by one.
pub(super) fn forward(layers: &[&Linear], x: &Tensor, context: &Context) -> Option<Result<Tensor>> {
    let rounds = |layer: &&Linear| context.precision.of_layer(layer.input, layer.output).rounds();
    let by_output = |layer: &&Linear| !layer.activation.needs_input();
    let own_tape = context.kernels == Kernels::Fused && matches!(context.graph, Graph::None | Graph::Tape(_));
    let reads_one = layers.first().is_some_and(|first| first.groups == 1);
    let fits = reads_one && layers.iter().all(rounds) && layers.iter().all(by_output);
    (own_tape && fits).then(|| run(layers, x, &context.graph))
}

fn run(layers: &[&Linear], x: &Tensor, graph: &Graph) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (rows, width) = floats::rows_of(x.dims());
    let layers: Vec<Layer> = (0..layers.len()).map(|i| Layer::of(layers, i)).collect();
    let mut inputs = vec![Rows::pack(Matrix::new(&Floats::of(&x)?, rows, width, width))];
    let mut y = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        if i + 1 == layers.len() {
            y = layer.last_output(&inputs[i])?;
        } else {
            let next = layer.hidden_output(&inputs[i])?;
            inputs.push(next);
        }
    }
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(y.len() / rows.max(1));
    let y = floats::tensor(y, shape)?;
    let tensors: Vec<Tensor> = layers.iter().flat_map(|layer| [layer.weight.clone(), layer.bias.clone()]).collect();
    let wants_dx = graph.tracks(&x);
    let turned = layers.iter().map(|layer| (0..layer.groups).map(|_| OnceCell::new()).collect()).collect();
    let op = Stack { at_input: graph.is_input(&x), wants_dx, layers, inputs, turned };
    graph.record(&[&x].into_iter().chain(&tensors).collect::<Vec<_>>(), &y, op)?;
    Ok(y)
}

/// One layer.
#[derive(Debug, Clone)]
struct Layer {
    weight: Tensor,
    bias: Tensor,
    activation: Activation,
    /// Groups of its input: 1 where all experts read the same columns.
    groups: usize,
    /// Groups of its output.
    parts: usize,
    /// Columns of one group of its input.
    input: usize,
    /// Columns of one group of its output.
    output: usize,
}

/// The operation on the tape.
struct Stack {
    layers: Vec<Layer>,
    /// What each layer reads: group by group, each filled up to whole blocks.
    inputs: Vec<Rows>,
    /// The same with columns as rows, by group: of use to every backward pass.
    turned: Vec<Vec<OnceCell<Rows>>>,
    at_input: bool,
    wants_dx: bool,
}

impl Layer {
    fn of(layers: &[&Linear], i: usize) -> Self {
        let Linear { weight, bias, groups, input, output, activation } = layers[i];
        let parts = layers.get(i + 1).map_or(*groups, |next| next.groups);
        let output = groups * output / parts;
        let (weight, bias) = (weight.clone(), bias.clone());
        Self { weight, bias, activation: *activation, groups: *groups, parts, input: *input, output }
    }

    /// Columns of its output.
    fn width(&self) -> usize {
        self.parts * self.output
    }

    /// The first word of a part's input.
    fn input_word(&self, part: usize) -> usize {
        if self.groups == 1 { 0 } else { part * words_of(self.input) }
    }

    /// The first word of a part's output.
    fn output_word(&self, part: usize) -> usize {
        part * words_of(self.output)
    }

    /// The columns of the output that are a part's.
    fn columns(&self, part: usize) -> Range<usize> {
        part * self.output..(part + 1) * self.output
    }

    /// The matrix of a part, `[input, output]`.
    fn weight<'a>(&self, values: &'a [f32], part: usize) -> Matrix<'a> {
        match self.groups {
            1 => Matrix::new(&values[part * self.output..], self.input, self.output, self.width()),
            _ => Matrix::new(&values[part * self.input * self.output..], self.input, self.output, self.output),
        }
    }

    /// act(x · W + b) in f32.
    fn last_output(&self, x: &Rows) -> Result<Vec<f32>> {
        let (weight, bias) = (Floats::of(&self.weight)?, Floats::of(&self.bias)?);
        let fill = |y: &mut [MaybeUninit<f32>]| {
            for part in 0..self.parts {
                let (w, columns) = (Panels::pack(self.weight(&weight, part)), self.columns(part));
                let out = y.get_mut(columns.start..).unwrap_or_default();
                product(threads(), x, self.input_word(part), &w, usize::MAX, out, self.width(), |mut block, out| {
                    self.finish(&mut block, &bias[columns.clone()]);
                    store_new(block, out, self.width());
                });
            }
        };
        // SAFETY: the parts are all columns, and their products all rows.
        Ok(unsafe { filled(x.rows() * self.width(), fill) })
    }

    /// act(x · W + b) rounded, as the next layer reads it.
    fn hidden_output(&self, x: &Rows) -> Result<Rows> {
        let mut y = Rows::room(x.rows(), self.parts * words_of(self.output));
        let (weight, bias) = (Floats::of(&self.weight)?, Floats::of(&self.bias)?);
        for part in 0..self.parts {
            let (w, columns) = (Panels::pack(self.weight(&weight, part)), self.columns(part));
            let (stride, first) = (y.stride(), self.output_word(part));
            product(threads(), x, self.input_word(part), &w, usize::MAX, y.words_mut(), stride, |mut block, out| {
                self.finish(&mut block, &bias[columns.clone()]);
                store_rounded(block, out, stride, first);
            });
        }
        Ok(y)
    }

    /// Adds a part's bias, and activates.
    fn finish(&self, block: &mut Block, bias: &[f32]) {
        let Block { sums, column, rows, columns, .. } = block;
        let (sums, bias) = (&mut sums[..*rows * BLOCK], &bias[*column..][..*columns]);
        simd::widest(
            #[inline(always)]
            || {
                for row in sums.chunks_exact_mut(BLOCK) {
                    add(row, bias);
                }
                self.activation.forward(sums);
            },
        );
    }

    /// dz = dy ⊙ act' of the last layer, rounded.
    fn last_gradient(&self, y: &[f32], dy: &[f32], rows: usize) -> Rows {
        let mut dz = Rows::room(rows, self.parts * words_of(self.output));
        let (stride, width) = (dz.stride(), self.width());
        const GROUP: usize = 64;
        dz.words_mut().par_chunks_mut(GROUP * stride).enumerate().for_each(|(group, out)| {
            let mut gradient = vec![0.0; width];
            for (row, out) in (group * GROUP..rows).zip(out.chunks_exact_mut(stride)) {
                gradient.copy_from_slice(&dy[row * width..][..width]);
                let saved = &y[row * width..][..width];
                simd::widest(
                    #[inline(always)]
                    || self.activation.backward(saved, &mut gradient),
                );
                for part in 0..self.parts {
                    let words = &mut out[self.output_word(part)..][..words_of(self.output)];
                    round_row(&gradient[self.columns(part)], words);
                }
            }
        });
        dz
    }

    /// The gradient of the layer `below`, whose output `x` this one reads: (dz · Wᵀ) ⊙ act', rounded.
    fn hidden_gradient(&self, dz: &Rows, x: &Rows, below: &Self) -> Result<Rows> {
        let mut out = Rows::room(dz.rows(), x.len());
        let (stride, weight) = (out.stride(), Floats::of(&self.weight)?);
        for part in 0..self.parts {
            let (w, first) = (Panels::pack(self.weight(&weight, part).t()), self.input_word(part));
            let most = usize::MAX;
            product(threads(), dz, self.output_word(part), &w, most, out.words_mut(), stride, |block, out| {
                let words = &x.words()[block.row * x.stride() + first + block.column / 2..];
                let mut saved = [0.0; BLOCK * BLOCK];
                widen_rows(words, x.stride(), &mut saved[..block.rows * BLOCK]);
                simd::widest(
                    #[inline(always)]
                    || below.activation.backward(&saved, block.sums),
                );
                store_rounded(block, out, stride, first);
            });
        }
        Ok(out)
    }

    /// Adds dz · Wᵀ to `dx`, `[rows, input]`, of a layer whose groups read the same columns.
    fn add_input_gradient(&self, dz: &Rows, dx: &mut [f32]) -> Result<()> {
        let weight = Floats::of(&self.weight)?;
        let mut add = |word, w: Matrix| {
            let w = Panels::pack(w.t());
            let width = self.input;
            product(threads(), dz, word, &w, usize::MAX, dx, width, |block, out| store(block, out, width, true));
        };
        if self.output.is_multiple_of(BLOCK) {
            // The groups' words stand side by side, without a gap.
            add(0, Matrix::new(&weight, self.input, self.width(), self.width()));
        } else {
            (0..self.parts).for_each(|part| add(self.output_word(part), self.weight(&weight, part)));
        }
        Ok(())
    }

    /// dW and db.
    fn parameter_gradients(&self, x: &Rows, turned: &[OnceCell<Rows>], dz: &Rows) -> Result<(Tensor, Tensor)> {
        let turned = |part: usize| {
            let group = if self.groups == 1 { 0 } else { part };
            turned[group].get_or_init(|| x.transposed(self.input_word(part), self.input, true))
        };
        let size = self.input * self.width() / self.groups;
        let (mut dw, mut db) = (Vec::with_capacity(size * self.groups), Vec::with_capacity(self.width()));
        // Of each matrix dW and then db, which is one more row.
        let stride = self.width() / self.groups;
        for group in 0..self.groups {
            let parts = if self.groups == 1 { 0..self.parts } else { group..group + 1 };
            let fill = |both: &mut [MaybeUninit<f32>]| {
                for part in parts.clone() {
                    let d = Panels::of_rows(dz, self.output_word(part), self.output);
                    let out = &mut both[(part - parts.start) * self.output..];
                    product(threads(), turned(part), 0, &d, WORDS, out, stride, |block, out| {
                        store_new(block, out, stride);
                    });
                }
            };
            // SAFETY: the parts are all columns of the group, and their products all rows and that of ones.
            let mut both = unsafe { filled(size + stride, fill) };
            db.extend_from_slice(&both[size..]);
            both.truncate(size);
            if self.groups == 1 {
                dw = both;
            } else {
                dw.extend_from_slice(&both);
            }
        }
        Ok((floats::tensor(dw, self.weight.dims())?, floats::tensor(db, self.bias.dims())?))
    }
}

impl Describe for Stack {
    fn describe(&self, _: &mut Program, _: &[Value]) -> Result<Value> {
        // Evaluation and export are in f32: layer by layer.
        only_in_training("stack")
    }
}

impl Operation for Stack {
    fn backward(&self, inputs: &[Tensor], y: &Tensor, dy: &Tensor, pass: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        let x = inputs.first().ok_or_else(|| Error::internal("hidden layers without an input"))?;
        let dy = dy.contiguous()?;
        let mut gradients = Vec::with_capacity(inputs.len());
        let mut dz: Option<Rows> = None;
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let current = match dz.take() {
                Some(dz) => dz,
                None => layer.last_gradient(&Floats::of(y)?, &Floats::of(&dy)?, self.inputs[i].rows()),
            };
            let (dw, db) = layer.parameter_gradients(&self.inputs[i], &self.turned[i], &current)?;
            gradients.extend([Some(db), Some(dw)]);
            if let Some(below) = i.checked_sub(1) {
                dz = Some(layer.hidden_gradient(&current, &self.inputs[i], &self.layers[below])?);
            } else {
                gradients.push(self.of_input(x, layer, current, pass)?);
            }
        }
        gradients.reverse();
        Ok(gradients)
    }
}

impl Stack {
    /// The gradient of the input, if it is wanted now.
    fn of_input(&self, x: &Tensor, layer: &Layer, dz: Rows, pass: &mut Pass) -> Result<Option<Tensor>> {
        if self.at_input {
            pass.at_input.push(Part::Rounded(RoundedPart { layer: layer.clone(), dz: Arc::new(dz) }));
            return Ok(None);
        }
        if !self.wants_dx {
            return Ok(None);
        }
        let mut dx = vec![0.0; x.elem_count()];
        layer.add_input_gradient(&dz, &mut dx)?;
        Ok(Some(floats::tensor(dx, x.dims())?))
    }
}

/// What a stack that reads the model's input leaves to do for its gradient.
#[derive(Debug, Clone)]
pub(crate) struct RoundedPart {
    layer: Layer,
    dz: Arc<Rows>,
}

impl RoundedPart {
    /// Whether both are of the same layer.
    pub fn joins(&self, other: &Self) -> bool {
        self.layer.weight.id() == other.layer.weight.id()
    }

    /// Adds (Σ w dz) · Wᵀ to `dx`, for parts of one layer.
    pub fn add(parts: &[(f32, &Self)], dx: &mut [f32]) -> Result<()> {
        match parts {
            [] => Ok(()),
            [(1.0, only)] => only.layer.add_input_gradient(&only.dz, dx),
            [(_, first), ..] => first.layer.add_input_gradient(&weighted_sum(parts), dx),
        }
    }
}

/// Σ w dz, rounded.
fn weighted_sum(parts: &[(f32, &RoundedPart)]) -> Rows {
    let first = &parts[0].1.dz;
    let mut out = Rows::room(first.rows(), first.len());
    let (stride, len) = (out.stride(), out.len());
    const GROUP: usize = 64;
    out.words_mut().par_chunks_mut(GROUP * stride).enumerate().for_each(|(group, out)| {
        let (mut sum, mut numbers) = (vec![0.0; 2 * len], vec![0.0; 2 * len]);
        for (row, out) in (group * GROUP..first.rows()).zip(out.chunks_exact_mut(stride)) {
            sum.fill(0.0);
            for (w, part) in parts {
                widen_rows(&part.dz.words()[row * stride..][..len], BLOCK / 2, &mut numbers);
                simd::widest(
                    #[inline(always)]
                    || {
                        add_scaled(&mut sum, *w, &numbers);
                    },
                );
            }
            round_row(&sum, &mut out[..len]);
        }
    });
    out
}

/// A buffer of `len` numbers that `fill` writes, without clearing it first.
///
/// # Safety
/// `fill` must write all of it.
unsafe fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(len);
    fill(&mut numbers.spare_capacity_mut()[..len]);
    // SAFETY: the caller's.
    unsafe { numbers.set_len(len) };
    numbers
}

fn threads() -> usize {
    rayon::current_num_threads()
}

#[cfg(test)]
mod tests;
