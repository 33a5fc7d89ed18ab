//! Layer normalisation with the activation that follows it, as one operation.
//!
//! ```text
//! x  [rows, G · h]    each block of h columns of each row is normalised by itself (G experts side by side)
//! x̂ = (x − mean) / √(variance + ε)        z = γ ⊙ x̂ + β        y = act(z)
//! dz = dy ⊙ act'    u = γ ⊙ dz    dx = (u − mean(u) − x̂ ⊙ mean(u ⊙ x̂)) / √(variance + ε)
//! ```

use super::activation::Activation;
use super::floats::{self, Floats, slice};
use super::mix::dot;
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
        self.op.run(x, &self.scale, &self.shift, context)
    }
}

/// Layer normalisation of each row of `x` `[rows, d]` with a scale γ and a shift β of d numbers each that come from elsewhere,
/// as those of conditional layer norm do: γ ⊙ x̂ + β.
pub fn layer_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, context: &Context) -> crate::Result<Tensor> {
    let width = floats::rows_of(x.dims()).1;
    Op { width, activation: Activation::None }.run(x, scale, shift, context)
}

#[derive(Debug, Clone)]
struct Op {
    width: usize,
    activation: Activation,
}

impl Op {
    fn run(&self, x: &Tensor, scale: &Tensor, shift: &Tensor, context: &Context) -> crate::Result<Tensor> {
        if context.kernels == Kernels::Reference {
            let epsilon = f64::from(EPSILON);
            return Ok(reference::layer_norm(x, scale, shift, self.width, epsilon, self.activation)?);
        }
        context.graph.three(&x.contiguous()?, &scale.contiguous()?, &shift.contiguous()?, self.clone())
    }

    fn check(&self, x: &[usize], scale: &[usize]) -> Result<usize> {
        let ((_, columns), numbers) = (floats::rows_of(x), scale.iter().product::<usize>());
        match columns == numbers && columns % self.width.max(1) == 0 {
            true => Ok(columns),
            false => Err(Error::Msg(format!("layer norm of {x:?} with a scale {scale:?}"))),
        }
    }

    /// The gradients of some rows from x and y, which begin with the first of them: `dx` is filled; dγ, then dβ, are added
    /// to `sums`.
    #[inline(always)]
    fn backward_rows(&self, given: &Given, dx: &mut [f32], sums: &mut [f32]) {
        let Given { x, y, dy, scale, shift } = *given;
        let (dscale, dshift) = sums.split_at_mut(scale.len());
        let mut dz = vec![0.0; self.width];
        for (block, hat) in dx.chunks_exact_mut(self.width.max(1)).enumerate() {
            let start = block * self.width;
            let at = start..start + self.width;
            let columns = start % scale.len()..start % scale.len() + self.width;
            let inverse = normalise(&x[at.clone()], hat);
            dz.copy_from_slice(&dy[at.clone()]);
            let (scale, shift) = (&scale[columns.clone()], &shift[columns.clone()]);
            self.activation_gradient(hat, &y[at], (scale, shift), &mut dz);
            for (((dscale, dshift), dz), hat) in
                dscale[columns.clone()].iter_mut().zip(&mut dshift[columns]).zip(&dz).zip(&*hat)
            {
                *dscale += dz * hat;
                *dshift += dz;
            }
            input_gradient(hat, inverse, &mut dz, scale);
        }
    }

    /// Turns dy into dz.
    #[inline(always)]
    fn activation_gradient(&self, hat: &[f32], y: &[f32], (scale, shift): (&[f32], &[f32]), dz: &mut [f32]) {
        if self.activation.needs_input() {
            let z: Vec<f32> = hat.iter().zip(scale).zip(shift).map(|((v, g), b)| g * v + b).collect();
            self.activation.backward(&z, dz);
        } else {
            self.activation.backward(y, dz);
        }
    }
}

/// What the backward pass of some rows reads.
#[derive(Clone, Copy)]
struct Given<'a> {
    x: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
}

