//! Multi-head self-attention inside the sequences of a batch.
//!
//! ```text
//! [q k v] = x · W + b      [P, 3d], the heads' columns side by side in each of the three
//! a_ij    = softmax_j(q_i · k_j / √(d / H))     i, j elements of one row, each of the H heads
//! y_i     = Σ_j a_ij v_j, then y · W_o + b_o
//! ```

use super::attention::AWAY;
use super::floats::{self, Floats, slice};
use super::mix::{add_scaled, dot};
use super::program::{Describe, Primitive, Program, Value, exactly};
use super::softmax::{softmax_row, softmax_row_backward};
use super::{Activation, Builder, Context, Kernels, Linear, Segments, parallel, reference};
use crate::error::{Error, Result};
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use std::sync::Arc;

/// Multi-head attention of each element to all elements of its row (Vaswani et al. 2017, section 3.2.2).
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// Queries, keys and values in one product.
    project: Linear,
    output: Linear,
    heads: usize,
}

impl SelfAttention {
    /// Attention over elements of `width` numbers, cut into `heads` heads.
    ///
    /// # Errors
    /// A width that the heads do not divide.
    pub fn new(mut builder: Builder, width: usize, heads: usize) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::job(format!("{heads} attention heads cannot share {width} columns"))
                .fix("the number of heads must divide the embedding's `dim`"));
        }
        let project = Linear::new(builder.at("project"), width, 3 * width, Activation::None)?;
        let output = Linear::new(builder.at("output"), width, width, Activation::None)?;
        Ok(Self { project, output, heads })
    }

    /// `[P, width]` → `[P, width]`.
    pub fn forward(&self, x: &Tensor, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
        let qkv = self.project.forward(x, context)?;
        self.output.forward(&attend(&qkv, self.heads, segments, context)?, context)
    }
}

/// The attention itself, of `qkv` `[P, 3d]`: `[P, d]`.
fn attend(qkv: &Tensor, heads: usize, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::self_attention(qkv, heads, segments)?);
    }
    let d = segments.width_of(qkv.dims())? / 3;
    context.graph.two(&qkv.contiguous()?, segments.mask(), Attend { heads, d, segments: segments.clone() })
}

struct Attend {
    heads: usize,
    /// Columns of the queries, of the keys and of the values.
    d: usize,
    segments: Arc<Segments>,
}

impl Describe for Attend {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [qkv, mask] = exactly(inputs)?;
        let (d, width, len) = (self.d, self.d / self.heads, self.segments.longest());
        let qkv = program.reshape(qkv, &[-1, len as i64, 3 * d as i64]);
        let here = program.node(Primitive::NotZero, &[mask]);
        let one = program.scalar(1.0);
        let away = program.sub(here, one);
        let away = program.scale(away, AWAY);
        let away = program.reshape(away, &[0, 1, len as i64]);
        let head = |program: &mut Program, head: usize| {
            let [query, key, value] = [0, 1, 2].map(|which| program.narrow(qkv, 2, which * d + head * width, width));
            let key = program.transpose(key, &[0, 2, 1]);
            let scores = program.matmul(query, key);
            let scores = program.scale(scores, 1.0 / (width as f32).sqrt());
            let scores = program.add(scores, away);
            let weights = program.softmax(scores);
            program.matmul(weights, value)
        };
        let heads: Vec<Value> = (0..self.heads).map(|number| head(program, number)).collect();
        let y = program.concat(&heads, 2);
        Ok(program.reshape(y, &[-1, d as i64]))
    }
}

/// One head in one row.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// `n × 3d`.
    qkv: &'a [f32],
    d: usize,
    /// First column, and number of columns.
    start: usize,
    width: usize,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn of(self, i: usize, which: usize) -> &'a [f32] {
        &self.qkv[(3 * i + which) * self.d + self.start..][..self.width]
    }

    #[inline(always)]
    fn query(self, i: usize) -> &'a [f32] {
        self.of(i, 0)
    }

    #[inline(always)]
    fn key(self, j: usize) -> &'a [f32] {
        self.of(j, 1)
    }

    #[inline(always)]
    fn value(self, j: usize) -> &'a [f32] {
        self.of(j, 2)
    }

    #[inline(always)]
    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The weights of element `i`, one for each element.
    #[inline(always)]
    fn weights(self, i: usize, weights: &mut [f32]) {
        let scale = self.scale();
        weights.iter_mut().enumerate().for_each(|(j, a)| *a = scale * dot(self.query(i), self.key(j)));
        softmax_row(weights);
    }

    /// Adds to `out` `n × d`.
    #[inline(always)]
    fn forward(self, weights: &mut [f32], out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(self.d).enumerate() {
            self.weights(i, weights);
            let out = &mut out[self.start..][..self.width];
            for (j, a) in weights.iter().enumerate() {
                add_scaled(out, *a, self.value(j));
            }
        }
    }

    /// Adds to the gradient of q, k and v, `n × 3d`.
    #[inline(always)]
    fn backward(self, dy: &[f32], (weights, ds): (&mut [f32], &mut [f32]), dqkv: &mut [f32]) {
        let scale = self.scale();
        let at = |i: usize, which: usize| (3 * i + which) * self.d + self.start;
        for (i, dy) in dy.chunks_exact(self.d).enumerate() {
            let dy = &dy[self.start..][..self.width];
            self.weights(i, weights);
            ds.iter_mut().enumerate().for_each(|(j, ds)| *ds = dot(dy, self.value(j)));
            softmax_row_backward(weights, ds);
            for (j, (a, ds)) in weights.iter().zip(ds.iter()).enumerate() {
                add_scaled(&mut dqkv[at(j, 2)..][..self.width], *a, dy);
                add_scaled(&mut dqkv[at(i, 0)..][..self.width], scale * ds, self.key(j));
                add_scaled(&mut dqkv[at(j, 1)..][..self.width], scale * ds, self.query(i));
            }
        }
    }
}

