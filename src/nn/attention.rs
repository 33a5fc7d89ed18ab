//! Attention pooling of a sequence with a target query.

use super::floats::{self, Floats, slice};
use super::mix::dot;
use super::program::{Describe, Primitive, Program, Value, exactly};
use super::softmax::{softmax_row, softmax_row_backward};
use super::{Context, Kernels, parallel, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp3, Error, Layout, Shape, Tensor};

/// out_b = Σ_l a_{b,l} v_{b,l} with a_b = softmax over the elements that are there of q_b · v_{b,l} / √d
/// (scaled dot-product attention, Vaswani et al. 2017, eq. 1, with keys = values).
///
/// `query` `[B, d]`, `values` `[B, L, d]`, `mask` `[B, L]` (not 0: there is an element). Returns `[B, d]`; zeros,
/// with zero gradients, for a row without elements.
pub fn attention_pool(query: &Tensor, values: &Tensor, mask: &Tensor, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::attention_pool(query, values, mask)?);
    }
    let (query, values, mask) = (query.contiguous()?, values.contiguous()?, mask.contiguous()?);
    let width = query.dim(1)?;
    context.graph.three(&query, &values, &mask, Attention { width })
}

struct Attention {
    /// Columns of the query and of each element (d).
    width: usize,
}

impl Describe for Attention {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [query, values, mask] = exactly(inputs)?;
        Ok(described(program, query, values, mask, self.width))
    }
}

/// How far below any score what is not there stands: its weight rounds to 0.
pub(super) const AWAY: f32 = 1e30;

/// The attention of `query` `[B, width]` over `values` `[B, L, width]` as a program.
pub(super) fn described(program: &mut Program, query: Value, values: Value, mask: Value, width: usize) -> Value {
    let query = program.reshape(query, &[0, width as i64, 1]);
    let products = program.matmul(values, query);
    let scores = program.reshape(products, &[0, -1]);
    let scores = program.scale(scores, 1.0 / (width as f32).sqrt());
    let here = program.node(Primitive::NotZero, &[mask]);
    let kept = program.mul(scores, here);
    let one = program.scalar(1.0);
    let absent = program.sub(here, one);
    let absent = program.scale(absent, AWAY);
    let scores = program.add(kept, absent);
    let weights = program.softmax(scores);
    // A row of which nothing is there has no weights at all.
    let weights = program.mul(weights, here);
    let weights = program.reshape(weights, &[0, 1, -1]);
    let sum = program.matmul(weights, values);
    program.reshape(sum, &[0, width as i64])
}

/// One row of the batch.
struct Row<'a> {
    query: &'a [f32],
    /// `L × d`.
    values: &'a [f32],
    mask: &'a [f32],
}

impl<'a> Row<'a> {
    fn new(row: usize, d: usize, query: &'a [f32], values: &'a [f32], mask: &'a [f32], len: usize) -> Self {
        Self {
            query: &query[row * d..][..d],
            values: &values[row * len * d..][..len * d],
            mask: &mask[row * len..][..len],
        }
    }

    /// Pairs (position, value) of the elements that are there.
    fn elements(&self) -> impl Iterator<Item = (usize, &'a [f32])> + Clone {
        let here = self.mask.iter().enumerate().filter(|(_, m)| **m != 0.0);
        let (values, d) = (self.values, self.query.len());
        here.map(move |(position, _)| (position, &values[position * d..][..d]))
    }

    /// Attention weights of the elements that are there, in order.
    fn weights(&self) -> Vec<f32> {
        let scale = 1.0 / (self.query.len() as f32).sqrt();
        let mut weights: Vec<f32> = self.elements().map(|(_, value)| scale * dot(self.query, value)).collect();
        softmax_row(&mut weights);
        weights
    }
}

