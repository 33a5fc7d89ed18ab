//! Batch normalisation over the *global* batch, with the activation that follows it, as one operation.
//!
//! ```text
//! n, Σx, Σx²  over the present rows of all ranks  → mean, variance        (one all-sum forward)
//! x̂ = (x − mean) / √(variance + ε)      z = γ ⊙ x̂ + β      y = act(z)
//! dz = dy ⊙ act'      dβ = Σ_local dz      dγ = Σ_local dz ⊙ x̂
//! dx = γ / √(variance + ε) ⊙ (dz − Σ_global dz / n − x̂ ⊙ Σ_global (dz ⊙ x̂) / n)   (one all-sum backward)
//! ```
//!
//! The loss is a sum over ranks, so the derivative of the *global* loss by the moments is the sum of every
//! rank's part: hence the all-sum in the backward. dγ and dβ stay local like every parameter gradient.

use super::activation::Activation;
use super::floats::{self, Floats, slice};
use super::params::Buffer;
use super::program::{Describe, Program, Value, exactly, only_in_training};
use super::{AllSum, Builder, Context, Graph, Init, parallel};
use candle_core::{CpuStorage, CustomOp3, Error, Layout, Shape, Tensor};
use send_wrapper::SendWrapper;
use std::rc::Rc;

const EPSILON: f64 = 1e-5;
/// Weight of the new batch in the running moments, as in PyTorch.
pub(super) const MOMENTUM: f64 = 0.1;

/// Batch normalisation (Ioffe & Szegedy 2015) of `[B, d]`: ε = 1e-5, momentum 0.1, γ from 1, β from 0. Training
/// normalises by the moments of the global batch without its padding, evaluation by the running moments; so does training
/// where γ is frozen, and then the running moments stay as they are.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    scale: Tensor,
    shift: Tensor,
    mean: Buffer,
    variance: Buffer,
    activation: Activation,
    frozen: bool,
}

impl BatchNorm {
    /// Normalises `width` columns, then applies `activation`.
    pub fn new(mut builder: Builder, width: usize, activation: Activation) -> crate::Result<Self> {
        let scale = builder.param("scale", &[width], Init::Ones)?;
        Ok(Self {
            frozen: !scale.is_variable(),
            scale,
            shift: builder.param("shift", &[width], Init::Zeros)?,
            mean: builder.buffer("running_mean", vec![0.0; width])?,
            variance: builder.buffer("running_variance", vec![1.0; width])?,
            activation,
        })
    }

    /// `[B, d]` → `[B, d]`. In training all ranks must call it together, and run the same backward passes.
    pub fn forward(&self, x: &Tensor, context: &Context) -> crate::Result<Tensor> {
        let x = x.contiguous()?;
        let op = if context.train && !self.frozen { self.of_batch(&x, context)? } else { self.of_running_moments() };
        context.graph.three(&x, &self.scale, &self.shift, op)
    }

    fn of_running_moments(&self) -> Op {
        let inverse = self.variance.get().iter().map(|&v| inverse_deviation(f64::from(v))).collect();
        Op { mean: self.mean.get(), inverse, activation: self.activation, coupling: None }
    }

    fn of_batch(&self, x: &Tensor, context: &Context) -> crate::Result<Op> {
        let present: Rc<[f32]> = Floats::of(&context.present.contiguous()?)?.to_vec().into();
        let moments = Moments::of_batch(x, &present, &**context.all_sum)?;
        // Without a way back it is a second look at a batch, which must not count twice.
        if !matches!(context.graph, Graph::None) {
            self.update_running(&moments)?;
        }
        let coupling = Coupling {
            rows: moments.rows,
            present: present.to_vec(),
            all_sum: SendWrapper::new(Rc::clone(&context.all_sum)),
        };
        Ok(Op {
            mean: moments.mean.iter().map(|&v| v as f32).collect(),
            inverse: moments.variance.iter().map(|&v| inverse_deviation(v)).collect(),
            activation: self.activation,
            coupling: Some(coupling),
        })
    }

