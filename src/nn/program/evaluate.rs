//! Programs run with candle's own operations, to compare descriptions with what they describe.

use super::{Primitive, Program, Source, Value};
use crate::nn::testing::{assert_close, context, numbers};
use crate::nn::{Context, Graph, ParamStore};
use candle_core::{D, DType, Device, Result, Tensor};
use std::sync::Arc;

/// Checks that what `f` is described by gives the numbers that `f` gives, also with another number of rows than it was
/// traced with. `f` may read `inputs` and the parameters of `store`.
pub(crate) fn check_description(
    inputs: &[Tensor],
    store: &ParamStore,
    f: impl Fn(&[Tensor], &Context) -> crate::Result<Tensor>,
) {
    check_description_by_scenario(inputs, &[], store, |inputs, _, at| f(inputs, at));
}

/// [`check_description`] of what also reads the number of each row's scenario.
pub(crate) fn check_description_by_scenario(
    inputs: &[Tensor],
    scenarios: &[u32],
    store: &ParamStore,
    f: impl Fn(&[Tensor], &Arc<[u32]>, &Context) -> crate::Result<Tensor>,
) {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let trace = |rows: usize| {
        let inputs: Vec<Tensor> = inputs.iter().map(|x| x.narrow(0, 0, rows).unwrap().copy().unwrap()).collect();
        let named: Vec<_> = names.iter().map(String::as_str).zip(&inputs).collect();
        let at = Context { graph: Graph::trace(&named, store), ..context(false, rows) };
        let scenarios: Arc<[u32]> = scenarios[..rows.min(scenarios.len())].into();
        let y = f(&inputs, &scenarios, &at).unwrap();
        let program = at.graph.program(&[&y]).unwrap();
        let found = &run(&program, &inputs, &scenarios).unwrap()[0];
        assert_eq!(found.dims(), y.dims());
        assert_close(&numbers(found), &numbers(&y), 1e-5, "described");
        program
    };
    let rows = inputs[0].dims()[0];
    let program = trace(rows);
    program.same_as(&trace(rows.div_ceil(2))).unwrap();
}

/// The outputs of `program` for `inputs`, in the order of its input sources.
pub(crate) fn run(program: &Program, inputs: &[Tensor], scenarios: &[u32]) -> Result<Vec<Tensor>> {
    let mut inputs = inputs.iter();
    let source = |source: &Source| match source {
        Source::Input(_) => inputs.next().cloned(),
        Source::Scenarios => Some(Tensor::new(scenarios, &Device::Cpu).unwrap()),
        Source::Constant { dims, values, .. } => {
            Some(Tensor::from_slice(values, dims.as_slice(), &Device::Cpu).unwrap())
        }
        Source::Computed => None,
    };
    let mut values: Vec<Option<Tensor>> = program.sources().iter().map(source).collect();
    for node in program.nodes() {
        let at = |value: &Value| values[value.index()].clone().unwrap();
        let x: Vec<Tensor> = node.inputs.iter().map(at).collect();
        values[node.output.index()] = Some(apply(&node.primitive, &x)?);
    }
    Ok(program.outputs().iter().map(|value| values[value.index()].clone().unwrap()).collect())
}

fn apply(primitive: &Primitive, x: &[Tensor]) -> Result<Tensor> {
    use Primitive as P;
    match primitive {
        P::Add => x[0].broadcast_add(&x[1]),
        P::Sub => x[0].broadcast_sub(&x[1]),
        P::Mul => x[0].broadcast_mul(&x[1]),
        P::Div => x[0].broadcast_div(&x[1]),
        P::MatMul => x[0].contiguous()?.broadcast_matmul(&x[1].contiguous()?),
        P::Exp => x[0].exp(),
        P::Ln => x[0].log(),
        P::Sqrt => x[0].sqrt(),
        P::Abs => x[0].abs(),
        P::Tanh => x[0].tanh(),
        P::Sigmoid => (x[0].neg()?.exp()? + 1.0)?.recip(),
        P::Relu => x[0].relu(),
        P::LeakyRelu { slope } => x[0].relu()? - (x[0].neg()?.relu()? * f64::from(*slope))?,
        P::Erf => x[0].erf(),
        P::NotZero => x[0].ne(0.0)?.to_dtype(DType::F32),
        P::Softmax => {
            let e = x[0].broadcast_sub(&x[0].max_keepdim(D::Minus1)?)?.exp()?;
            e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
        }
        P::Sum { axis } => x[0].sum_keepdim(*axis),
        P::Mean { axis } => x[0].mean_keepdim(*axis),
        P::Reshape(dims) => {
            let kept: Vec<usize> = dims
                .iter()
                .enumerate()
                .map(|(i, &d)| if d == 0 { x[0].dims()[i] } else { d.max(1) as usize })
                .collect();
            let known: usize = kept.iter().product();
            let of = |(&d, &kept): (&i64, &usize)| if d < 0 { x[0].elem_count() / known } else { kept };
            x[0].reshape(dims.iter().zip(&kept).map(of).collect::<Vec<_>>())
        }
        P::Transpose(axes) => x[0].permute(axes.as_slice()),
        P::Slice { axis, start, end } => x[0].narrow(*axis, *start, end - start),
        P::Concat { axis } => Tensor::cat(x, *axis),
        P::Gather => {
            let picked = x[0].index_select(&x[1].flatten_all()?, 0)?;
            picked.reshape([x[1].dims(), &x[0].dims()[1..]].concat())
        }
    }
}
