//! The operation of a layer.

use super::super::activation::Activation;
use super::super::floats::{self, Floats, slice};
use super::super::gemm::{Matrix, Precision, multiplied, multiply};
use super::super::mix::add;
use super::super::program::{Describe, Program, Value, exactly};
use super::super::repeats::Parted;
use super::super::{narrow, parallel};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// The result for one layer, of a list of one.
fn only(mut results: Vec<Vec<f32>>) -> Vec<f32> {
    results.pop().unwrap_or_default()
}

/// The operation on candle's graph.
pub(super) struct Fused {
    pub groups: usize,
    pub activation: Activation,
    pub precision: Precision,
    /// Whether the gradient of x is wanted.
    pub wants_dx: bool,
    /// z = x · W + b, kept where the derivative of the activation needs it.
    pub input: OnceLock<Vec<f32>>,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub rows: usize,
    pub groups: usize,
    pub input: usize,
    pub output: usize,
}

impl Dims {
    pub fn x(self) -> usize {
        self.groups * self.input
    }

    pub fn y(self) -> usize {
        self.groups * self.output
    }

    /// Whether it is one layer of few outputs ([`narrow`]).
    pub fn is_narrow(self) -> bool {
        self.groups == 1 && self.input > 0 && self.output > 0 && narrow::is_narrow(self.output)
    }

    fn group<'a>(self, values: &'a [f32], group: usize, width: usize) -> Matrix<'a> {
        Matrix::new(&values[group * width..], self.rows, width, self.groups * width)
    }

    fn weight<'a>(self, values: &'a [f32], group: usize) -> Matrix<'a> {
        let size = self.input * self.output;
        Matrix::new(&values[group * size..(group + 1) * size], self.input, self.output, self.output)
    }
}

impl Fused {
    pub fn dims(&self, x: &[usize], weight: &[usize]) -> Result<Dims> {
        let (rows, width) = floats::rows_of(x);
        let (input, output) = match weight {
            [input, output] if self.groups == 1 => (*input, *output),
            [groups, input, output] if *groups == self.groups => (*input, *output),
            _ => return Err(candle_core::Error::Msg(format!("{} groups with weights {weight:?}", self.groups))),
        };
        if width != self.groups * input {
            return Err(candle_core::Error::Msg(format!("a linear layer {weight:?} was given {width} columns")));
        }
        Ok(Dims { rows, groups: self.groups, input, output })
    }

    /// act(z + b) of z = x · W.
    fn finish(&self, mut y: Vec<f32>, bias: &[f32]) -> Vec<f32> {
        if self.activation.needs_input() {
            parallel::rows(
                &mut y,
                bias.len(),
                #[inline(always)]
                |_, row| add(row, bias),
            );
            let z = self.input.get_or_init(|| y.clone());
            debug_assert_eq!(z.len(), y.len());
            parallel::rows(
                &mut y,
                bias.len(),
                #[inline(always)]
                |_, row| self.activation.forward(row),
            );
        } else {
            parallel::rows(
                &mut y,
                bias.len(),
                #[inline(always)]
                |_, row| {
                    add(row, bias);
                    self.activation.forward(row);
                },
            );
        }
        y
    }

    /// The result for an input whose rows repeat.
    pub fn forward_parted(&self, parted: &Parted, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let output = weight.dims2()?.1;
        let y = parted.product(&Floats::of(weight)?, output);
        floats::tensor(self.finish(y, &Floats::of(bias)?), (parted.rows, output))
    }

