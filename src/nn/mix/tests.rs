use super::super::testing::{assert_close, check_gradients, check_matches, context, numbers, random};
use super::*;
use candle_core::Var;

fn plain(experts: usize, start: usize) -> impl Fn(&[Tensor]) -> Result<Tensor> {
    move |t| reference::mix(&t[0], &t[1], experts, start)
}

#[test]
fn matches_differences_and_plain_operations() {
    for (rows, columns, experts, start, h) in
        [(1, 1, 1, 0, 1), (5, 3, 3, 0, 4), (4, 6, 2, 3, 9), (1, 4, 4, 0, 17), (700, 4, 4, 0, 24)]
    {
        let t = [random(&[rows, columns], 1), random(&[rows, experts * h], 2)];
        let mixed = |t: &[Tensor]| t[0].apply_op2(&t[1], Mix { experts, start, reads: t[1].id() });
        check_gradients(&t, mixed);
        check_matches(&t, mixed, plain(experts, start));
    }
}

#[test]
fn gates_mix_together_as_each_alone() {
    let var = |shape: &[usize], seed| Var::from_tensor(&random(shape, seed)).unwrap();
    let (rows, h) = (300, 40);
    let context = Context { graph: Graph::tape(), ..context(true, rows) };
    let x = var(&[rows, 2 * h], 1);
    let gates: Vec<_> = (2..5).map(|seed| var(&[rows, 3], seed)).collect();
    let tensors: Vec<Tensor> = gates.iter().map(|gate| gate.as_tensor().clone()).collect();
    let mixed = mix_all(&tensors, &x, 2, 1, &context).unwrap();
    let pull = |outputs: &[(&Tensor, Tensor)]| {
        let grads = context.graph.backward(outputs).unwrap().grads;
        let of_gates: Vec<_> = gates.iter().filter_map(|gate| grads.get(gate)).map(numbers).collect();
        (of_gates, numbers(grads.get(&x).unwrap()))
    };
    let dys = || mixed.iter().zip(7..).map(|(y, seed)| (y, random(y.dims(), seed))).collect::<Vec<_>>();
    let (mut of_gates, mut dx) = (Vec::new(), vec![0.0; rows * 2 * h]);
    for (gate, (y, dy)) in gates.iter().zip(dys()) {
        assert_eq!(numbers(&mix(gate, &x, 2, 1, &context).unwrap()), numbers(y));
        let (own, part) = pull(&[(y, dy)]);
        of_gates.extend(own);
        dx.iter_mut().zip(part).for_each(|(dx, part)| *dx += part);
    }
    let together = pull(&dys());
    assert_eq!(together.0, of_gates);
    assert_close(&together.1, &dx, 1e-5, "dx");

    // Where x has a gradient already, theirs are added to it.
    let before = random(&[rows, 2 * h], 20);
    dx.iter_mut().zip(numbers(&before)).for_each(|(dx, before)| *dx += before);
    let outputs: Vec<_> = dys().into_iter().chain([(x.as_tensor(), before)]).collect();
    let (added, sum) = pull(&outputs);
    assert_eq!(added, of_gates);
    assert_close(&sum, &dx, 1e-5, "dx added");
}

#[test]
fn experts_that_do_not_fit_the_gate_are_an_error() {
    let (gate, x) = (random(&[2, 3], 1), random(&[2, 8], 2));
    let mix = |x: &Tensor, experts, start| mix(&gate, x, experts, start, &context(true, 2));
    assert!(mix(&x, 4, 0).is_err());
    assert!(mix(&x, 2, 2).is_err());
    assert!(mix(&random(&[3, 8], 2), 2, 0).is_err());
    assert!(mix(&x, 2, 1).is_ok());
}
