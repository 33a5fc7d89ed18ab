//! Inner products row by row.

use super::floats::{self, Floats, slice};
use super::mix::dot;
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};

/// `factor` · ⟨a, b⟩ of each row of two tensors `[B, d]`: `[B, 1]`.
pub fn inner(a: &Tensor, b: &Tensor, factor: f32, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::inner(a, b, factor)?);
    }
    context.graph.two(&a.contiguous()?, &b.contiguous()?, Inner { factor })
}

struct Inner {
    factor: f32,
}

impl Describe for Inner {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [a, b] = exactly(inputs)?;
        let products = program.mul(a, b);
        let sum = program.sum(products, 1);
        Ok(program.scale(sum, self.factor))
    }
}

impl CustomOp2 for Inner {
    fn name(&self) -> &'static str {
        "inner"
    }

    fn cpu_fwd(&self, a: &CpuStorage, at_a: &Layout, b: &CpuStorage, at_b: &Layout) -> Result<(CpuStorage, Shape)> {
        if at_a.dims() != at_b.dims() || at_a.dims().len() != 2 {
            return Err(Error::Msg(format!("inner products of {:?} and {:?}", at_a.dims(), at_b.dims())));
        }
        let (rows, d) = floats::rows_of(at_a.dims());
        let (a, b) = (slice(a, at_a)?, slice(b, at_b)?);
        let y = parallel::new_rows(
            rows,
            1,
            #[inline(always)]
            |row, y| {
                y[0] = self.factor * dot(&a[row * d..][..d], &b[row * d..][..d]);
            },
        );
        floats::stored(y, (rows, 1))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, d) = floats::rows_of(a.dims());
        let dy = dy.contiguous()?;
        let (x, y, gradient) = (Floats::of(a)?, Floats::of(b)?, Floats::of(&dy)?);
        let (da, db) = parallel::new_row_pairs(
            rows,
            (d, d),
            #[inline(always)]
            |row, da, db| {
                let scale = self.factor * gradient[row];
                da.iter_mut().zip(&y[row * d..]).for_each(|(da, y)| *da = scale * y);
                db.iter_mut().zip(&x[row * d..]).for_each(|(db, x)| *db = scale * x);
            },
        );
        Ok((Some(floats::tensor(da, a.dims())?), Some(floats::tensor(db, b.dims())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for (rows, d, factor) in [(1, 1, 1.0), (5, 9, 0.25), (3000, 17, -2.0)] {
            let t = [random(&[rows, d], 1), random(&[rows, d], 2)];
            check_gradients(&t, |t| t[0].apply_op2(&t[1], Inner { factor }));
            check_matches(&t, |t| t[0].apply_op2(&t[1], Inner { factor }), |t| reference::inner(&t[0], &t[1], factor));
        }
        assert!(inner(&random(&[2, 3], 1), &random(&[2, 4], 1), 1.0, &context(true, 2)).is_err());
    }
}