/// Writes x̂ of one block of columns and returns 1 / √(variance + ε).
#[inline(always)]
fn normalise(x: &[f32], hat: &mut [f32]) -> f32 {
    let count = x.len() as f32;
    let mean = sum(x) / count;
    hat.iter_mut().zip(x).for_each(|(hat, v)| *hat = v - mean);
    let inverse = 1.0 / (dot(hat, hat) / count + EPSILON).sqrt();
    hat.iter_mut().for_each(|hat| *hat *= inverse);
    inverse
}

/// Turns x̂ of one block into dx; `dz` is used up.
#[inline(always)]
fn input_gradient(hat: &mut [f32], inverse: f32, dz: &mut [f32], scale: &[f32]) {
    let count = hat.len() as f32;
    dz.iter_mut().zip(scale).for_each(|(u, g)| *u *= g);
    let (mean, mean_hat) = (sum(dz) / count, dot(dz, hat) / count);
    hat.iter_mut().zip(dz).for_each(|(hat, u)| *hat = inverse * (*u - mean - *hat * mean_hat));
}

/// A sum in eight independent ones, which the compiler keeps in one vector register.
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let eights = x.chunks_exact(8);
    let tail: f32 = eights.remainder().iter().sum();
    for x in eights {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
    sums.iter().sum::<f32>() + tail
}

impl Describe for Op {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [x, scale, shift] = exactly(inputs)?;
        let blocks = program.reshape(x, &[0, -1, self.width as i64]);
        let mean = program.mean(blocks, 2);
        let centred = program.sub(blocks, mean);
        let square = program.mul(centred, centred);
        let variance = program.mean(square, 2);
        let epsilon = program.scalar(EPSILON);
        let variance = program.add(variance, epsilon);
        let deviation = program.node(Primitive::Sqrt, &[variance]);
        let hat = program.div(centred, deviation);
        let hat = program.reshape(hat, &[0, -1]);
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
        let y = parallel::new_rows(
            x.len() / columns.max(1),
            columns,
            #[inline(always)]
            |row, y| {
                for (x, y) in x[row * columns..].chunks_exact(self.width).zip(y.chunks_exact_mut(self.width)) {
                    normalise(x, y);
                }
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
        let (xs, ys, dys) = (Floats::of(x)?, Floats::of(y)?, Floats::of(&dy)?);
        let (scales, shifts) = (Floats::of(scale)?, Floats::of(shift)?);
        let mut dx = vec![0.0; xs.len()];
        let sums = parallel::rows_and_sums(
            &mut dx,
            columns,
            2 * columns,
            #[inline(always)]
            |first, dx, sums| {
                let from = first * columns;
                let (x, y, dy) = (&xs[from..], &ys[from..], &dys[from..]);
                self.backward_rows(&Given { x, y, dy, scale: &scales, shift: &shifts }, dx, sums);
            },
        );
        let (dscale, dshift) = sums.split_at(columns);
        Ok((
            Some(floats::tensor(dx, x.dims())?),
            Some(floats::tensor(dscale.to_vec(), scale.dims())?),
            Some(floats::tensor(dshift.to_vec(), shift.dims())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::activation::ALL;
    use super::super::testing::{check_gradients, check_matches, context, random};
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
    fn a_scale_and_shift_from_elsewhere_get_their_gradients() {
        for (rows, width) in [(1, 4), (5, 16), (400, 17)] {
            let inputs = [random(&[rows, width], 1), random(&[1, width], 2), random(&[1, width], 3)];
            let fused = |t: &[Tensor]| Ok(layer_norm(&t[0], &t[1], &t[2], &context(true, rows)).unwrap());
            let epsilon = f64::from(EPSILON);
            check_gradients(&inputs, fused);
            check_matches(&inputs, fused, |t| {
                reference::layer_norm(&t[0], &t[1], &t[2], width, epsilon, Activation::None)
            });
        }
    }

    #[test]
    fn a_single_column_normalises_to_the_shift() {
        let inputs = [random(&[4, 1], 1), random(&[1], 2), random(&[1], 3)];
        check_matches(&inputs, fused(1, Activation::None), |t| t[0].zeros_like()?.broadcast_add(&t[2]));
    }
}
