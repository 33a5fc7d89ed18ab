//! Layer normalisation with the activation that follows it, as one operation.
//!
//! ```text
//! x  [rows, G · h]    each block of h columns of each row is normalised by itself (G experts side by side)
//! x̂ = (x − mean) / √(variance + ε)        z = γ ⊙ x̂ + β        y = act(z)
//! dz = dy ⊙ act'    u = γ ⊙ dz    dx = (u − mean(u) − x̂ ⊙ mean(u ⊙ x̂)) / √(variance + ε)
//! ```

use super::activation::Activation;
use super::floats::{self, Floats, slice};
use super::program::{Describe, Primitive, Program, Value, exactly};
use super::{Builder, Context, Init, Kernels, parallel, reference};
use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor};

const EPSILON: f32 = 1e-5;

/// Layer normalisation (Ba et al. 2016), ε = 1e-5, with scale γ from 1 and shift β from 0.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    scale: Tensor,
    shift: Tensor,
    op: Op,
}

impl LayerNorm {
    /// Normalises each of `groups` blocks of `width` columns, then applies `activation`.
    pub fn new(mut builder: Builder, groups: usize, width: usize, activation: Activation) -> crate::Result<Self> {
        let scale = builder.param("scale", &[groups * width], Init::Ones)?;
        let shift = builder.param("shift", &[groups * width], Init::Zeros)?;
        Ok(Self { scale, shift, op: Op { width, activation } })
    }

    /// `[…, groups · width]` → the same shape.
    pub fn forward(&self, x: &Tensor, context: &Context) -> crate::Result<Tensor> {
        let Op { width, activation } = self.op;
        if context.kernels == Kernels::Reference {
            let epsilon = f64::from(EPSILON);
            return Ok(reference::layer_norm(x, &self.scale, &self.shift, width, epsilon, activation)?);
        }
        context.graph.three(&x.contiguous()?, &self.scale, &self.shift, self.op.clone())
    }
}

#[derive(Debug, Clone)]
struct Op {
    width: usize,
    activation: Activation,
}

impl Op {
    fn check(&self, x: &[usize], scale: &[usize]) -> Result<usize> {
        match (floats::rows_of(x), scale) {
            ((_, columns), [scale]) if columns == *scale && columns % self.width.max(1) == 0 => Ok(columns),
            _ => Err(Error::Msg(format!("layer norm of {x:?} with a scale {scale:?}"))),
        }
    }

    /// Writes x̂ of one row into `out` and returns 1 / √(variance + ε) of each block.
    fn normalise(&self, x: &[f32], out: &mut [f32]) -> Vec<f32> {
        let blocks = x.chunks_exact(self.width).zip(out.chunks_exact_mut(self.width));
        blocks
            .map(|(x, out)| {
                let mean = x.iter().sum::<f32>() / self.width as f32;
                let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / self.width as f32;
                let inverse = 1.0 / (variance + EPSILON).sqrt();
                out.iter_mut().zip(x).for_each(|(out, v)| *out = (v - mean) * inverse);
                inverse
            })
            .collect()
    }

    /// dz of one row from its x̂, y and dy.
    fn activation_gradient(&self, hat: &[f32], y: &[f32], dy: &[f32], scale: &[f32], shift: &[f32]) -> Vec<f32> {
        let mut dz = dy.to_vec();
        if self.activation.needs_input() {
            let z: Vec<f32> = hat.iter().zip(scale).zip(shift).map(|((v, g), b)| g * v + b).collect();
            self.activation.backward(&z, &mut dz);
        } else {
            self.activation.backward(y, &mut dz);
        }
        dz
    }

    /// dx of one row from its x̂, 1 / √(variance + ε) and dz.
    fn input_gradient(&self, hat: &[f32], inverse: &[f32], dz: &[f32], scale: &[f32], dx: &mut [f32]) {
        for (block, inverse) in inverse.iter().enumerate() {
            let at = block * self.width..(block + 1) * self.width;
            let (hat, dz, scale, dx) = (&hat[at.clone()], &dz[at.clone()], &scale[at.clone()], &mut dx[at]);
            let (mut mean, mut mean_hat) = (0.0, 0.0);
            for i in 0..self.width {
                mean += scale[i] * dz[i];
                mean_hat += scale[i] * dz[i] * hat[i];
            }
            mean /= self.width as f32;
            mean_hat /= self.width as f32;
            for i in 0..self.width {
                dx[i] = inverse * (scale[i] * dz[i] - mean - hat[i] * mean_hat);
            }
        }
    }
}

