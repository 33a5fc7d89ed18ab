//! ESMM and AITM: tasks of which each needs the one before.

use super::whole::{Whole, spec};
use super::*;

const CHAIN: [&str; 3] = ["click", "cart", "buy"];
const ESMM: &str = "{kind: esmm, bottom: [5], tower: [4], activation: tanh}";
const ESMM_TREE: &str =
    "{kind: esmm, after: {cart: click, buy: click}, conditional: {cvr: buy}, bottom: [5], tower: [], activation: tanh}";
const AITM: &str = "{kind: aitm, bottom: [5, 4], tower: [3], activation: tanh}";

/// The chain, and a task that shows the factor of `buy`.
fn with_factor() -> InputSpec {
    let mut spec = spec(&["click", "cart", "buy", "cvr"], &[]);
    spec.losses[3] = None;
    spec
}

#[test]
fn gradients_of_logits_and_terms_match_differences_and_other_ways() {
    Whole::new(ESMM, spec(&CHAIN, &[])).check();
    Whole::new(ESMM_TREE, with_factor()).check();
    Whole::new(AITM, spec(&CHAIN, &[])).check();
    Whole::new("{kind: aitm, after: {click: buy}, bottom: [4], tower: [], activation: silu}", spec(&CHAIN, &[]))
        .check();
}

fn sigmoid(logits: &Tensor) -> Vec<f64> {
    numbers(logits).iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect()
}

/// The model's input, and the parameters, in float64.
fn plain(whole: &Whole) -> (Plain, Tensor) {
    let leaves = whole.leaves();
    let layer = InputLayer::new(&whole.spec, "mmoe").unwrap();
    let x = layer.forward(&input(&leaves[0], &leaves[1], 0), &context(true, ROWS)).unwrap();
    (Plain::of(&whole.store), x.to_dtype(DType::F64).unwrap())
}

#[test]
fn esmm_multiplies_along_the_chain() {
    let whole = Whole::new(ESMM_TREE, with_factor());
    let (_, output) = whole.run(&context(true, ROWS));
    let (plain, x) = plain(&whole);
    let factor = |task: &str| {
        let hidden = plain.stack(&x, &format!("bottoms.{task}"), 0, 1);
        sigmoid(&plain.linear(&hidden, &format!("towers.{task}.logits")))
    };
    let (click, cart, buy) = (factor("click"), factor("cart"), factor("buy"));
    let product = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    let expected = [click.clone(), product(&click, &cart), product(&click, &buy), buy];
    for (task, (logits, expected)) in output.logits.iter().zip(&expected).enumerate() {
        assert_close(&sigmoid(logits), expected, 1e-5, &whole.spec.tasks[task]);
    }

    // One chain: the purchase needs the cart too.
    let chain = Whole::new(ESMM, spec(&CHAIN, &[]));
    let logits = chain.run(&context(true, ROWS)).1.logits;
    let [click, cart, buy] = [0, 1, 2].map(|task| sigmoid(&logits[task]));
    for ((click, cart), buy) in click.iter().zip(&cart).zip(&buy) {
        assert!(click > cart && cart > buy, "{click} {cart} {buy}");
    }
}

#[test]
fn the_loss_of_a_click_reaches_no_network_but_its_own() {
    for job in [ESMM, AITM] {
        let whole = Whole::new(job, spec(&CHAIN, &[]));
        for task in ["cart", "buy"] {
            for name in [format!("bottoms.{task}.0.weight"), format!("towers.{task}.logits.weight")] {
                assert!(whole.gradient(&name, 0).is_none(), "{job}: {name}");
                assert!(whole.gradient(&name, 2).is_some(), "{job}: {name}");
            }
        }
        let reached = whole.gradient("bottoms.click.0.weight", 2).unwrap();
        assert!(reached.iter().any(|&g| g != 0.0), "{job}: the last loss trains the first network");
    }
}

#[test]
fn aitm_attends_over_what_is_handed_on_and_its_own() {
    let whole = Whole::new(AITM, spec(&["click", "buy"], &[]));
    let logits = whole.run(&context(true, ROWS)).1.logits;
    let (plain, x) = plain(&whole);
    let [q1, q2] = ["click", "buy"].map(|task| plain.stack(&x, &format!("bottoms.{task}"), 0, 1));
    let handed_on = plain.linear(&q1, "transfers.buy.given");
    let (mut scores, mut values) = (Vec::new(), Vec::new());
    for u in [&handed_on, &q2] {
        let all = plain.linear(u, "transfers.buy.attention");
        let [q, k, v] = [0, 1, 2].map(|i| all.narrow(1, i * 4, 4).unwrap());
        scores.push((((q * k).unwrap().sum_keepdim(1).unwrap() / 2.0).unwrap()).exp().unwrap());
        values.push(v);
    }
    let sum = (&scores[0] + &scores[1]).unwrap();
    let weighted = |i: usize| values[i].broadcast_mul(&(&scores[i] / &sum).unwrap()).unwrap();
    let z2 = (weighted(0) + weighted(1)).unwrap();
    assert_close(&numbers(&logits[0]), &numbers(&plain.tower(&q1, "click")), 1e-5, "click");
    assert_close(&numbers(&logits[1]), &numbers(&plain.tower(&z2, "buy")), 1e-5, "buy");
}

