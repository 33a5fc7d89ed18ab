use super::super::activation::ALL;
use super::super::testing::{Rendezvous, assert_close, check_gradients, check_matches, context, numbers, random};
use super::super::{ParamStore, backward_from};
use super::*;
use candle_core::{Device, Var};

/// Marks every third row, from the second on, as padding.
fn padded(rows: usize) -> Context {
    let mut at = context(true, rows);
    let marks: Vec<f32> = (0..rows).map(|row| f32::from(row % 3 != 1)).collect();
    at.present = Tensor::from_vec(marks, (rows, 1), &Device::Cpu).unwrap();
    at
}

fn layer(store: &mut ParamStore, width: usize, activation: Activation) -> BatchNorm {
    BatchNorm::new(store.builder().at("norm"), width, activation).unwrap()
}

/// Normalises with parameters from outside, and zeroes the rows of padding as the loss does.
fn fused(at: &Context, activation: Activation) -> impl Fn(&[Tensor]) -> candle_core::Result<Tensor> {
    move |t| {
        let mut norm = layer(&mut ParamStore::new(0), t[1].dim(0)?, activation);
        (norm.scale, norm.shift) = (t[1].clone(), t[2].clone());
        norm.forward(&t[0], at).unwrap().broadcast_mul(&at.present)
    }
}

fn inputs(rows: usize, width: usize) -> [Tensor; 3] {
    [random(&[rows, width], 1), random(&[width], 2), random(&[width], 3)]
}

#[test]
fn gradients_match_finite_differences() {
    for activation in ALL {
        for (rows, width) in [(3, 1), (8, 4)] {
            check_gradients(&inputs(rows, width), fused(&context(true, rows), activation));
            check_gradients(&inputs(rows, width), fused(&padded(rows), activation));
            check_gradients(&inputs(rows, width), fused(&context(false, rows), activation));
        }
    }
}

#[test]
fn values_and_gradients_match_plain_operations() {
    for (rows, width) in [(4, 1), (9, 5), (700, 60)] {
        let at = padded(rows);
        check_matches(&inputs(rows, width), fused(&at, Activation::Tanh), |t| {
            let present = at.present.to_dtype(t[0].dtype())?;
            let n = present.sum_all()?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
            let mean = (t[0].broadcast_mul(&present)?.sum_keepdim(0)? / n)?;
            let x = t[0].broadcast_sub(&mean)?.broadcast_mul(&present)?;
            let deviation = ((x.sqr()?.sum_keepdim(0)? / n)? + EPSILON)?.sqrt()?;
            let z = x.broadcast_div(&deviation)?.broadcast_mul(&t[1])?.broadcast_add(&t[2])?;
            z.tanh()?.broadcast_mul(&present)
        });
    }
}

#[test]
fn padding_rows_change_nothing_and_get_no_gradient() {
    let run = |filler: f32| {
        let at = padded(5);
        let mut values = random(&[5, 2], 1).to_vec2::<f32>().unwrap();
        values[1] = vec![filler; 2];
        values[4] = vec![filler; 2];
        let x = Var::new(values, &Device::Cpu).unwrap();
        let mut store = ParamStore::new(0);
        let y = layer(&mut store, 2, Activation::None).forward(&x, &at).unwrap();
        let gradients = backward_from(&[(&y, random(&[5, 2], 8))]).unwrap();
        let kept = Tensor::new(&[0u32, 2, 3], &Device::Cpu).unwrap();
        let dx = gradients.get(&x).unwrap();
        assert_eq!(numbers(&dx.narrow(0, 1, 1).unwrap()), [0.0; 2]);
        let pick = |t: &Tensor| numbers(&t.index_select(&kept, 0).unwrap());
        (pick(&y), pick(dx), store.buffers()[0].get(), store.buffers()[1].get())
    };
    assert_eq!(run(0.0), run(1e6));
}

#[test]
fn running_moments_follow_the_batches_and_serve_evaluation() {
    let mut store = ParamStore::new(0);
    let norm = layer(&mut store, 1, Activation::None);
    let x = Tensor::new(&[[1f32], [2.0], [6.0]], &Device::Cpu).unwrap();
    norm.forward(&x, &context(true, 3)).unwrap();
    assert_eq!(store.buffer_names(), ["norm.running_mean", "norm.running_variance"]);
    // Mean 3 and unbiased variance 7, of which a tenth is taken.
    assert_close(&[f64::from(store.buffers()[0].get()[0])], &[0.3], 1e-6, "mean");
    assert_close(&[f64::from(store.buffers()[1].get()[0])], &[0.9 + 0.7], 1e-6, "variance");

    store.buffers()[0].set(&[2.0]).unwrap();
    store.buffers()[1].set(&[4.0]).unwrap();
    let y = numbers(&norm.forward(&x, &context(false, 3)).unwrap());
    assert_close(&y, &[-0.5, 0.0, 2.0], 1e-5, "evaluation");
    assert_eq!(store.buffers()[0].get(), [2.0]);
}

/// Forward and backward of rows `start..start + len` of one batch; returns y, dx, dγ and dβ, then the buffers.
fn part(start: usize, len: usize, all_sum: Rc<dyn AllSum>) -> [Vec<f64>; 4] {
    let mut at = context(true, len);
    at.present = padded(11).present.narrow(0, start, len).unwrap();
    at.all_sum = SendWrapper::new(all_sum);
    let mut store = ParamStore::new(0);
    let norm = layer(&mut store, 3, Activation::Gelu);
    let rows = |seed| random(&[11, 3], seed).narrow(0, start, len).unwrap();
    let x = Var::from_tensor(&rows(1)).unwrap();
    let y = norm.forward(&x, &at).unwrap();
    let cotangent = rows(2).broadcast_mul(&at.present).unwrap();
    let gradients = backward_from(&[(&y, cotangent)]).unwrap();
    let parameters: Vec<f64> = store.vars().iter().flat_map(|v| numbers(gradients.get(v).unwrap())).collect();
    let running = store.buffers().iter().flat_map(|b| b.get()).map(f64::from).collect();
    [numbers(&y), numbers(gradients.get(&x).unwrap()), parameters, running]
}

#[test]
fn halves_of_a_batch_on_two_ranks_equal_the_whole() {
    let whole = part(0, 11, Rc::new(()));
    let [first, second] = Rendezvous::run(|rank, all_sum| match rank {
        0 => part(0, 4, all_sum),
        _ => part(4, 7, all_sum),
    });
    for (i, what) in ["y", "dx"].iter().enumerate() {
        assert_close(&[first[i].clone(), second[i].clone()].concat(), &whole[i], 1e-6, what);
    }
    let sum: Vec<f64> = first[2].iter().zip(&second[2]).map(|(a, b)| a + b).collect();
    assert_close(&sum, &whole[2], 1e-6, "parameter gradients");
    assert_close(&first[3], &whole[3], 1e-6, "running moments");
    assert_eq!(first[3], second[3]);
    // The control: local moments give something else.
    let alone = part(0, 4, Rc::new(()));
    assert!(alone[0].iter().zip(&whole[0]).any(|(a, b)| (a - b).abs() > 1e-2));
}