/// `(B, L, d)`.
fn sizes(query: &[usize], values: &[usize], mask: &[usize]) -> candle_core::Result<(usize, usize, usize)> {
    match (query, values, mask) {
        ([b, d], [b2, l, d2], [b3, l2]) if b == b2 && b == b3 && d == d2 && l == l2 => Ok((*b, *l, *d)),
        _ => Err(Error::Msg(format!("attention of {query:?} over {values:?} with a mask {mask:?}"))),
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
        mask: &CpuStorage,
        mask_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, len, d) = sizes(query_layout.dims(), values_layout.dims(), mask_layout.dims())?;
        let (query, values, mask) =
            (slice(query, query_layout)?, slice(values, values_layout)?, slice(mask, mask_layout)?);
        let mut out = vec![0.0; rows * d];
        parallel::rows(
            &mut out,
            d,
            #[inline(always)]
            |row, out| {
                let row = Row::new(row, d, query, values, mask, len);
                for ((_, value), weight) in row.elements().zip(row.weights()) {
                    out.iter_mut().zip(value).for_each(|(out, &v)| *out += weight * v);
                }
            },
        );
        floats::stored(out, (rows, d))
    }

    fn bwd(
        &self,
        query: &Tensor,
        values: &Tensor,
        mask: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, len, d) = sizes(query.dims(), values.dims(), mask.dims())?;
        let dy = dy.contiguous()?;
        let (q, v, m, dy) = (Floats::of(query)?, Floats::of(values)?, Floats::of(mask)?, Floats::of(&dy)?);
        let (mut dq, mut dv) = (vec![0.0; rows * d], vec![0.0; rows * len * d]);
        parallel::row_pairs(
            &mut dq,
            &mut dv,
            (d, len * d),
            #[inline(always)]
            |row, dq, dv| {
                backward_row(&Row::new(row, d, &q, &v, &m, len), &dy[row * d..][..d], dq, dv);
            },
        );
        Ok((Some(floats::tensor(dq, query.dims())?), Some(floats::tensor(dv, values.dims())?), None))
    }
}

fn backward_row(row: &Row, dy: &[f32], dq: &mut [f32], dv: &mut [f32]) {
    let scale = 1.0 / (dy.len() as f32).sqrt();
    let weights = row.weights();
    let mut ds: Vec<f32> = row.elements().map(|(_, value)| dot(dy, value)).collect();
    softmax_row_backward(&weights, &mut ds);
    for (((position, value), weight), ds) in row.elements().zip(weights).zip(ds) {
        let dv = &mut dv[position * dy.len()..][..dy.len()];
        for i in 0..dy.len() {
            dv[i] = weight * dy[i] + scale * ds * row.query[i];
            dq[i] += scale * ds * value[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, numbers, random};
    use super::*;
    use candle_core::{Device, Tensor};

    /// Row `b` has the elements `l` with (b + l) % 3 ≠ 2 and l < length.
    fn mask(rows: usize, len: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * len).map(|i| f32::from((i / len + i % len) % 3 != 2)).collect();
        Tensor::from_vec(values, (rows, len), &Device::Cpu).unwrap()
    }

    #[test]
    fn matches_differences_and_plain_operations() {
        for (rows, len, d) in [(1, 1, 1), (2, 5, 3), (4, 2, 1), (600, 4, 20)] {
            let present = mask(rows, len);
            let inputs = [random(&[rows, d], 1), random(&[rows, len, d], 2)];
            let fused = |t: &[Tensor]| Ok(attention_pool(&t[0], &t[1], &present, &context(true, rows)).unwrap());
            check_gradients(&inputs, fused);
            check_matches(&inputs, fused, |t| reference::attention_pool(&t[0], &t[1], &present));
        }
    }

    #[test]
    fn a_row_without_elements_is_zero_and_gets_no_gradient() {
        let query = candle_core::Var::from_tensor(&random(&[2, 3], 1)).unwrap();
        let values = candle_core::Var::from_tensor(&random(&[2, 4, 3], 2)).unwrap();
        let mask: Vec<f32> = (0..8).map(|i| f32::from(i == 5)).collect();
        let mask = Tensor::from_vec(mask, (2, 4), &Device::Cpu).unwrap();
        let out = attention_pool(&query, &values, &mask, &context(true, 2)).unwrap();
        let gradients = out.sum_all().unwrap().backward().unwrap();
        assert_eq!(numbers(&out)[..3], [0.0; 3]);
        assert_eq!(numbers(&out)[3..], numbers(&values)[15..18]);
        assert_eq!(numbers(gradients.get(&query).unwrap())[..3], [0.0; 3]);
        let expected: Vec<f64> = (0..24).map(|i| f64::from((15..18).contains(&i))).collect();
        assert_eq!(numbers(gradients.get(&values).unwrap()), expected);
    }
}
