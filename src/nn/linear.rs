//! y = act(x · W + b) as one operation with its own backward.
//!
//! ```text
//! x  [rows, G · in]     G blocks of columns, one for each group (expert); G = 1 is the plain layer
//! W  [G, in, out]       (plain: [in, out]); row-major, so that all three products below read rows
//! b  [G · out]
//! y  [rows, G · out]    y_g = act(x_g · W_g + b_g)
//!
//! dz = dy ⊙ act'        dx_g = dz_g · W_gᵀ        dW_g = x_gᵀ · dz_g        db = column sums of dz
//! ```
//!
//! The experts of a mixture are one plain layer whose columns are the experts' first layers side by side,
//! then grouped layers: their outputs stay side by side and nothing is copied between layers.

use super::activation::Activation;
use super::floats::{self, Floats, slice};
use super::gemm::{Matrix, Precision, multiplied, multiply};
use super::graph::{Family, Operation, Pass, Reached};
use super::input_gradient::Part;
use super::program::{Describe, Program, Value, exactly};
use super::{Builder, Context, Graph, Init, Kernels, narrow, parallel, reference};
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// A linear layer, or G of them side by side, with activation.
#[derive(Debug, Clone)]
pub struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) groups: usize,
    /// Columns of one group.
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) activation: Activation,
}

impl Linear {
    /// A layer from `input` to `output` columns. Weights and biases start as in PyTorch ([`Init::fan_in`]).
    pub fn new(builder: Builder, input: usize, output: usize, activation: Activation) -> crate::Result<Self> {
        let init = Init::fan_in(input);
        Self::build(builder, 1, &[input, output], activation, [init; 2])
    }

    /// A layer whose weights and biases start as `[weights, biases]` say.
    pub fn starting(
        builder: Builder,
        input: usize,
        output: usize,
        activation: Activation,
        init: [Init; 2],
    ) -> crate::Result<Self> {
        Self::build(builder, 1, &[input, output], activation, init)
    }

    /// `groups` layers, each from its own `input` to its own `output` columns.
    pub fn grouped(
        builder: Builder,
        groups: usize,
        input: usize,
        output: usize,
        activation: Activation,
    ) -> crate::Result<Self> {
        match groups {
            1 => Self::new(builder, input, output, activation),
            _ => Self::build(builder, groups, &[groups, input, output], activation, [Init::fan_in(input); 2]),
        }
    }

    /// A layer from `input` to `output` columns whose bias stays 0.
    pub fn without_bias(
        mut builder: Builder,
        input: usize,
        output: usize,
        activation: Activation,
    ) -> crate::Result<Self> {
        let weight = builder.param("weight", &[input, output], Init::fan_in(input))?;
        let bias = Tensor::zeros(output, DType::F32, &Device::Cpu)?;
        Ok(Self { weight, bias, groups: 1, input, output, activation })
    }

    /// The layer of a `weight` `[in, out]` and a `bias` `[out]` that are computed, not registered.
    pub fn of(weight: Tensor, bias: Tensor, activation: Activation) -> crate::Result<Self> {
        let (input, output) = weight.dims2()?;
        Ok(Self { weight, bias, groups: 1, input, output, activation })
    }

    fn build(
        mut builder: Builder,
        groups: usize,
        shape: &[usize],
        activation: Activation,
        init: [Init; 2],
    ) -> crate::Result<Self> {
        let (input, output) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let weight = builder.param("weight", shape, init[0])?;
        let bias = builder.param("bias", &[groups * output], init[1])?;
        Ok(Self { weight, bias, groups, input, output, activation })
    }

    /// `[…, G · in]` → `[…, G · out]`.
    pub fn forward(&self, x: &Tensor, context: &Context) -> crate::Result<Tensor> {
        let Self { weight, bias, groups, activation, .. } = self;
        let x = &x.contiguous()?;
        if context.kernels == Kernels::Reference {
            return Ok(reference::linear(x, weight, bias, *groups, *activation)?);
        }
        let graph = &context.graph;
        let op = Fused {
            groups: *groups,
            activation: *activation,
            precision: context.precision.of_layer(self.input, self.output),
            wants_dx: graph.tracks(x),
            input: OnceLock::new(),
        };
        if !graph.is_input(x) || *groups > 1 {
            return graph.three(x, weight, bias, op);
        }
        let y = x.apply_op3_no_bwd(weight, bias, &op)?;
        graph.record(&[x, weight, bias], &y, AtInput { op, family: None })?;
        Ok(y)
    }