impl CustomOp2 for Attend {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = self.d;
        debug_assert_eq!(layout.dims(), [self.segments.elements(), 3 * d]);
        let qkv = slice(qkv, layout)?;
        let mut y = vec![0.0; self.segments.elements() * d];
        let width = d / self.heads;
        parallel::segments(
            &mut y,
            d,
            self.segments.starts(),
            #[inline(always)]
            |row, y| {
                let elements = self.segments.of_row(row);
                let mut weights = vec![0.0; elements.len()];
                let qkv = &qkv[elements.start * 3 * d..elements.end * 3 * d];
                for start in (0..d).step_by(width.max(1)) {
                    Head { qkv, d, start, width }.forward(&mut weights, y);
                }
            },
        );
        floats::stored(y, (self.segments.elements(), d))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let d = self.d;
        let dy = dy.contiguous()?;
        let (values, dy) = (Floats::of(qkv)?, Floats::of(&dy)?);
        let mut dqkv = vec![0.0; values.len()];
        let width = d / self.heads;
        parallel::segments(
            &mut dqkv,
            3 * d,
            self.segments.starts(),
            #[inline(always)]
            |row, dqkv| {
                let elements = self.segments.of_row(row);
                let (mut weights, mut ds) = (vec![0.0; elements.len()], vec![0.0; elements.len()]);
                let qkv = &values[elements.start * 3 * d..elements.end * 3 * d];
                let dy = &dy[elements.start * d..elements.end * d];
                for start in (0..d).step_by(width.max(1)) {
                    Head { qkv, d, start, width }.backward(dy, (&mut weights, &mut ds), dqkv);
                }
            },
        );
        Ok((Some(floats::tensor(dqkv, qkv.dims())?), None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ParamStore;
    use super::super::testing::{assert_close, check_gradients, check_matches, context, mask, numbers, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for (rows, len, d, heads) in [(1, 1, 1, 1), (4, 3, 2, 2), (5, 4, 6, 3), (9, 5, 4, 1), (300, 6, 16, 2)] {
            let segments = Segments::of(&mask(rows, len)).unwrap();
            let qkv = [random(&[segments.elements(), 3 * d], 1)];
            let fused = |t: &[Tensor]| Ok(attend(&t[0], heads, &segments, &context(true, rows)).unwrap());
            check_gradients(&qkv, fused);
            check_matches(&qkv, fused, |t| reference::self_attention(&t[0], heads, &segments));
        }
    }

    #[test]
    fn a_row_does_not_see_another() {
        let segments = Segments::of(&mask(6, 4)).unwrap();
        let mut store = ParamStore::new(1);
        let layer = SelfAttention::new(store.builder().at("attention"), 4, 2).unwrap();
        let x = random(&[segments.elements(), 4], 1);
        let whole = numbers(&layer.forward(&x, &segments, &context(true, 6)).unwrap());
        for row in 0..6 {
            let elements = segments.of_row(row);
            let alone = Segments::of(&mask(6, 4).narrow(0, row, 1).unwrap()).unwrap();
            let x = x.narrow(0, elements.start, elements.len()).unwrap();
            let y = layer.forward(&x, &alone, &context(true, 1)).unwrap();
            assert_close(&numbers(&y), &whole[elements.start * 4..elements.end * 4], 1e-6, "row");
        }
    }

    #[test]
    fn heads_must_divide_the_width() {
        let mut store = ParamStore::new(1);
        let error = SelfAttention::new(store.builder().at("attention"), 5, 2).unwrap_err().to_string();
        assert!(error.contains("2 attention heads cannot share 5 columns"), "{error}");
        assert!(SelfAttention::new(store.builder().at("none"), 5, 0).is_err());
    }
}
