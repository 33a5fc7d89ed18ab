use super::super::testing::{context, numbers, random};
use super::super::{Builder, ParamStore, Precision};
use super::*;
use candle_core::Var;

/// Two layers of `groups` experts, of odd and even widths.
fn layers(store: &mut ParamStore, groups: usize, widths: [usize; 3], activation: Activation) -> [Linear; 2] {
    let at = |store: &mut ParamStore, name: &str, make: &dyn Fn(Builder) -> Linear| make(store.builder().at(name));
    let [input, hidden, output] = widths;
    let first = at(store, "first", &|b| Linear::new(b, input, groups * hidden, activation).unwrap());
    let last = at(store, "last", &|b| Linear::grouped(b, groups, hidden, output, activation).unwrap());
    [first, last]
}

fn at(rows: usize, precision: Precision) -> Context {
    Context { graph: Graph::tape(), precision, ..context(true, rows) }
}

/// The result, and the gradients of the parameters and of x: of the cut-off input, or of a variable.
fn results(
    store: &ParamStore,
    x: &Var,
    cut: bool,
    context: &Context,
    forward: impl Fn(&Tensor) -> Tensor,
) -> Vec<Vec<f64>> {
    let leaf = if cut { context.graph.cut(x.as_tensor().clone(), &[].into()) } else { x.as_tensor().clone() };
    let y = forward(&leaf);
    // Two passes of different weights, as of two tasks.
    let passes = [7, 8].map(|seed| context.graph.backward(&[(&y, random(y.dims(), seed))]).unwrap());
    let weights = [0.25, 1.5];
    let mut all = vec![numbers(&y)];
    for var in store.vars().iter().chain([x]) {
        let found = passes.iter().zip(weights).filter_map(|(pass, w)| Some((pass.grads.get(var)?, w)));
        all.push(found.fold(Vec::new(), |sum, (gradient, w)| added(sum, &numbers(gradient), w)));
    }
    if cut {
        let parts: Vec<_> = passes.iter().zip(weights).map(|(pass, w)| (w, &pass.at_input)).collect();
        *all.last_mut().unwrap() = numbers(context.graph.backward_input(&parts).unwrap().get(x).unwrap());
    }
    all
}

fn added(sum: Vec<f64>, values: &[f64], w: f64) -> Vec<f64> {
    let sum = if sum.is_empty() { vec![0.0; values.len()] } else { sum };
    sum.iter().zip(values).map(|(sum, v)| sum + w * v).collect()
}

#[test]
fn it_is_the_layers_one_by_one() {
    if !Precision::Bf16.rounds() {
        return eprintln!("SKIPPED: this CPU does not multiply bf16");
    }
    let relu = Activation::Relu;
    for (rows, groups, widths, activation) in [
        (5, 1, [16, 16, 16], relu),
        (70, 3, [40, 64, 32], relu),
        (333, 2, [33, 47, 18], Activation::Tanh),
        (300, 4, [95, 32, 16], Activation::LeakyRelu),
        (1100, 2, [17, 32, 33], Activation::Sigmoid),
    ] {
        let mut store = ParamStore::new(3);
        let layers = layers(&mut store, groups, widths, activation);
        let x = Var::from_tensor(&random(&[rows, widths[0]], 1)).unwrap();
        for cut in [false, true] {
            let context = at(rows, Precision::Bf16);
            let one = results(&store, &x, cut, &context, |x| {
                forward(&layers.each_ref(), x, &context).expect("the layers fit").unwrap()
            });
            let context = at(rows, Precision::Bf16);
            let each = results(&store, &x, cut, &context, |x| {
                layers.iter().fold(x.clone(), |x, layer| layer.forward(&x, &context).unwrap())
            });
            let names = ["y".to_string()].into_iter().chain(store.names().iter().cloned()).chain(["x".to_string()]);
            for ((name, one), each) in names.zip(one).zip(each) {
                // Biases sum rounded gradients; the weighted sum over tasks is rounded before and after.
                let steps = matches!(activation, Activation::Relu | Activation::LeakyRelu);
                let exact = name == "y" || (steps && name.ends_with("weight"));
                let bound = if exact { 1e-6 } else { 4e-3 };
                let scale = each.iter().fold(0.0f64, |max, v| max.max(v.abs()));
                let error = one.iter().zip(&each).fold(0.0f64, |max, (a, b)| max.max((a - b).abs()));
                assert_eq!(one.len(), each.len(), "{name}");
                assert!(
                    scale > 0.0 && error <= bound * scale,
                    "{rows} x {groups} {widths:?}: {name} {error} of {scale}"
                );
            }
        }
    }
}

#[test]
fn layers_that_do_not_fit_go_one_by_one() {
    let mut store = ParamStore::new(3);
    let layers = layers(&mut store, 1, [16, 16, 16], Activation::Silu);
    let narrow = Linear::new(store.builder().at("narrow"), 16, 4, Activation::Relu).unwrap();
    let x = random(&[2, 16], 1);
    assert!(forward(&layers.each_ref(), &x, &at(2, Precision::Bf16)).is_none(), "silu needs its input");
    assert!(forward(&[&narrow], &x, &at(2, Precision::Bf16)).is_none(), "narrow layers are in f32");
    assert!(forward(&[&layers[0]], &x, &at(2, Precision::F32)).is_none());
    assert!(forward(&[], &x, &at(2, Precision::Bf16)).is_none());
}
