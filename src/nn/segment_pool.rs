//! One vector of each sequence: the mean of its elements, or their sum weighted by how they meet a query.

use super::attention;
use super::floats::{self, Floats, slice};
use super::mix::{add_scaled, dot};
use super::program::{Describe, Primitive, Program, Value, exactly};
use super::softmax::{softmax_row, softmax_row_backward};
use super::{Context, Kernels, Segments, parallel, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Error, Layout, Shape, Tensor};
use std::sync::Arc;

/// Σ_l x_l / n over the n elements of each row of `x` `[P, d]`: `[B, d]`; zeros for a row without elements.
pub fn segment_mean(x: &Tensor, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::segment_mean(x, segments)?);
    }
    let width = segments.width_of(x.dims())?;
    context.graph.two(&x.contiguous()?, segments.mask(), Mean { segments: segments.clone(), width })
}

/// Σ_l a_l x_l with a = softmax_l(q · x_l / √d) over the elements of each row of `x` `[P, d]`, `query` `[B, d]`: `[B, d]`;
/// zeros, with zero gradients, for a row without elements. [`super::attention_pool`] without padding.
pub fn segment_attention(query: &Tensor, x: &Tensor, segments: &Arc<Segments>, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::segment_attention(query, x, segments)?);
    }
    let width = Target::width(segments, query.dims(), x.dims())?;
    context.graph.three(
        &query.contiguous()?,
        &x.contiguous()?,
        segments.mask(),
        Target { segments: segments.clone(), width },
    )
}

struct Mean {
    segments: Arc<Segments>,
    /// Columns of each element (d).
    width: usize,
}

impl Describe for Mean {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x, mask] = exactly(inputs)?;
        let x = self.segments.described_padding(program, x, self.width);
        let here = self.segments.described_mask(program, mask);
        let x = program.mul(x, here);
        let [sum, count] = [x, here].map(|all| program.sum(all, 1));
        // At least 1: max(n − 1, 0) + 1.
        let one = program.scalar(1.0);
        let count = program.sub(count, one);
        let count = program.node(Primitive::Relu, &[count]);
        let count = program.add(count, one);
        let mean = program.div(sum, count);
        Ok(program.reshape(mean, &[0, -1]))
    }
}

impl CustomOp2 for Mean {
    fn name(&self) -> &'static str {
        "segment-mean"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = self.width;
        let x = slice(x, layout)?;
        let y = parallel::new_rows(
            self.segments.rows(),
            d,
            #[inline(always)]
            |row, y| {
                let elements = self.segments.of_row(row);
                let share = 1.0 / elements.len().max(1) as f32;
                for element in elements {
                    add_scaled(y, share, &x[element * d..][..d]);
                }
            },
        );
        floats::stored(y, (self.segments.rows(), d))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let d = self.width;
        let dy = dy.contiguous()?;
        let dy = Floats::of(&dy)?;
        let mut dx = vec![0.0; x.elem_count()];
        parallel::segments(
            &mut dx,
            d,
            self.segments.starts(),
            #[inline(always)]
            |row, dx| {
                let share = 1.0 / self.segments.of_row(row).len().max(1) as f32;
                dx.chunks_exact_mut(d.max(1)).for_each(|dx| add_scaled(dx, share, &dy[row * d..][..d]));
            },
        );
        Ok((Some(floats::tensor(dx, x.dims())?), None))
    }
}

struct Target {
    segments: Arc<Segments>,
    /// Columns of the query and of each element (d).
    width: usize,
}

impl Describe for Target {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [query, x, mask] = exactly(inputs)?;
        let x = self.segments.described_padding(program, x, self.width);
        Ok(attention::described(program, query, x, mask, self.width))
    }
}

/// One row of the batch.
struct Row<'a> {
    query: &'a [f32],
    /// `n × d`.
    x: &'a [f32],
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn elements(&self) -> std::slice::ChunksExact<'a, f32> {
        self.x.chunks_exact(self.query.len().max(1))
    }

    #[inline(always)]
    fn scale(&self) -> f32 {
        1.0 / (self.query.len() as f32).sqrt()
    }

    #[inline(always)]
    fn weights(&self) -> Vec<f32> {
        let mut weights: Vec<f32> = self.elements().map(|x| self.scale() * dot(self.query, x)).collect();
        softmax_row(&mut weights);
        weights
    }

    /// The weights, and the gradient of the loss by their logits times the scale.
    #[inline(always)]
    fn backward(&self, dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let weights = self.weights();
        let mut ds: Vec<f32> = self.elements().map(|x| dot(dy, x)).collect();
        softmax_row_backward(&weights, &mut ds);
        ds.iter_mut().for_each(|ds| *ds *= self.scale());
        (weights, ds)
    }
}

