//! y = act(x · W_g + b_g), where each row has the weights and biases of its group: a layer that another network made.
//!
//! ```text
//! x  [B, in]        groups: one for each scenario, or one for each row
//! W  [G, in · out]  W_g row-major [in, out]
//! b  [G, out]
//!
//! dz = dy ⊙ act'    dx_r = dz_r · W_gᵀ    dW_g = Σ x_rᵀ · dz_r    db_g = Σ dz_r    over the rows r of g
//! ```
//!
//! The rows of a scenario are brought together, so that each scenario is one matrix product.

use super::activation::Activation;
use super::by_scenario::index;
use super::floats::{self, Floats, slice};
use super::gemm::{Matrix, Precision, multiply};
use super::mix::dot;
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor};
use std::sync::{Arc, OnceLock};

/// Whose weights a row has.
#[derive(Debug, Clone)]
pub enum Groups {
    /// Its own.
    Rows,
    /// Its scenario's, by number.
    Scenarios(Arc<[u32]>),
}

/// The layer with `weight` `[G, in · out]` and `bias` `[G, out]` on `x` `[B, in]`: `[B, out]`.
pub fn generated_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: &Groups,
    activation: Activation,
    context: &Context,
) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(plain(x, weight, bias, groups, activation)?);
    }
    let op = Generated {
        groups: groups.clone(),
        columns: (x.dim(1)?, bias.dim(1)?),
        activation,
        precision: context.precision.of_layer(x.dim(1)?, bias.dim(1)?),
        input: OnceLock::new(),
    };
    context.graph.three(&x.contiguous()?, &weight.contiguous()?, &bias.contiguous()?, op)
}

/// In candle's own operations.
fn plain(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: &Groups, activation: Activation) -> Result<Tensor> {
    let (weight, bias) = match groups {
        Groups::Rows => (weight.clone(), bias.clone()),
        Groups::Scenarios(scenarios) => {
            let index = index(scenarios)?;
            (weight.index_select(&index, 0)?, bias.index_select(&index, 0)?)
        }
    };
    let ((rows, input), output) = (x.dims2()?, bias.dim(1)?);
    let weight = weight.reshape((rows, input, output))?;
    let z = (x.unsqueeze(1)?.matmul(&weight)?.squeeze(1)? + bias)?;
    reference::activation(activation, &z)
}

struct Generated {
    groups: Groups,
    /// Columns of x and of y.
    columns: (usize, usize),
    activation: Activation,
    precision: Precision,
    /// z = x · W + b, kept where the derivative of the activation needs it.
    input: OnceLock<Vec<f32>>,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Dims {
    rows: usize,
    groups: usize,
    input: usize,
    output: usize,
}

/// The rows of a batch, scenario by scenario.
struct Sorted {
    /// Row numbers.
    rows: Vec<u32>,
    /// `rows[starts[g]..starts[g + 1]]` are those of scenario g.
    starts: Vec<usize>,
}

impl Sorted {
    fn new(scenarios: &[u32], groups: usize) -> Self {
        let mut starts = vec![0; groups + 1];
        scenarios.iter().for_each(|&scenario| starts[scenario as usize + 1] += 1);
        for group in 0..groups {
            starts[group + 1] += starts[group];
        }
        let mut next = starts.clone();
        let mut rows = vec![0; scenarios.len()];
        for (row, &scenario) in scenarios.iter().enumerate() {
            let place = &mut next[scenario as usize];
            rows[*place] = row as u32;
            *place += 1;
        }
        Self { rows, starts }
    }

    /// The scenarios that have rows: number, first row and number of rows.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let blocks = self.starts.windows(2).enumerate();
        blocks.filter(|(_, ends)| ends[1] > ends[0]).map(|(group, ends)| (group, ends[0], ends[1] - ends[0]))
    }

    /// The rows of `x` in this order.
    fn gather(&self, x: &[f32], width: usize) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        parallel::rows(&mut y, width, |place, y| {
            y.copy_from_slice(&x[self.rows[place] as usize * width..][..width]);
        });
        y
    }

    /// The rows of `y`, which are in this order, in that of the batch.
    fn scatter(&self, y: &[f32], width: usize) -> Vec<f32> {
        let mut x = vec![0.0; y.len()];
        for (&row, y) in self.rows.iter().zip(y.chunks_exact(width.max(1))) {
            x[row as usize * width..][..width].copy_from_slice(y);
        }
        x
    }
}

