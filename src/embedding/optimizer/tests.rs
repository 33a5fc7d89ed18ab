//! Options and single updates; long runs against a dense reference are in `embedding::tests`.

use super::*;

fn make(yaml: &str) -> Result<Optimizer> {
    let mut component: Component = serde_yaml::from_str(yaml).unwrap();
    build(&mut component, "optimizer.sparse")
}

fn step(yaml: &str, values: &[f32], grads: &[&[f32]]) -> (Vec<f32>, Vec<f32>) {
    let optimizer = make(yaml).unwrap();
    let mut values = values.to_vec();
    let mut state = vec![f32::NAN; optimizer.slots(values.len()).iter().map(|s| s.width).sum()];
    optimizer.init(&values, &mut state);
    for grad in grads {
        optimizer.update(&mut values, &mut state, grad, 1.0);
    }
    (values, state)
}

fn close(a: &[f32], b: &[f32]) {
    assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
}

#[test]
fn sgd_and_its_momentum() {
    close(&step("{kind: sgd, lr: 0.5}", &[1.0, 2.0], &[&[1.0, -2.0]]).0, &[0.5, 3.0]);
    let (values, state) = step("{kind: sgd, lr: 1, momentum: 0.5}", &[0.0], &[&[1.0], &[1.0]]);
    close(&values, &[-2.5]);
    close(&state, &[1.5]);
}

#[test]
fn adagrad_divides_by_the_root_of_the_sum_of_squares() {
    let (values, state) = step("{kind: adagrad, lr: 1}", &[0.0, 0.0], &[&[3.0, -0.5], &[4.0, 0.0]]);
    close(&values, &[-1.0 - 0.8, 1.0]);
    close(&state, &[25.0, 0.25]);
    let (values, state) = step("{kind: rowwise_adagrad, lr: 1, initial_accumulator: 3}", &[0.0, 0.0], &[&[1.0, -1.0]]);
    close(&values, &[-0.5, 0.5]);
    close(&state, &[4.0]);
}

#[test]
fn the_first_step_of_adam_is_the_learning_rate() {
    let (values, state) = step("{kind: adam, lr: 0.1}", &[1.0, 1.0, 1.0], &[&[5.0, -0.01, 0.0]]);
    close(&values, &[0.9, 1.1, 1.0]);
    assert_eq!(state.last(), Some(&1.0));
}

#[test]
fn a_zero_gradient_leaves_ftrl_where_it_starts_and_l1_makes_it_sparse() {
    let yaml = "{kind: ftrl, lr: 0.1, beta: 1, l1: 0.2, l2: 0.3, initial_accumulator: 0.1}";
    close(&step(yaml, &[0.3, -0.2, 0.0], &[&[0.0; 3], &[0.0; 3]]).0, &[0.3, -0.2, 0.0]);
    let (values, _) = step("{kind: ftrl, lr: 0.1, l1: 5}", &[0.0, 0.0], &[&[1.0, -20.0]]);
    // z = g, n = g²: w = (20 − 5) / ((1 + 20) / 0.1)
    close(&values, &[0.0, 15.0 / 210.0]);
}

#[test]
fn clipping_comes_before_l2() {
    let (values, _) = step("{kind: sgd, lr: 1, clip_norm: 1, l2: 0.5}", &[1.0, 2.0], &[&[30.0, 40.0]]);
    close(&values, &[1.0 - 0.6 - 0.5, 2.0 - 0.8 - 1.0]);
    let (values, _) = step("{kind: sgd, lr: 1, clip_norm: 100}", &[1.0, 2.0], &[&[30.0, 40.0]]);
    close(&values, &[-29.0, -38.0]);
}

#[test]
fn wrong_options_name_their_key() {
    for (yaml, word) in [
        ("{kind: rowwise_adagard}", "did you mean `rowwise_adagrad`"),
        ("{kind: lion}", "the kinds are: rowwise_adagrad, adagrad, adam, sgd, ftrl"),
        ("{kind: adam, lr: 0}", "optimizer.sparse.lr"),
        ("{kind: adam, lr: .nan}", "optimizer.sparse.lr"),
        ("{kind: adam, beta1: 1}", "optimizer.sparse.beta1"),
        ("{kind: adagrad, eps: 0}", "optimizer.sparse.eps"),
        ("{kind: sgd, momentum: 1.5}", "optimizer.sparse.momentum"),
        ("{kind: sgd, clip_norm: -1}", "optimizer.sparse.clip_norm"),
        ("{kind: ftrl, l2: -1}", "optimizer.sparse.l2"),
        ("{kind: sgd, beta1: 0.5}", "beta1"),
        ("{kind: sgd, lr: high}", "optimizer.sparse.lr"),
    ] {
        let message = make(yaml).unwrap_err().to_string();
        assert!(message.contains(word), "{yaml}: {message}");
    }
}

#[test]
fn defaults_are_written_into_the_component() {
    for (kind, _) in KINDS {
        let mut component = Component::named(kind);
        build(&mut component, "optimizer.sparse").unwrap();
        let resolved = component.clone();
        build(&mut component, "optimizer.sparse").unwrap();
        assert_eq!(component, resolved);
        assert!(component.options.contains_key("lr") && component.options.contains_key("l2"));
    }
}
