use super::super::activation::ALL;
use super::super::testing::{assert_close, check_gradients, check_matches, context, numbers, random};
use super::super::{Activation, Graph, Precision, Repeats, reference};
use super::*;
use candle_core::Result;
use std::sync::OnceLock;

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
    let layers: Vec<_> =
        [4, 1, 15].map(|output| Linear::new(store.builder().at(output), 30, output, Activation::None).unwrap()).into();
    let source = candle_core::Var::from_tensor(&random(&[300, 30], 5)).unwrap();
    let context = Context { graph: Graph::tape(), ..context(true, 300) };
    let x = context.graph.cut(source.as_tensor().clone(), &[].into());
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

/// `[rows, width]` whose `blocks` of columns have so many distinct rows, and what repeats.
fn repeating(rows: usize, width: usize, blocks: &[(std::ops::Range<usize>, usize)]) -> (Tensor, Vec<Repeats>) {
    let mut x = numbers(&random(&[rows, width], 5));
    let mut repeats = Vec::new();
    for (columns, distinct) in blocks {
        let keys: Vec<u32> = (0..rows as u64).map(|row| (crate::random::mix(row) % *distinct as u64) as u32).collect();
        for row in 0..rows {
            let other = keys.iter().position(|&key| key == keys[row]).unwrap();
            columns.clone().for_each(|column| x[row * width + column] = x[other * width + column]);
        }
        repeats.push(Repeats::of(columns.clone(), &keys, *distinct).unwrap());
    }
    let x = Tensor::from_vec(x.iter().map(|&x| x as f32).collect(), (rows, width), &candle_core::Device::Cpu).unwrap();
    (x, repeats)
}

#[test]
fn rows_that_repeat_are_multiplied_once_with_the_same_result() {
    for (rows, width, output, blocks) in [
        (40, 5, 16, vec![(0..5, 1)]),
        (70, 31, 16, vec![(0..8, 3), (8..13, 1), (20..31, 17)]),
        (333, 60, 150, vec![(3..19, 40), (19..40, 100), (44..60, 2)]),
        (300, 24, 65, vec![(0..12, 11), (12..24, 90)]),
        (1100, 50, 64, vec![(10..26, 500)]),
    ] {
        let (x, repeats) = repeating(rows, width, &blocks);
        let mut store = super::super::ParamStore::new(1);
        let layers: Vec<_> = [Activation::Relu, Activation::Silu]
            .into_iter()
            .enumerate()
            .map(|(i, activation)| Linear::new(store.builder().at(i), width, output, activation).unwrap())
            .collect();
        let results = |repeats: &[Repeats], of: usize| {
            let source = candle_core::Var::from_tensor(&x).unwrap();
            let context = Context { graph: Graph::tape(), ..context(true, rows) };
            let leaf = context.graph.cut(source.as_tensor().clone(), &repeats.into());
            let ys: Vec<_> = layers.iter().map(|layer| layer.forward(&leaf, &context).unwrap()).collect();
            // Two passes of different weights, as of two tasks.
            let dys = |seed| ys.iter().map(|y| (y, random(y.dims(), seed))).collect::<Vec<_>>();
            let passes = [7, 8].map(|seed| context.graph.backward_one_of(of, &dys(seed)).unwrap());
            let both: Vec<_> = [0.25, 1.5].into_iter().zip(passes.iter().map(|pass| &pass.at_input)).collect();
            let dx = numbers(context.graph.backward_input(&both).unwrap().get(&source).unwrap());
            let of_parameters = store.vars().iter().map(|var| numbers(passes[1].grads.get(var).unwrap()));
            (ys.iter().map(numbers).chain(of_parameters).collect::<Vec<_>>(), dx)
        };
        let (plain, dx) = results(&[], 1);
        let dx = by_distinct(dx, width, &repeats);
        // What several passes leave to their sum comes out the same.
        for of in [1, 3] {
            let what = format!("{rows} {width} {output}, of {of} passes");
            let (parted, parted_dx) = results(&repeats, of);
            for (number, (parted, plain)) in parted.iter().zip(&plain).enumerate() {
                assert_close(parted, plain, 1e-5, &format!("{what}: {number}"));
            }
            assert_close(&by_distinct(parted_dx, width, &repeats), &dx, 1e-5, &format!("{what}: dx"));
        }
    }
}

/// A gradient of the input in which the rows that repeat are summed up in the first of them.
fn by_distinct(mut dx: Vec<f64>, width: usize, repeats: &[Repeats]) -> Vec<f64> {
    for repeats in repeats {
        for (row, first) in repeats.firsts().enumerate().filter(|(row, first)| row != first) {
            for column in repeats.columns() {
                dx[first * width + column] += std::mem::take(&mut dx[row * width + column]);
            }
        }
    }
    dx
}

#[test]
fn a_wrong_width_is_an_error() {
    let tensors = [random(&[4, 5], 1), random(&[4, 3], 2), random(&[3], 3)];
    let error = fused(1, Activation::None)(&tensors).unwrap_err().to_string();
    assert!(error.contains("5 columns"), "{error}");
}