impl Generated {
    fn dims(&self, x: &[usize], weight: &[usize], bias: &[usize]) -> Result<Dims> {
        let (&[rows, input], &[groups, size], &[same, output]) = (x, weight, bias) else {
            return Err(Error::Msg(format!("a generated layer {weight:?}, {bias:?} of {x:?}")));
        };
        let groups_fit = match &self.groups {
            Groups::Rows => groups == rows,
            Groups::Scenarios(scenarios) => {
                scenarios.len() == rows && scenarios.iter().all(|&scenario| (scenario as usize) < groups)
            }
        };
        if groups != same || size != input * output || !groups_fit {
            return Err(Error::Msg(format!("a generated layer {weight:?}, {bias:?} does not fit {x:?}")));
        }
        Ok(Dims { rows, groups, input, output })
    }

    /// x · W, without biases.
    fn product(&self, dims: Dims, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let Dims { rows, groups, input, output } = dims;
        let mut y = vec![0.0; rows * output];
        let Groups::Scenarios(scenarios) = &self.groups else {
            parallel::rows(&mut y, output, |row, y| {
                let weight = weight[row * input * output..][..input * output].chunks_exact(output.max(1));
                for (&x, weight) in x[row * input..][..input].iter().zip(weight) {
                    y.iter_mut().zip(weight).for_each(|(y, &w)| *y += x * w);
                }
            });
            return y;
        };
        let sorted = Sorted::new(scenarios, groups);
        let x = sorted.gather(x, input);
        for (group, start, count) in sorted.blocks() {
            let x = Matrix::new(&x[start * input..], count, input, input);
            let weight = Matrix::new(&weight[group * input * output..], input, output, output);
            multiply(self.precision, &mut y[start * output..], output, x, weight);
        }
        sorted.scatter(&y, output)
    }

    /// dx and dW.
    fn gradients(&self, dims: Dims, x: &[f32], weight: &[f32], dz: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let Dims { rows, groups, input, output } = dims;
        let size = input * output;
        let (mut dx, mut dw) = (vec![0.0; rows * input], vec![0.0; groups * size]);
        let Groups::Scenarios(scenarios) = &self.groups else {
            parallel::row_pairs(&mut dx, &mut dw, (input, size), |row, dx, dw| {
                let dz = &dz[row * output..][..output];
                let weight = weight[row * size..][..size].chunks_exact(output.max(1));
                let x = &x[row * input..][..input];
                for (((dx, dw), weight), &x) in dx.iter_mut().zip(dw.chunks_exact_mut(output.max(1))).zip(weight).zip(x)
                {
                    *dx = dot(weight, dz);
                    dw.iter_mut().zip(dz).for_each(|(dw, &dz)| *dw = x * dz);
                }
            });
            return (dx, dw);
        };
        let sorted = Sorted::new(scenarios, groups);
        let (x, dz) = (sorted.gather(x, input), sorted.gather(dz, output));
        for (group, start, count) in sorted.blocks() {
            let x = Matrix::new(&x[start * input..], count, input, input);
            let dz = Matrix::new(&dz[start * output..], count, output, output);
            let weight = Matrix::new(&weight[group * size..], input, output, output);
            multiply(self.precision, &mut dx[start * input..], input, dz, weight.t());
            multiply(self.precision, &mut dw[group * size..], output, x.t(), dz);
        }
        (sorted.scatter(&dx, input), dw)
    }

    /// The sums of dz over the rows of each group.
    fn bias_gradient(&self, dims: Dims, dz: &[f32]) -> Vec<f32> {
        let Dims { rows, groups, output, .. } = dims;
        match &self.groups {
            Groups::Rows => dz.to_vec(),
            Groups::Scenarios(scenarios) => parallel::sums(rows, groups * output, dz.len(), |row, sums: &mut [f32]| {
                let sums = &mut sums[scenarios[row] as usize * output..][..output];
                sums.iter_mut().zip(&dz[row * output..]).for_each(|(sum, &dz)| *sum += dz);
            }),
        }
    }
}

