//! Checks that every fused layer and every model must pass.

use super::{AllSum, Context, Graph, backward_from};
use crate::random;
use candle_core::{DType, Device, Result, Tensor, Var};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Numbers between −1.5 and 1.5, a pure function of `(shape, seed)`.
pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u64).map(|i| 3.0 * random::unit(seed, &[i]) as f32 - 1.5).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Which of `len` elements each of `rows` sequences has: row b those l with (b + l) % 3 ≠ 2, and each fourth row none.
pub(crate) fn mask(rows: usize, len: usize) -> Tensor {
    let here = |(row, l): (usize, usize)| f32::from(row % 4 != 3 && (row + l) % 3 != 2);
    let values: Vec<f32> = (0..rows * len).map(|i| here((i / len, i % len))).collect();
    Tensor::from_vec(values, (rows, len), &Device::Cpu).unwrap()
}

/// A context of one rank whose rows are all present.
pub(crate) fn context(train: bool, rows: usize) -> Context {
    Context { train, seed: 11, step: 3, progress: 0.25, ..Context::alone(rows, Graph::Candle).unwrap() }
}

/// The numbers of a tensor in row-major order, as f64.
pub(crate) fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Fails unless `a` and `b` agree to `tolerance` of the larger one's largest number.
pub(crate) fn assert_close(a: &[f64], b: &[f64], tolerance: f64, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    let scale = a.iter().chain(b).fold(1e-3f64, |max, v| max.max(v.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}[{i}]: {a} against {b}");
    }
}

/// Compares a gradient with central differences of `value` along three random directions of each argument.
/// `shift(argument, direction, step)` returns the scalar with that argument moved.
pub(crate) fn check_directions(gradients: &[Vec<f64>], shift: impl Fn(usize, &[f64], f64) -> f64) {
    const STEP: f64 = 4e-3;
    for (argument, gradient) in gradients.iter().enumerate() {
        let norm = dot(gradient, gradient).sqrt();
        for seed in 0..3 {
            let direction: Vec<f64> =
                (0..gradient.len() as u64).map(|i| random::unit(seed, &[91, argument as u64, i]) * 2.0 - 1.0).collect();
            let along = dot(gradient, &direction);
            let numeric = (shift(argument, &direction, STEP) - shift(argument, &direction, -STEP)) / (2.0 * STEP);
            // Rounding of f32 values, and kinks of piecewise linear functions inside the step.
            let tolerance = 0.01 * (norm + along.abs()) + 2e-3;
            assert!((numeric - along).abs() < tolerance, "argument {argument}: {numeric} by differences, {along}");
        }
    }
}

/// Checks the backward of `f` with respect to each input against central differences.
pub(crate) fn check_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let (y, gradients) = pull(inputs, &f, DType::F32);
    let cotangent = numbers(&random(y.dims(), 77));
    check_directions(&gradients, |argument, direction, step| {
        let moved: Vec<Tensor> = (0..inputs.len())
            .map(|i| if i == argument { shifted(&inputs[i], direction, step) } else { inputs[i].clone() })
            .collect();
        dot(&numbers(&f(&moved).unwrap()), &cotangent)
    });
}

/// `tensor` + `step` · `direction`.
pub(crate) fn shifted(tensor: &Tensor, direction: &[f64], step: f64) -> Tensor {
    let values: Vec<f32> = numbers(tensor).iter().zip(direction).map(|(v, d)| (v + step * d) as f32).collect();
    Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap()
}

/// Checks values and gradients of `f` against `reference`, written with candle's own operations and run in
/// float64.
pub(crate) fn check_matches(
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let (y, gradients) = pull(inputs, &f, DType::F32);
    let (exact_y, exact) = pull(inputs, &reference, DType::F64);
    assert_eq!(y.dims(), exact_y.dims());
    assert_close(&numbers(&y), &numbers(&exact_y), 1e-5, "value");
    for (i, (gradient, exact)) in gradients.iter().zip(&exact).enumerate() {
        assert_close(gradient, exact, 2e-5, &format!("gradient {i}"));
    }
}

/// Value of `f`, and its gradients under a fixed random cotangent.
fn pull(inputs: &[Tensor], f: &impl Fn(&[Tensor]) -> Result<Tensor>, dtype: DType) -> (Tensor, Vec<Vec<f64>>) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let cotangent = random(y.dims(), 77).to_dtype(dtype).unwrap();
    let gradients = match dtype {
        DType::F32 => backward_from(&[(&y, cotangent)]).unwrap(),
        _ => (&y * cotangent).unwrap().sum_all().unwrap().backward().unwrap(),
    };
    let gradients = vars.iter().map(|v| gradients.get(v).map_or(vec![0.0; v.elem_count()], numbers)).collect();
    (y, gradients)
}

/// Two ranks as threads; a sum of two numbers has the same bits in either order. If one fails, so does the
/// other: none waits for ever.
pub(crate) struct Rendezvous {
    send: Sender<Vec<f64>>,
    receive: Receiver<Vec<f64>>,
}

impl Rendezvous {
    /// Runs `f(rank, all_sum)` on both ranks and returns their results.
    pub fn run<T: Send>(f: impl Fn(usize, Rc<dyn AllSum>) -> T + Sync) -> [T; 2] {
        let ((to_second, from_first), (to_first, from_second)) = (channel(), channel());
        let start = |rank, send, receive| f(rank, Rc::new(Rendezvous { send, receive }));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| start(1, to_first, from_first));
            [start(0, to_second, from_second), second.join().unwrap()]
        })
    }
}

impl AllSum for Rendezvous {
    fn all_sum(&self, values: &mut [f64]) -> crate::Result<()> {
        self.send.send(values.to_vec()).unwrap();
        let theirs = self.receive.recv().unwrap();
        assert_eq!(theirs.len(), values.len());
        for (mine, theirs) in values.iter_mut().zip(theirs) {
            *mine += theirs;
        }
        Ok(())
    }
}