impl Target {
    /// d.
    fn width(segments: &Segments, query: &[usize], x: &[usize]) -> candle_core::Result<usize> {
        let d = segments.width_of(x)?;
        match *query {
            [rows, width] if rows == segments.rows() && width == d => Ok(d),
            _ => Err(Error::Msg(format!("queries {query:?} for {} sequences of {d} columns", segments.rows()))),
        }
    }

    fn row<'a>(&self, row: usize, d: usize, query: &'a [f32], x: &'a [f32]) -> Row<'a> {
        let elements = self.segments.of_row(row);
        Row { query: &query[row * d..][..d], x: &x[elements.start * d..elements.end * d] }
    }
}

impl CustomOp3 for Target {
    fn name(&self) -> &'static str {
        "segment-attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = self.width;
        let (query, x) = (slice(query, query_layout)?, slice(x, x_layout)?);
        let y = parallel::new_rows(
            self.segments.rows(),
            d,
            #[inline(always)]
            |row, y| {
                let row = self.row(row, d, query, x);
                row.elements().zip(row.weights()).for_each(|(x, weight)| add_scaled(y, weight, x));
            },
        );
        floats::stored(y, (self.segments.rows(), d))
    }

    fn bwd(
        &self,
        query: &Tensor,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = self.width;
        let dy = dy.contiguous()?;
        let (q, values, dy) = (Floats::of(query)?, Floats::of(x)?, Floats::of(&dy)?);
        let dquery = parallel::new_rows(
            self.segments.rows(),
            d,
            #[inline(always)]
            |at, dquery| {
                let row = self.row(at, d, &q, &values);
                let (_, ds) = row.backward(&dy[at * d..][..d]);
                row.elements().zip(ds).for_each(|(x, ds)| add_scaled(dquery, ds, x));
            },
        );
        let mut dx = vec![0.0; values.len()];
        parallel::segments(
            &mut dx,
            d,
            self.segments.starts(),
            #[inline(always)]
            |at, dx| {
                let (row, dy) = (self.row(at, d, &q, &values), &dy[at * d..][..d]);
                let (weights, ds) = row.backward(dy);
                for ((dx, weight), ds) in dx.chunks_exact_mut(d.max(1)).zip(weights).zip(ds) {
                    add_scaled(dx, weight, dy);
                    add_scaled(dx, ds, row.query);
                }
            },
        );
        Ok((Some(floats::tensor(dquery, query.dims())?), Some(floats::tensor(dx, x.dims())?), None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, mask, numbers, random};
    use super::super::{attention_pool, pack};
    use super::*;

    #[test]
    fn match_differences_and_plain_operations() {
        for (rows, len, d) in [(1, 1, 1), (4, 3, 2), (9, 5, 3), (600, 4, 20)] {
            let segments = Segments::of(&mask(rows, len)).unwrap();
            let at = context(true, rows);
            let inputs = [random(&[rows, d], 1), random(&[segments.elements(), d], 2)];
            let mean = |t: &[Tensor]| Ok(segment_mean(&t[1], &segments, &at).unwrap());
            check_gradients(&inputs, mean);
            check_matches(&inputs, mean, |t| reference::segment_mean(&t[1], &segments));
            let target = |t: &[Tensor]| Ok(segment_attention(&t[0], &t[1], &segments, &at).unwrap());
            check_gradients(&inputs, target);
            check_matches(&inputs, target, |t| reference::segment_attention(&t[0], &t[1], &segments));
        }
    }

    #[test]
    fn padding_changes_nothing_and_a_row_without_elements_is_zero() {
        let (mask, at) = (mask(8, 4), context(true, 8));
        let (query, x) = (random(&[8, 3], 1), random(&[8, 4, 3], 2));
        let segments = Segments::of(&mask).unwrap();
        let packed = pack(&x, &segments, &at).unwrap();
        let pooled = numbers(&segment_attention(&query, &packed, &segments, &at).unwrap());
        assert_eq!(pooled, numbers(&attention_pool(&query, &x, &mask, &at).unwrap()));
        let mean = numbers(&segment_mean(&packed, &segments, &at).unwrap());
        let empty: Vec<usize> = (0..8).filter(|&row| segments.of_row(row).is_empty()).collect();
        assert!(!empty.is_empty());
        for row in empty {
            assert_eq!([&pooled[3 * row..][..3], &mean[3 * row..][..3]], [&[0.0; 3][..]; 2]);
        }
        assert!(segment_attention(&query.narrow(0, 0, 3).unwrap(), &packed, &segments, &at).is_err());
    }
}
