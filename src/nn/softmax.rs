//! Softmax over the last dimension.

use super::floats::{self, Floats, slice};
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// y_i = exp(x_i) / Σ_j exp(x_j) along the last dimension.
pub fn softmax(x: &Tensor, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::softmax(x)?);
    }
    context.graph.one(&x.contiguous()?, Softmax)
}

/// Replaces the row by its softmax; the largest element is subtracted first, so nothing overflows.
#[inline(always)]
pub(crate) fn softmax_row(row: &mut [f32]) {
    let max = row.iter().fold(f32::NEG_INFINITY, |max, &v| max.max(v));
    let mut sum = 0.0;
    for v in row.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    row.iter_mut().for_each(|v| *v /= sum);
}

/// dx = y ⊙ (dy − ⟨dy, y⟩), written over `dy`.
#[inline(always)]
pub(crate) fn softmax_row_backward(y: &[f32], dy: &mut [f32]) {
    let inner: f32 = y.iter().zip(dy.iter()).map(|(y, dy)| y * dy).sum();
    dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = y * (*dy - inner));
}

struct Softmax;

impl Describe for Softmax {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [x] = exactly(inputs)?;
        Ok(program.softmax(x))
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = floats::rows_of(layout.dims());
        let mut y = slice(x, layout)?.to_vec();
        parallel::rows(
            &mut y,
            width,
            #[inline(always)]
            |_, row| softmax_row(row),
        );
        floats::stored(y, layout.shape().clone())
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = floats::rows_of(y.dims());
        let dy = dy.contiguous()?;
        let mut dx = Floats::of(&dy)?.to_vec();
        let y = Floats::of(y)?;
        parallel::rows(
            &mut dx,
            width,
            #[inline(always)]
            |row, dx| softmax_row_backward(&y[row * width..(row + 1) * width], dx),
        );
        Ok(Some(floats::tensor(dx, dy.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, numbers, random};
    use super::*;
    use candle_core::Device;

    fn plain(t: &[Tensor]) -> Result<Tensor> {
        reference::softmax(&t[0])
    }

    #[test]
    fn matches_differences_and_plain_operations() {
        for shape in [&[1, 1][..], &[1, 5], &[4, 1], &[3, 7], &[2, 3, 4], &[9000, 4]] {
            let x = [random(shape, 1)];
            check_gradients(&x, |t| t[0].apply_op1(Softmax));
            check_matches(&x, |t| t[0].apply_op1(Softmax), plain);
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let y = softmax(&Tensor::new(&[[1000f32, 1000.0, -1000.0]], &Device::Cpu).unwrap(), &context(true, 1)).unwrap();
        assert_eq!(numbers(&y), [0.5, 0.5, 0.0]);
    }
}
