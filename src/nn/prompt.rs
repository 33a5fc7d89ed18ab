//! Rows of numbers and one vector that they all meet: products by column, and inner products.
//!
//! ```text
//! scale     y_b = x_b ⊙ p          dx_b = dy_b ⊙ p          dp = Σ_b dy_b ⊙ x_b
//! project   y_b = f ⟨x_b, p⟩       dx_b = f dy_b p          dp = f Σ_b dy_b x_b
//! ```

use super::floats::{self, Floats, slice};
use super::mix::dot;
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Shape, Tensor};

/// Every row of `x` `[B, d]` times `vector` `[d]`, column by column: `[B, d]`.
pub fn scale_columns(x: &Tensor, vector: &Tensor, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(x.broadcast_mul(vector)?);
    }
    context.graph.two(&x.contiguous()?, &vector.contiguous()?, Scale)
}

/// `factor` times the inner product of every row of `x` `[B, d]` with `vector` `[d]`: `[B, 1]`.
pub fn project(x: &Tensor, vector: &Tensor, factor: f64, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::project(x, vector, factor)?);
    }
    context.graph.two(&x.contiguous()?, &vector.contiguous()?, Project { factor: factor as f32 })
}

struct Scale;

struct Project {
    factor: f32,
}

/// The number of rows, and of columns, which must be as many as the vector has numbers.
fn sizes(x: &[usize], vector: &[usize]) -> candle_core::Result<(usize, usize)> {
    match (x, vector) {
        (&[rows, columns], &[same]) if columns == same => Ok((rows, columns)),
        _ => Err(Error::Msg(format!("rows {x:?} and a vector {vector:?}"))),
    }
}

impl Describe for Scale {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x, vector] = exactly(inputs)?;
        Ok(program.mul(x, vector))
    }
}

impl Describe for Project {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x, vector] = exactly(inputs)?;
        let column = program.reshape(vector, &[-1, 1]);
        let products = program.matmul(x, column);
        Ok(program.scale(products, self.factor))
    }
}

impl CustomOp2 for Scale {
    fn name(&self) -> &'static str {
        "scale-columns"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        vector: &CpuStorage,
        vector_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, columns) = sizes(x_layout.dims(), vector_layout.dims())?;
        let (x, vector) = (slice(x, x_layout)?, slice(vector, vector_layout)?);
        let mut y = x.to_vec();
        parallel::rows(&mut y, columns, |_, y| y.iter_mut().zip(vector).for_each(|(y, p)| *y *= p));
        floats::stored(y, x_layout.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        vector: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, columns) = sizes(x.dims(), vector.dims())?;
        let dy = dy.contiguous()?;
        let (xs, p, dy) = (Floats::of(x)?, Floats::of(vector)?, Floats::of(&dy)?);
        let mut dx = dy.to_vec();
        parallel::rows(&mut dx, columns, |_, dx| dx.iter_mut().zip(&*p).for_each(|(dx, p)| *dx *= p));
        let dp = parallel::sums(rows, columns, xs.len(), |row, sums: &mut [f32]| {
            let at = row * columns..(row + 1) * columns;
            sums.iter_mut().zip(&xs[at.clone()]).zip(&dy[at]).for_each(|((sum, x), dy)| *sum += x * dy);
        });
        Ok((Some(floats::tensor(dx, x.dims())?), Some(floats::tensor(dp, columns)?)))
    }
}

impl CustomOp2 for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        vector: &CpuStorage,
        vector_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, columns) = sizes(x_layout.dims(), vector_layout.dims())?;
        let (x, vector) = (slice(x, x_layout)?, slice(vector, vector_layout)?);
        let mut y = vec![0.0; rows];
        parallel::rows(&mut y, 1, |row, y| y[0] = self.factor * dot(&x[row * columns..][..columns], vector));
        floats::stored(y, (rows, 1))
    }

    fn bwd(
        &self,
        x: &Tensor,
        vector: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, columns) = sizes(x.dims(), vector.dims())?;
        let dy = dy.contiguous()?;
        let (xs, p, dy) = (Floats::of(x)?, Floats::of(vector)?, Floats::of(&dy)?);
        let mut dx = vec![0.0; rows * columns];
        parallel::rows(&mut dx, columns, |row, dx| {
            let factor = self.factor * dy[row];
            dx.iter_mut().zip(&*p).for_each(|(dx, p)| *dx = factor * p);
        });
        let dp = parallel::sums(rows, columns, xs.len(), |row, sums: &mut [f32]| {
            let factor = self.factor * dy[row];
            sums.iter_mut().zip(&xs[row * columns..][..columns]).for_each(|(sum, x)| *sum += factor * x);
        });
        Ok((Some(floats::tensor(dx, x.dims())?), Some(floats::tensor(dp, columns)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ParamStore;
    use super::super::program::evaluate::check_description;
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    #[test]
    fn both_match_differences_and_plain_operations() {
        for (rows, columns) in [(1, 1), (5, 4), (1200, 9)] {
            let inputs = [random(&[rows, columns], 1), random(&[columns], 2)];
            let scale = |t: &[Tensor]| Ok(scale_columns(&t[0], &t[1], &context(true, rows)).unwrap());
            check_gradients(&inputs, scale);
            check_matches(&inputs, scale, |t| t[0].broadcast_mul(&t[1]));
            let project = |t: &[Tensor]| Ok(project(&t[0], &t[1], 0.3, &context(true, rows)).unwrap());
            check_gradients(&inputs, project);
            check_matches(&inputs, project, |t| reference::project(&t[0], &t[1], 0.3));
        }
    }

    #[test]
    fn both_describe_themselves() {
        let mut store = ParamStore::new(3);
        let vector = store.builder().param("vector", &[4], super::super::Init::Normal(1.0)).unwrap();
        check_description(&[random(&[6, 4], 1)], &store, |t, at| scale_columns(&t[0], &vector, at));
        check_description(&[random(&[6, 4], 1)], &store, |t, at| project(&t[0], &vector, 0.3, at));
    }

    #[test]
    fn a_vector_of_another_length_is_refused() {
        let at = context(true, 2);
        assert!(scale_columns(&random(&[2, 3], 1), &random(&[4], 2), &at).is_err());
        assert!(project(&random(&[2, 3], 1), &random(&[2], 2), 1.0, &at).is_err());
    }
}
