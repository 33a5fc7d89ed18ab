use super::super::testing::{Rendezvous, assert_close, check_gradients, check_matches, context, numbers, random};
use super::super::{Activation, BatchNorm, ParamStore, backward_from};
use super::*;
use candle_core::{Device, Var};

/// Scenarios of the tests, without "other".
const SCENARIOS: usize = 3;

/// Marks every seventh row, from the second on, as padding.
fn padded(rows: usize) -> super::super::Context {
    let mut at = context(true, rows);
    let marks: Vec<f32> = (0..rows).map(|row| f32::from(row % 7 != 1)).collect();
    at.present = Tensor::from_vec(marks, (rows, 1), &Device::Cpu).unwrap();
    at
}

/// Scenario 1 has no rows, "other" has some.
fn scenarios(rows: usize) -> Arc<[u32]> {
    (0..rows).map(|row| [0, 2, 3, 2, 0][row % 5]).collect()
}

fn layer(store: &mut ParamStore, width: usize) -> PartitionedNorm {
    PartitionedNorm::new(store.builder().at("norm"), width, SCENARIOS).unwrap()
}

fn inputs(rows: usize, width: usize) -> [Tensor; 5] {
    let (shared, own) = ([width], [SCENARIOS, width]);
    [random(&[rows, width], 1), random(&shared, 2), random(&own, 3), random(&shared, 4), random(&own, 5)]
}

/// Normalises with parameters from outside, and zeroes the rows of padding as the loss does.
fn fused(at: &super::super::Context) -> impl Fn(&[Tensor]) -> candle_core::Result<Tensor> {
    move |t| {
        let mut norm = layer(&mut ParamStore::new(0), t[1].dim(0)?);
        norm.scale = [t[1].clone(), t[2].clone()];
        norm.shift = [t[3].clone(), t[4].clone()];
        norm.forward(&t[0], &scenarios(t[0].dim(0)?), at).unwrap().broadcast_mul(&at.present)
    }
}

#[test]
fn gradients_match_finite_differences() {
    for (rows, width) in [(10, 1), (15, 4)] {
        for at in [context(true, rows), padded(rows), context(false, rows)] {
            check_gradients(&inputs(rows, width), fused(&at));
        }
    }
}

#[test]
fn values_and_gradients_match_plain_operations() {
    for (rows, width) in [(10, 1), (16, 5), (700, 20)] {
        let at = padded(rows);
        check_matches(&inputs(rows, width), fused(&at), |t| {
            let (scale, shift) = ((&t[2].broadcast_mul(&t[1])?), (&t[4].broadcast_add(&t[3])?));
            let scale = Tensor::cat(&[scale, &t[1].unsqueeze(0)?], 0)?;
            let shift = Tensor::cat(&[shift, &t[3].unsqueeze(0)?], 0)?;
            let mut y = t[0].zeros_like()?;
            for group in [0, 2, 3] {
                let here = scenarios(rows).iter().map(|&s| f32::from(s == group)).collect::<Vec<_>>();
                let here = (Tensor::from_vec(here, (rows, 1), &Device::Cpu)? * &at.present)?.to_dtype(t[0].dtype())?;
                let n = here.sum_all()?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
                let mean = (t[0].broadcast_mul(&here)?.sum_keepdim(0)? / n)?;
                let x = t[0].broadcast_sub(&mean)?.broadcast_mul(&here)?;
                let deviation = ((x.sqr()?.sum_keepdim(0)? / n)? + 1e-5)?.sqrt()?;
                let (scale, shift) = (scale.get(group as usize)?, shift.get(group as usize)?);
                let z = x.broadcast_div(&deviation)?.broadcast_mul(&scale)?.broadcast_add(&shift)?;
                y = (y + z.broadcast_mul(&here)?)?;
            }
            Ok(y)
        });
    }
}

#[test]
fn with_a_single_scenario_it_is_batch_norm() {
    let (mut of_parts, mut of_batch) = (ParamStore::new(0), ParamStore::new(0));
    let parts = PartitionedNorm::new(of_parts.builder(), 4, 1).unwrap();
    let batch = BatchNorm::new(of_batch.builder(), 4, Activation::None).unwrap();
    let (x, all): (_, Arc<[u32]>) = (random(&[9, 4], 1), (0..9).map(|_| 0).collect());
    for at in [context(true, 9), padded(9), context(false, 9)] {
        let [a, b] = [parts.forward(&x, &all, &at).unwrap(), batch.forward(&x, &at).unwrap()];
        assert_close(&numbers(&a), &numbers(&b), 1e-6, "one scenario");
    }
    // The only scenario's moments, and the whole batch's, are those of batch norm.
    for (parts, batch) in of_parts.buffers().iter().zip(of_batch.buffers()) {
        let (parts, batch) = (parts.get(), batch.get());
        assert_eq!((&parts[..4], &parts[8..]), (&batch[..], &batch[..]));
    }
}