    /// [`Linear::forward`] of several layers of one `x`. Narrow ones without activation, as gates are, read the model's
    /// input together: it comes from memory once for all of them, on the way back too.
    pub fn forward_all(layers: &[&Self], x: &Tensor, context: &Context) -> crate::Result<Vec<Tensor>> {
        let (rows, input) = floats::rows_of(x.dims());
        let narrow = |layer: &&Self| layer.is_narrow() && layer.activation == Activation::None && layer.input == input;
        let graph = &context.graph;
        let at_input = matches!(graph, Graph::None | Graph::Trace(_)) || graph.is_input(x);
        let together = at_input && context.kernels == Kernels::Fused && layers.len() > 1 && layers.iter().all(narrow);
        if !together {
            return layers.iter().map(|layer| layer.forward(x, context)).collect();
        }
        let x = x.contiguous()?;
        let products = {
            let weights = layers.iter().map(|layer| Floats::of(&layer.weight)).collect::<Result<Vec<_>>>()?;
            let weights: Vec<_> = weights.iter().zip(layers).map(|(weight, layer)| (&**weight, layer.output)).collect();
            narrow::forward(&Floats::of(&x)?, input, &weights)
        };
        let finish = |(layer, mut y): (&&Self, Vec<f32>)| {
            let Self { weight, bias, output, activation, .. } = *layer;
            let values = Floats::of(bias)?;
            parallel::rows(
                &mut y,
                *output,
                #[inline(always)]
                |_, row| add_bias(row, &values),
            );
            let y = floats::tensor(y, (rows, *output))?;
            let (precision, input) = (context.precision.of_layer(input, *output), OnceLock::new());
            let op = Fused { groups: 1, activation: *activation, precision, wants_dx: false, input };
            let family = Some(Family { kind: "narrow", reads: x.id(), settings: [0; 2] });
            graph.record(&[&x, weight, bias], &y, AtInput { op, family })?;
            Ok(y)
        };
        layers.iter().zip(products).map(finish).collect()
    }

    /// Whether it is one layer of few outputs ([`narrow`]).
    fn is_narrow(&self) -> bool {
        let Self { groups, input, output, .. } = *self;
        Dims { rows: 0, groups, input, output }.is_narrow()
    }
}

/// The result for one layer, of a list of one.
fn only(mut results: Vec<Vec<f32>>) -> Vec<f32> {
    results.pop().unwrap_or_default()
}

/// The operation on candle's graph.
struct Fused {
    groups: usize,
    activation: Activation,
    precision: Precision,
    /// Whether the gradient of x is wanted.
    wants_dx: bool,
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

impl Dims {
    fn x(self) -> usize {
        self.groups * self.input
    }

    fn y(self) -> usize {
        self.groups * self.output
    }