impl Describe for Op {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [x, scale, shift] = exactly(inputs)?;
        let [columns] = program.dims_of_constant(scale)?;
        let blocks = program.reshape(x, &[0, (columns / self.width) as i64, self.width as i64]);
        let mean = program.mean(blocks, 2);
        let centred = program.sub(blocks, mean);
        let square = program.mul(centred, centred);
        let variance = program.mean(square, 2);
        let epsilon = program.scalar(EPSILON);
        let variance = program.add(variance, epsilon);
        let deviation = program.node(Primitive::Sqrt, &[variance]);
        let hat = program.div(centred, deviation);
        let hat = program.reshape(hat, &[0, columns as i64]);
        let scaled = program.mul(hat, scale);
        let z = program.add(scaled, shift);
        Ok(self.activation.describe(program, z))
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let columns = self.check(x_layout.dims(), scale_layout.dims())?;
        let (x, scale, shift) = (slice(x, x_layout)?, slice(scale, scale_layout)?, slice(shift, shift_layout)?);
        let mut y = vec![0.0; x.len()];
        parallel::rows(
            &mut y,
            columns,
            #[inline(always)]
            |row, y| {
                self.normalise(&x[row * columns..][..columns], y);
                y.iter_mut().zip(scale).zip(shift).for_each(|((y, g), b)| *y = g * *y + b);
                self.activation.forward(y);
            },
        );
        floats::stored(y, x_layout.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let columns = self.check(x.dims(), scale.dims())?;
        let dy = dy.contiguous()?;
        let (xs, g, b, ys, dy) =
            (Floats::of(x)?, Floats::of(scale)?, Floats::of(shift)?, Floats::of(y)?, Floats::of(&dy)?);
        let at = |row: usize| row * columns..(row + 1) * columns;
        let mut dx = vec![0.0; xs.len()];
        parallel::rows(
            &mut dx,
            columns,
            #[inline(always)]
            |row, dx| {
                let mut hat = vec![0.0; columns];
                let inverse = self.normalise(&xs[at(row)], &mut hat);
                let dz = self.activation_gradient(&hat, &ys[at(row)], &dy[at(row)], &g, &b);
                self.input_gradient(&hat, &inverse, &dz, &g, dx);
            },
        );
        // One vector holds dγ, then dβ.
        let rows = xs.len() / columns.max(1);
        let sums = parallel::sums(
            rows,
            2 * columns,
            xs.len(),
            #[inline(always)]
            |row, sums: &mut [f32]| {
                let mut hat = vec![0.0; columns];
                self.normalise(&xs[at(row)], &mut hat);
                let dz = self.activation_gradient(&hat, &ys[at(row)], &dy[at(row)], &g, &b);
                for i in 0..columns {
                    sums[i] += dz[i] * hat[i];
                    sums[columns + i] += dz[i];
                }
            },
        );
        let (dscale, dshift) = sums.split_at(columns);
        Ok((
            Some(floats::tensor(dx, x.dims())?),
            Some(floats::tensor(dscale.to_vec(), columns)?),
            Some(floats::tensor(dshift.to_vec(), columns)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::activation::ALL;
    use super::super::testing::{check_gradients, check_matches, random};
    use super::*;

    fn fused(width: usize, activation: Activation) -> impl Fn(&[Tensor]) -> Result<Tensor> {
        move |t| t[0].apply_op3(&t[1], &t[2], Op { width, activation })
    }

    fn plain(width: usize) -> impl Fn(&[Tensor]) -> Result<Tensor> {
        move |t| reference::layer_norm(&t[0], &t[1], &t[2], width, f64::from(EPSILON), Activation::Tanh)
    }

    #[test]
    fn gradients_match_finite_differences() {
        for activation in ALL {
            for (rows, groups, width) in [(1, 1, 3), (5, 1, 4), (3, 2, 5)] {
                let columns = groups * width;
                let inputs = [random(&[rows, columns], 1), random(&[columns], 2), random(&[columns], 3)];
                check_gradients(&inputs, fused(width, activation));
            }
        }
    }

    #[test]
    fn values_and_gradients_match_plain_operations() {
        for (rows, groups, width) in [(1, 1, 4), (7, 3, 5), (600, 2, 31)] {
            let columns = groups * width;
            let inputs = [random(&[rows, columns], 1), random(&[columns], 2), random(&[columns], 3)];
            check_matches(&inputs, fused(width, Activation::Tanh), plain(width));
        }
    }

    #[test]
    fn a_single_column_normalises_to_the_shift() {
        let inputs = [random(&[4, 1], 1), random(&[1], 2), random(&[1], 3)];
        check_matches(&inputs, fused(1, Activation::None), |t| t[0].zeros_like()?.broadcast_add(&t[2]));
    }
}