#[test]
fn a_scenario_without_moments_of_its_own_is_evaluated_by_those_of_the_batch() {
    let mut store = ParamStore::new(0);
    let norm = layer(&mut store, 1);
    let x = Tensor::new(&[[1f32], [2.0], [6.0], [8.0]], &Device::Cpu).unwrap();
    // Two rows of scenario 0, one of 2 and one of "other".
    norm.forward(&x, &[0, 2, 0, 3].into(), &context(true, 4)).unwrap();
    let [mean, variance, known] = [0, 1, 2].map(|buffer| store.buffers()[buffer].get());
    assert_eq!(known, [1.0, 0.0, 0.0, 0.0, 1.0]);
    let close = |found: &[f32], expected: &[f64]| {
        let found: Vec<f64> = found.iter().map(|&v| f64::from(v)).collect();
        assert_close(&found, expected, 1e-6, "running moments");
    };
    // Of the whole batch mean 4.25 and unbiased variance 10.9166…; a tenth is taken.
    close(&mean, &[0.35, 0.0, 0.0, 0.0, 0.425]);
    close(&variance, &[0.9 + 1.25, 1.0, 1.0, 1.0, 0.9 + 1.091_666_7]);
    let y = numbers(&norm.forward(&x, &[0, 1, 2, 3].into(), &context(false, 4)).unwrap());
    let of = |x: f64, row: usize| (x - f64::from(mean[row])) / (f64::from(variance[row]) + 1e-5).sqrt();
    assert_close(&y, &[of(1.0, 0), of(2.0, 4), of(6.0, 4), of(8.0, 4)], 1e-5, "evaluation");
    assert!(norm.forward(&x, &[0, 1, 2, 4].into(), &context(false, 4)).is_err());
}

/// Forward and backward of rows `start..start + len` of one batch; returns y, dx, the parameters' gradients, then the
/// buffers.
fn part(start: usize, len: usize, all_sum: Rc<dyn AllSum>) -> [Vec<f64>; 4] {
    const ROWS: usize = 23;
    let mut at = context(true, len);
    at.present = padded(ROWS).present.narrow(0, start, len).unwrap();
    at.all_sum = SendWrapper::new(all_sum);
    let mut store = ParamStore::new(0);
    let norm = layer(&mut store, 3);
    let rows = |seed| random(&[ROWS, 3], seed).narrow(0, start, len).unwrap();
    let x = Var::from_tensor(&rows(1)).unwrap();
    let y = norm.forward(&x, &scenarios(ROWS)[start..start + len].into(), &at).unwrap();
    let cotangent = rows(2).broadcast_mul(&at.present).unwrap();
    let gradients = backward_from(&[(&y, cotangent)]).unwrap();
    let parameters: Vec<f64> = store.vars().iter().flat_map(|v| numbers(gradients.get(v).unwrap())).collect();
    let running = store.buffers().iter().flat_map(|b| b.get()).map(f64::from).collect();
    [numbers(&y), numbers(gradients.get(&x).unwrap()), parameters, running]
}

#[test]
fn halves_of_a_batch_on_two_ranks_equal_the_whole() {
    let whole = part(0, 23, Rc::new(()));
    let [first, second] = Rendezvous::run(|rank, all_sum| match rank {
        0 => part(0, 9, all_sum),
        _ => part(9, 14, all_sum),
    });
    for (i, what) in ["y", "dx"].iter().enumerate() {
        assert_close(&[first[i].clone(), second[i].clone()].concat(), &whole[i], 1e-5, what);
    }
    let sum: Vec<f64> = first[2].iter().zip(&second[2]).map(|(a, b)| a + b).collect();
    assert_close(&sum, &whole[2], 1e-5, "parameter gradients");
    assert_close(&first[3], &whole[3], 1e-6, "running moments");
    assert_eq!(first[3], second[3]);
    // The control: local moments give something else.
    let alone = part(0, 9, Rc::new(()));
    assert!(alone[0].iter().zip(&whole[0]).any(|(a, b)| (a - b).abs() > 1e-2));
}