    /// dz = dy ⊙ act', without a copy where that is dy itself.
    pub fn activation_gradient(&self, y: &Tensor, dy: &Tensor, width: usize) -> Result<Tensor> {
        let dy = dy.contiguous()?;
        if self.activation == Activation::None {
            return Ok(dy);
        }
        let held = Floats::of(y)?;
        let saved: &[f32] = if self.activation.needs_input() { self.input.get().map_or(&[], |z| z) } else { &held };
        let gradient = Floats::of(&dy)?;
        let dz = parallel::new_rows(
            gradient.len() / width.max(1),
            width,
            #[inline(always)]
            |row, dz| {
                dz.copy_from_slice(&gradient[row * width..][..width]);
                self.activation.backward(&saved[row * width..][..width], dz);
            },
        );
        floats::tensor(dz, dy.dims())
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = self.dims(x_layout.dims(), weight_layout.dims())?;
        let (x, weight, bias) = (slice(x, x_layout)?, slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        let y = if dims.is_narrow() {
            only(narrow::forward(x, dims.input, &[(weight, dims.output)]))
        } else {
            let factors = |group| (dims.group(x, group, dims.input), dims.weight(weight, group));
            multiplied(self.precision, dims.rows, &(0..dims.groups).map(factors).collect::<Vec<_>>())
        };
        let y = self.finish(y, bias);
        let mut shape = x_layout.dims().to_vec();
        shape.pop();
        shape.push(dims.y());
        floats::stored(y, shape)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dims = self.dims(x.dims(), weight.dims())?;
        let dz = self.activation_gradient(y, dy, dims.y())?;
        let dx = if self.wants_dx { Some(self.input_gradient(dims, &dz, x, weight)?) } else { None };
        let (dw, db) = self.parameter_gradients(dims, &dz, x, weight, bias)?;
        Ok((dx, Some(dw), Some(db)))
    }
}

impl Describe for Fused {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [x, weight, bias] = exactly(inputs)?;
        let product = match self.groups {
            1 => program.matmul(x, weight),
            groups => {
                let [_, input, output] = program.dims_of_constant(weight)?;
                let (groups, input, output) = (groups as i64, input as i64, output as i64);
                let by_group = program.reshape(x, &[0, groups, input]);
                let by_group = program.transpose(by_group, &[1, 0, 2]);
                let product = program.matmul(by_group, weight);
                let by_row = program.transpose(product, &[1, 0, 2]);
                program.reshape(by_row, &[0, groups * output])
            }
        };
        let z = program.add(product, bias);
        Ok(self.activation.describe(program, z))
    }
}

impl Fused {
    fn input_gradient(&self, dims: Dims, dz: &Tensor, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (dz, weight) = (Floats::of(dz)?, Floats::of(weight)?);
        let dx = if dims.is_narrow() {
            let mut dx = vec![0.0; dims.rows * dims.x()];
            narrow::add_input_gradient(&[(&dz, &weight)], dims.input, &mut dx);
            dx
        } else {
            let factors = |group| (dims.group(&dz, group, dims.output), dims.weight(&weight, group).t());
            multiplied(self.precision, dims.rows, &(0..dims.groups).map(factors).collect::<Vec<_>>())
        };
        floats::tensor(dx, x.dims())
    }

    /// dW and db.
    pub fn parameter_gradients(
        &self,
        dims: Dims,
        dz: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (dz, x) = (Floats::of(dz)?, Floats::of(x)?);
        let dw = self.weight_gradient(dims, &dz, &x);
        let db = bias_gradient(&dz, dims.y());
        Ok((floats::tensor(dw, weight.dims())?, floats::tensor(db, bias.dims())?))
    }
}

impl Fused {
    fn weight_gradient(&self, dims: Dims, dz: &[f32], x: &[f32]) -> Vec<f32> {
        if dims.is_narrow() {
            return only(narrow::weight_gradients(x, dims.input, &[(dz, dims.output)]));
        }
        let mut dw = vec![0.0; dims.groups * dims.input * dims.output];
        for (group, dw) in dw.chunks_mut((dims.input * dims.output).max(1)).enumerate() {
            let (x, dz) = (dims.group(x, group, dims.input), dims.group(dz, group, dims.output));
            multiply(self.precision, dw, dims.output, x.t(), dz);
        }
        dw
    }
}

/// db, the sums of dz's `columns`.
pub(super) fn bias_gradient(dz: &[f32], columns: usize) -> Vec<f32> {
    parallel::sums(
        dz.len() / columns.max(1),
        columns,
        dz.len(),
        #[inline(always)]
        |row, sums: &mut [f32]| {
            add(sums, &dz[row * columns..]);
        },
    )
}