#[test]
fn the_calibrator_is_zero_where_probabilities_fall_along_the_chain() {
    let whole = Whole::new(AITM, spec(&CHAIN, &[]));
    let at = |name: &str| whole.store.names().iter().position(|n| n == name).unwrap();
    // A purchase that is sure, so that the last step rises and the one before does not have to.
    whole.store.load(at("towers.buy.logits.bias"), &[20.0]).unwrap();
    whole.store.load(at("towers.click.logits.bias"), &[20.0]).unwrap();
    let (_, output) = whole.run(&context(true, ROWS));
    assert_eq!(output.terms.iter().map(|term| (term.task, term.weight)).collect::<Vec<_>>(), [(1, 0.6), (2, 0.6)]);
    let mut falls = 0;
    for term in &output.terms {
        assert_eq!(term.kind, TermKind::Penalty);
        let [own, before] = [term.task, term.task - 1].map(|task| sigmoid(&output.logits[task]));
        let expected: Vec<f64> = own.iter().zip(&before).map(|(own, before)| (own - before).max(0.0)).collect();
        assert_close(&numbers(&term.tensor), &expected, 1e-5, "calibrator");
        for (value, expected) in numbers(&term.tensor).iter().zip(&expected) {
            assert!(*expected > 0.0 || *value == 0.0, "exactly zero where monotone");
            falls += usize::from(*expected == 0.0);
        }
    }
    assert!(falls > 0 && falls < 2 * ROWS, "{falls} of {}: both sides of the hinge are seen", 2 * ROWS);

    // A bias that makes every purchase unlikely, and then the whole chain is monotone.
    whole.store.load(at("towers.click.logits.bias"), &[20.0]).unwrap();
    whole.store.load(at("towers.buy.logits.bias"), &[-20.0]).unwrap();
    let (_, output) = whole.run(&context(true, ROWS));
    for term in &output.terms {
        assert_eq!(numbers(&term.tensor), [0.0; ROWS]);
    }
    let pass = whole.gradients(1, &context(true, ROWS));
    assert!(pass.iter().flatten().flatten().all(|g| g.is_finite()));
}

#[test]
fn predictions_take_no_terms() {
    let whole = Whole::new(AITM, spec(&CHAIN, &[]));
    let at = Context { graph: Graph::None, ..context(false, ROWS) };
    assert!(whole.run(&at).1.terms.is_empty());
    let off = Whole::new("{kind: aitm, calibrator: 0, bottom: [4]}", spec(&CHAIN, &[]));
    assert!(off.run(&context(true, ROWS)).1.terms.is_empty());
}

#[test]
fn impossible_chains_say_what_to_change() {
    let error = |job: &str, spec: &InputSpec| {
        build(&mut component(job), spec, &mut ParamStore::new(0)).err().unwrap().to_string()
    };
    for kind in ["esmm", "aitm"] {
        assert!(error(&format!("{{kind: {kind}}}"), &super::spec()).contains("`grade` is not binary"));
        assert!(error(&format!("{{kind: {kind}, bottom: []}}"), &with_factor()).contains("model.bottom"));
        let message = error(&format!("{{kind: {kind}, after: {{buy: view}}}}"), &with_factor());
        assert!(message.contains("`view`") && message.contains("model.after"), "{message}");
    }
    let trained = spec(&["click", "buy", "cvr"], &[]);
    let message = error("{kind: esmm, conditional: {cvr: buy}}", &trained);
    assert!(message.contains("never has a loss of its own") && message.contains("`weight: 0`"), "{message}");
    assert!(error("{kind: esmm, conditional: {cvr: view}}", &with_factor()).contains("`view` is no task"));
    assert!(error("{kind: esmm, conditional: {cvr: cvr}}", &with_factor()).contains("shows one itself"));
    assert!(error("{kind: aitm, calibrator: -1}", &with_factor()).contains("model.calibrator"));
}
