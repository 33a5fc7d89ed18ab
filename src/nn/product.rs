//! Products of two tensors, number by number.

use super::floats::{self, Floats, slice};
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel};
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};

/// `a` ⊙ `b`, of one shape; or `b` is one number `[1]` that multiplies all of `a`.
pub fn multiply(a: &Tensor, b: &Tensor, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(a.broadcast_mul(b)?);
    }
    context.graph.two(&a.contiguous()?, &b.contiguous()?, Multiply)
}

/// Numbers of a row that are worked on together.
const CHUNK: usize = 1024;

struct Multiply;

impl Multiply {
    /// Whether `b` is one number.
    fn scales(a: &[usize], b: &[usize]) -> Result<bool> {
        match b {
            [1] if a != b => Ok(true),
            _ if a == b => Ok(false),
            _ => Err(Error::Msg(format!("a product of {a:?} and {b:?}"))),
        }
    }
}

impl Describe for Multiply {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [a, b] = exactly(inputs)?;
        Ok(program.mul(a, b))
    }
}

impl CustomOp2 for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let scales = Self::scales(a_layout.dims(), b_layout.dims())?;
        let (a, b) = (slice(a, a_layout)?, slice(b, b_layout)?);
        let mut y = a.to_vec();
        parallel::rows(&mut y, CHUNK, |chunk, y| match scales {
            true => y.iter_mut().for_each(|y| *y *= b[0]),
            false => y.iter_mut().zip(&b[chunk * CHUNK..]).for_each(|(y, &b)| *y *= b),
        });
        floats::stored(y, a_layout.shape().clone())
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scales = Self::scales(a.dims(), b.dims())?;
        let dy = dy.contiguous()?;
        let (x, factor, dy) = (Floats::of(a)?, Floats::of(b)?, Floats::of(&dy)?);
        let mut da = dy.to_vec();
        if scales {
            parallel::rows(&mut da, CHUNK, |_, da| da.iter_mut().for_each(|da| *da *= factor[0]));
            let sums = parallel::sums(dy.len(), 1, dy.len(), |i, sum: &mut [f64]| sum[0] += f64::from(x[i] * dy[i]));
            return Ok((Some(floats::tensor(da, a.dims())?), Some(floats::tensor(vec![sums[0] as f32], 1)?)));
        }
        let mut db = dy.to_vec();
        for (gradient, other) in [(&mut da, &factor), (&mut db, &x)] {
            parallel::rows(gradient, CHUNK, |chunk, gradient| {
                gradient.iter_mut().zip(&other[chunk * CHUNK..]).for_each(|(g, &other)| *g *= other);
            });
        }
        Ok((Some(floats::tensor(da, a.dims())?), Some(floats::tensor(db, b.dims())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for (shape, factor) in
            [(&[1, 1][..], &[1, 1][..]), (&[5, 3], &[5, 3]), (&[300, 70], &[300, 70]), (&[4, 6], &[1])]
        {
            let t = [random(shape, 1), random(factor, 2)];
            check_gradients(&t, |t| t[0].apply_op2(&t[1], Multiply));
            check_matches(&t, |t| t[0].apply_op2(&t[1], Multiply), |t| t[0].broadcast_mul(&t[1]));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_an_error() {
        assert!(multiply(&random(&[2, 3], 1), &random(&[3, 2], 2), &context(true, 2)).is_err());
    }
}