impl Describe for Generated {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [x, weight, bias] = exactly(inputs)?;
        let (weight, bias) = match self.groups {
            Groups::Rows => (weight, bias),
            Groups::Scenarios(_) => {
                let scenarios = program.scenarios();
                (program.gather(weight, scenarios), program.gather(bias, scenarios))
            }
        };
        let (input, output) = (self.columns.0 as i64, self.columns.1 as i64);
        let weight = program.reshape(weight, &[-1, input, output]);
        let x = program.reshape(x, &[-1, 1, input]);
        let product = program.matmul(x, weight);
        let product = program.reshape(product, &[-1, output]);
        let z = program.add(product, bias);
        Ok(self.activation.describe(program, z))
    }
}

impl CustomOp3 for Generated {
    fn name(&self) -> &'static str {
        "generated-linear"
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
        let dims = self.dims(x_layout.dims(), weight_layout.dims(), bias_layout.dims())?;
        let (x, weight, bias) = (slice(x, x_layout)?, slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        let output = dims.output;
        let mut y = self.product(dims, x, weight);
        parallel::rows(&mut y, output, |row, y| {
            let group = match &self.groups {
                Groups::Rows => row,
                Groups::Scenarios(scenarios) => scenarios[row] as usize,
            };
            y.iter_mut().zip(&bias[group * output..]).for_each(|(y, b)| *y += b);
        });
        if self.activation.needs_input() {
            let z = self.input.get_or_init(|| y.clone());
            debug_assert_eq!(z.len(), y.len());
        }
        parallel::rows(&mut y, output, |_, y| self.activation.forward(y));
        floats::stored(y, (dims.rows, output))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dims = self.dims(x.dims(), weight.dims(), bias.dims())?;
        let dy = dy.contiguous()?;
        let held = Floats::of(y)?;
        let saved: &[f32] = if self.activation.needs_input() { self.input.get().map_or(&[], |z| z) } else { &held };
        let mut dz = Floats::of(&dy)?.to_vec();
        parallel::rows(&mut dz, dims.output, |row, dz| {
            self.activation.backward(&saved[row * dims.output..(row + 1) * dims.output], dz);
        });
        let (dx, dw) = self.gradients(dims, &Floats::of(x)?, &Floats::of(weight)?, &dz);
        let db = self.bias_gradient(dims, &dz);
        let tensor = |values, like: &Tensor| floats::tensor(values, like.dims()).map(Some);
        Ok((tensor(dx, x)?, tensor(dw, weight)?, tensor(db, bias)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    fn op(groups: &Groups, columns: (usize, usize), activation: Activation) -> Generated {
        let precision = Precision::F32;
        Generated { groups: groups.clone(), columns, activation, precision, input: OnceLock::new() }
    }

    fn tensors(rows: usize, groups: usize, input: usize, output: usize) -> [Tensor; 3] {
        [random(&[rows, input], 1), random(&[groups, input * output], 2), random(&[groups, output], 3)]
    }

    #[test]
    fn matches_differences_and_plain_operations() {
        // No row of scenario 1.
        let scenarios = Groups::Scenarios([2, 0, 2, 3, 0].into());
        let many = Groups::Scenarios((0..300).map(|row| row % 7).collect());
        let cases = [
            (Groups::Rows, 1, 1, 1, 1),
            (Groups::Rows, 5, 5, 3, 4),
            (Groups::Rows, 200, 200, 17, 9),
            (scenarios, 5, 4, 3, 2),
            (many, 300, 8, 19, 11),
        ];
        for (groups, rows, count, input, output) in cases {
            for activation in [Activation::None, Activation::Relu, Activation::Tanh, Activation::Gelu] {
                let t = tensors(rows, count, input, output);
                let fused = |t: &[Tensor]| t[0].apply_op3(&t[1], &t[2], op(&groups, (input, output), activation));
                if rows < 100 {
                    check_gradients(&t, fused);
                }
                check_matches(&t, fused, |t| plain(&t[0], &t[1], &t[2], &groups, activation));
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_an_error() {
        let [x, weight, bias] = tensors(3, 2, 4, 5);
        let of = |groups| generated_linear(&x, &weight, &bias, &groups, Activation::None, &context(true, 3));
        assert!(of(Groups::Rows).is_err());
        assert!(of(Groups::Scenarios([0, 1, 2].into())).is_err());
        assert!(of(Groups::Scenarios([0, 1].into())).is_err());
        assert!(of(Groups::Scenarios([0, 1, 0].into())).is_ok());
    }
}