    /// Moves the running moments towards the batch's, with the unbiased variance.
    fn update_running(&self, batch: &Moments) -> crate::Result<()> {
        if batch.rows == 0.0 {
            return Ok(());
        }
        let unbiased = batch.rows / (batch.rows - 1.0).max(1.0);
        let moved = |running: &Buffer, new: &[f64], factor: f64| -> Vec<f32> {
            let pairs = running.get().into_iter().zip(new);
            pairs.map(|(old, new)| (f64::from(old) * (1.0 - MOMENTUM) + MOMENTUM * factor * new) as f32).collect()
        };
        self.mean.set(&moved(&self.mean, &batch.mean, 1.0))?;
        self.variance.set(&moved(&self.variance, &batch.variance, unbiased))
    }
}

pub(super) fn inverse_deviation(variance: f64) -> f32 {
    (1.0 / (variance + EPSILON).sqrt()) as f32
}

/// Moments of the present rows of the global batch.
struct Moments {
    rows: f64,
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Moments {
    fn of_batch(x: &Tensor, present: &[f32], all_sum: &dyn AllSum) -> crate::Result<Self> {
        let (rows, width) = x.dims2()?;
        if rows != present.len() {
            let lengths = format!("{rows} rows and {} marks of presence", present.len());
            return Err(crate::Error::internal(format!("batch norm of {lengths}")));
        }
        let x = Floats::of(x)?;
        // One vector holds Σx, then Σx², then the number of rows: one message. In float64, Σx²/n − mean² keeps
        // more digits than a float32 input has.
        let mut sums = parallel::sums(
            rows,
            2 * width + 1,
            x.len(),
            #[inline(always)]
            |row, sums: &mut [f64]| {
                if present[row] != 0.0 {
                    for (i, &v) in x[row * width..(row + 1) * width].iter().enumerate() {
                        sums[i] += f64::from(v);
                        sums[width + i] += f64::from(v) * f64::from(v);
                    }
                    sums[2 * width] += 1.0;
                }
            },
        );
        all_sum.all_sum(&mut sums)?;
        let n = sums[2 * width].max(1.0);
        let mean: Vec<f64> = sums[..width].iter().map(|s| s / n).collect();
        let squares = &sums[width..2 * width];
        // `max` would turn the NaN of a broken input into a harmless 0.
        let spread = |(s, m): (&f64, &f64)| Some(s / n - m * m).filter(|v| *v >= 0.0 || v.is_nan()).unwrap_or(0.0);
        let variance = squares.iter().zip(&mean).map(spread).collect();
        Ok(Self { rows: sums[2 * width], mean, variance })
    }
}

struct Op {
    mean: Vec<f32>,
    inverse: Vec<f32>,
    activation: Activation,
    /// In training, what couples the rows; in evaluation the moments are constants.
    coupling: Option<Coupling>,
}

struct Coupling {
    rows: f64,
    present: Vec<f32>,
    all_sum: SendWrapper<Rc<dyn AllSum>>,
}

impl Op {
    fn is_present(&self, row: usize) -> bool {
        self.coupling.as_ref().is_none_or(|c| c.present[row] != 0.0)
    }

    /// Writes x̂ of one row.
    fn normalise(&self, x: &[f32], out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = (x[i] - self.mean[i]) * self.inverse[i];
        }
    }
}