    /// Whether it is one layer of few outputs ([`narrow`]).
    fn is_narrow(self) -> bool {
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
    fn dims(&self, x: &[usize], weight: &[usize]) -> Result<Dims> {
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

    /// dz = dy ⊙ act', without a copy where that is dy itself.
    fn activation_gradient(&self, y: &Tensor, dy: &Tensor, width: usize) -> Result<Tensor> {
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
        let mut y = if dims.is_narrow() {
            only(narrow::forward(x, dims.input, &[(weight, dims.output)]))
        } else {
            let factors = |group| (dims.group(x, group, dims.input), dims.weight(weight, group));
            multiplied(self.precision, dims.rows, &(0..dims.groups).map(factors).collect::<Vec<_>>())
        };
        if self.activation.needs_input() {
            parallel::rows(
                &mut y,
                dims.y(),
                #[inline(always)]
                |_, row| add_bias(row, bias),
            );
            let z = self.input.get_or_init(|| y.clone());
            debug_assert_eq!(z.len(), y.len());
            parallel::rows(
                &mut y,
                dims.y(),
                #[inline(always)]
                |_, row| self.activation.forward(row),
            );
        } else {
            parallel::rows(
                &mut y,
                dims.y(),
                #[inline(always)]
                |_, row| {
                    add_bias(row, bias);
                    self.activation.forward(row);
                },
            );
        }
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

#[inline(always)]
fn add_bias(row: &mut [f32], bias: &[f32]) {
    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
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
    fn parameter_gradients(
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
fn bias_gradient(dz: &[f32], columns: usize) -> Vec<f32> {
    parallel::sums(
        dz.len() / columns.max(1),
        columns,
        dz.len(),
        #[inline(always)]
        |row, sums: &mut [f32]| {
            sums.iter_mut().zip(&dz[row * columns..]).for_each(|(sum, &value)| *sum += value);
        },
    )
}

/// A layer that reads the model's input: it leaves its dz, from which dx is computed once for all tasks.
struct AtInput {
    op: Fused,
    /// Of [`Linear::forward_all`].
    family: Option<Family>,
}

impl Describe for AtInput {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        self.op.describe(program, inputs)
    }
}

impl Operation for AtInput {
    fn backward(
        &self,
        inputs: &[Tensor],
        y: &Tensor,
        dy: &Tensor,
        pass: &mut Pass,
    ) -> crate::Result<Vec<Option<Tensor>>> {
        let [x, weight, bias] = inputs else {
            return Err(crate::Error::internal("a linear layer has three inputs"));
        };
        let dims = self.op.dims(x.dims(), weight.dims())?;
        let dz = self.op.activation_gradient(y, dy, dims.y())?;
        let (dw, db) = self.op.parameter_gradients(dims, &dz, x, weight, bias)?;
        pass.at_input.push(Part::Linear { weight: weight.clone(), dz, precision: self.op.precision });
        Ok(vec![None, Some(dw), Some(db)])
    }

    fn family(&self) -> Option<Family> {
        self.family
    }

    fn backward_together(&self, family: &[Reached], pass: &mut Pass) -> crate::Result<Vec<Vec<Option<Tensor>>>> {
        let Some([x, ..]) = family.first().map(|first| first.inputs) else { return Ok(Vec::new()) };
        let dzs = family.iter().map(|reached| reached.dy.contiguous()).collect::<Result<Vec<_>>>()?;
        let input = floats::rows_of(x.dims()).1;
        let dws = {
            let values = dzs.iter().map(Floats::of).collect::<Result<Vec<_>>>()?;
            let outputs = dzs.iter().map(|dz| floats::rows_of(dz.dims()).1);
            let layers: Vec<_> = values.iter().map(|dz| &**dz).zip(outputs).collect();
            narrow::weight_gradients(&Floats::of(x)?, input, &layers)
        };
        let of_layer = |((reached, dz), dw): ((&Reached, Tensor), Vec<f32>)| {
            let [_, weight, bias] = reached.inputs else {
                return Err(crate::Error::internal("a linear layer has three inputs"));
            };
            let db = floats::tensor(bias_gradient(&Floats::of(&dz)?, weight.dims()[1]), bias.dims())?;
            let dw = floats::tensor(dw, weight.dims())?;
            pass.at_input.push(Part::Linear { weight: weight.clone(), dz, precision: self.op.precision });
            Ok(vec![None, Some(dw), Some(db)])
        };
        family.iter().zip(dzs).zip(dws).map(of_layer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::activation::ALL;
    use super::super::testing::{assert_close, check_gradients, check_matches, context, numbers, random};
    use super::*;

    fn fused(groups: usize, activation: Activation) -> impl Fn(&[Tensor]) -> Result<Tensor> {
        move |t| {
            let x = t[0].contiguous()?;
            let (precision, wants_dx) = (Precision::F32, x.track_op());
            x.apply_op3(&t[1], &t[2], Fused { groups, activation, precision, wants_dx, input: OnceLock::new() })
        }
    }

    fn plain(groups: usize, activation: Activation) -> impl Fn(&[Tensor]) -> Result<Tensor> {
        move |t| reference::linear(&t[0].contiguous()?, &t[1], &t[2], groups, activation)
    }

    fn inputs(rows: usize, groups: usize, input: usize, output: usize) -> Vec<Tensor> {
        let weight: &[usize] = if groups == 1 { &[input, output] } else { &[groups, input, output] };
        vec![random(&[rows, groups * input], 1), random(weight, 2), random(&[groups * output], 3)]
    }

    #[test]
    fn gradients_match_finite_differences() {
        for activation in ALL {
            for (rows, groups, input, output) in [(1, 1, 1, 1), (7, 1, 5, 3), (1, 3, 2, 1), (6, 2, 3, 4)] {
                check_gradients(&inputs(rows, groups, input, output), fused(groups, activation));
            }
        }
    }

    #[test]
    fn values_and_gradients_match_plain_operations() {
        for activation in ALL {
            for (rows, groups, input, output) in [(1, 1, 1, 1), (33, 1, 17, 9), (5, 4, 3, 1), (300, 2, 31, 64)] {
                let tensors = inputs(rows, groups, input, output);
                check_matches(&tensors, fused(groups, activation), plain(groups, activation));
            }
        }
    }

    #[test]
    fn a_strided_input_is_read_in_its_own_order() {
        let transposed = |t: &[Tensor]| vec![t[0].t().unwrap(), t[1].clone(), t[2].clone()];
        let tensors = [random(&[4, 6], 1), random(&[4, 3], 2), random(&[3], 3)];
        check_matches(
            &tensors,
            |t| fused(1, Activation::Tanh)(&transposed(t)),
            |t| plain(1, Activation::Tanh)(&transposed(t)),
        );
    }

    #[test]
    fn an_input_of_rank_three_keeps_its_outer_dimensions() {
        let y = fused(1, Activation::None)(&[random(&[2, 5, 4], 1), random(&[4, 3], 2), random(&[3], 3)]).unwrap();
        assert_eq!(y.dims(), [2, 5, 3]);
    }

    #[test]
    fn the_gradient_of_a_constant_input_is_not_computed() {
        let mut store = super::super::ParamStore::new(1);
        let layer = Linear::new(store.builder().at("layer"), 3, 2, Activation::Relu).unwrap();
        let x = random(&[4, 3], 5);
        let y = layer.forward(&x, &context(true, 4)).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&x).is_none());
        assert!(store.vars().iter().all(|var| gradients.get(var).is_some()));
    }

    #[test]
    fn narrow_layers_of_the_input_go_together_as_they_go_alone() {
        let mut store = super::super::ParamStore::new(1);
        let layers: Vec<_> = [4, 1, 15]
            .map(|output| Linear::new(store.builder().at(output), 30, output, Activation::None).unwrap())
            .into();
        let source = candle_core::Var::from_tensor(&random(&[300, 30], 5)).unwrap();
        let context = Context { graph: Graph::tape(), ..context(true, 300) };
        let x = context.graph.cut(source.as_tensor().clone());
        let together = Linear::forward_all(&layers.iter().collect::<Vec<_>>(), &x, &context).unwrap();
        let gradients = |outputs: &[(&Tensor, Tensor)]| {
            let pass = context.graph.backward(outputs).unwrap();
            let of_input = context.graph.backward_input(&[(1.0, &pass.at_input)]).unwrap();
            let of_parameters = store.vars().iter().filter_map(|var| pass.grads.get(var)).map(numbers);
            (of_parameters.collect::<Vec<_>>(), numbers(of_input.get(&source).unwrap()))
        };
        let dys = || together.iter().zip(7..).map(|(y, seed)| (y, random(y.dims(), seed))).collect::<Vec<_>>();
        let (parameters, dx) = gradients(&dys());
        let (mut each, mut sum) = (Vec::new(), vec![0.0; dx.len()]);
        for (layer, (y, dy)) in layers.iter().zip(dys()) {
            assert_eq!(numbers(&layer.forward(&x, &context).unwrap()), numbers(y));
            let (own, dx) = gradients(&[(y, dy)]);
            each.extend(own);
            sum.iter_mut().zip(dx).for_each(|(sum, dx)| *sum += dx);
        }
        assert_eq!(parameters, each);
        assert_close(&dx, &sum, 1e-5, "dx");
    }

    #[test]
    fn a_wrong_width_is_an_error() {
        let tensors = [random(&[4, 5], 1), random(&[4, 3], 2), random(&[3], 3)];
        let error = fused(1, Activation::None)(&tensors).unwrap_err().to_string();
        assert!(error.contains("5 columns"), "{error}");
    }
}