impl Describe for Op {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        if self.coupling.is_some() {
            return only_in_training("batch-norm");
        }
        let [x, scale, shift] = exactly(inputs)?;
        let width = [self.mean.len()];
        let (mean, inverse) = (self.mean.clone(), self.inverse.clone());
        let (mean, inverse) = (program.constant(&width, mean), program.constant(&width, inverse));
        let centred = program.sub(x, mean);
        let hat = program.mul(centred, inverse);
        let scaled = program.mul(hat, scale);
        let z = program.add(scaled, shift);
        Ok(self.activation.describe(program, z))
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = self.mean.len();
        if x_layout.dims().last() != Some(&width) {
            return Err(Error::Msg(format!("batch norm of {width} columns was given {:?}", x_layout.dims())));
        }
        let (x, scale, shift) = (slice(x, x_layout)?, slice(scale, scale_layout)?, slice(shift, shift_layout)?);
        let mut y = vec![0.0; x.len()];
        parallel::rows(
            &mut y,
            width,
            #[inline(always)]
            |row, y| {
                self.normalise(&x[row * width..][..width], y);
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
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = self.mean.len();
        let dz = {
            let mut dz = Floats::of(&dy.contiguous()?)?.to_vec();
            self.activation_gradient(
                &Floats::of(x)?,
                &Floats::of(scale)?,
                &Floats::of(shift)?,
                &Floats::of(y)?,
                &mut dz,
            );
            dz
        };
        let (x_values, gamma) = (Floats::of(x)?, Floats::of(scale)?);
        let rows = dz.len() / width.max(1);
        // One vector holds Σ dz, then Σ dz ⊙ x̂.
        let local = parallel::sums(
            rows,
            2 * width,
            dz.len(),
            #[inline(always)]
            |row, sums: &mut [f64]| {
                if self.is_present(row) {
                    for i in 0..width {
                        let at = row * width + i;
                        sums[i] += f64::from(dz[at]);
                        sums[width + i] += f64::from(dz[at] * (x_values[at] - self.mean[i]) * self.inverse[i]);
                    }
                }
            },
        );
        let (mean, mean_hat) = self.global_means(&local)?;
        let mut dx = vec![0.0; dz.len()];
        parallel::rows(
            &mut dx,
            width,
            #[inline(always)]
            |row, dx| {
                if self.is_present(row) {
                    for (i, dx) in dx.iter_mut().enumerate() {
                        let at = row * width + i;
                        let hat = (x_values[at] - self.mean[i]) * self.inverse[i];
                        *dx = gamma[i] * self.inverse[i] * (dz[at] - mean[i] - hat * mean_hat[i]);
                    }
                }
            },
        );
        let to_f32 = |sums: &[f64]| -> Vec<f32> { sums.iter().map(|&s| s as f32).collect() };
        Ok((
            Some(floats::tensor(dx, x.dims())?),
            Some(floats::tensor(to_f32(&local[width..]), width)?),
            Some(floats::tensor(to_f32(&local[..width]), width)?),
        ))
    }
}

impl Op {
    /// Turns dy into dz.
    fn activation_gradient(&self, x: &[f32], scale: &[f32], shift: &[f32], y: &[f32], dz: &mut [f32]) {
        let width = self.mean.len();
        parallel::rows(
            dz,
            width,
            #[inline(always)]
            |row, dz| {
                let at = row * width..(row + 1) * width;
                if self.activation.needs_input() {
                    let mut z = vec![0.0; width];
                    self.normalise(&x[at], &mut z);
                    z.iter_mut().zip(scale).zip(shift).for_each(|((z, g), b)| *z = g * *z + b);
                    self.activation.backward(&z, dz);
                } else {
                    self.activation.backward(&y[at], dz);
                }
            },
        );
    }

    /// Σ_global dz / n and Σ_global (dz ⊙ x̂) / n; zero where the moments are constants.
    fn global_means(&self, local: &[f64]) -> candle_core::Result<(Vec<f32>, Vec<f32>)> {
        let width = self.mean.len();
        let Some(coupling) = &self.coupling else {
            return Ok((vec![0.0; width], vec![0.0; width]));
        };
        let mut sums = local.to_vec();
        coupling.all_sum.all_sum(&mut sums).map_err(Error::wrap)?;
        let n = coupling.rows.max(1.0);
        let means: Vec<f32> = sums.iter().map(|s| (s / n) as f32).collect();
        Ok((means[..width].to_vec(), means[width..].to_vec()))
    }
}

#[cfg(test)]
mod tests;
