//! Architectures with embedding tables for each task: STEM, and networks that share nothing at all.

use super::whole::{Whole, spec};
use super::*;

const PAIR: [&str; 2] = ["click", "buy"];
const STEM: &str =
    "{kind: stem, shared_experts: 2, task_experts: 2, expert: [5, 3], gate: [3], tower: [4], activation: tanh}";
const OWN: &str = "{kind: single_task, embeddings: own, bottom: [5], tower: [4], activation: tanh}";

fn stem() -> Whole {
    Whole::new(STEM, spec(&PAIR, &["", "click", "buy"]))
}

fn own() -> Whole {
    Whole::new(OWN, spec(&PAIR, &PAIR))
}

#[test]
fn the_sets_are_what_the_architectures_ask_for() {
    let tasks = PAIR.map(String::from);
    let sets = |job: &str| table_sets(&component(job), &tasks).unwrap();
    assert_eq!(sets("{kind: mmoe}"), [""]);
    assert_eq!(sets("{kind: single_task}"), [""]);
    assert_eq!(sets(OWN), PAIR);
    assert_eq!(sets(STEM), ["", "click", "buy"]);
    assert!(table_sets(&component("{kind: single_task, embedding: own}"), &tasks).is_err());
}

#[test]
fn gradients_match_differences_and_other_ways() {
    stem().check_with_stops();
    own().check();
    Whole::new("{kind: single_task, bottom: [5], norm: layer, activation: silu}", spec(&PAIR, &[])).check();
}

/// The input by one set of tables, in float64.
fn by_set(whole: &Whole, set: usize) -> Tensor {
    let leaves = whole.leaves();
    let all = input(&leaves[0], &leaves[1], 0);
    let mask = all.sequences[0].mask.clone();
    let sequences =
        leaves[1..].iter().map(|values| Sequence { values: values.as_tensor().clone(), mask: mask.clone() });
    let all = Input { sequences: sequences.collect(), ..all };
    let layers = InputLayer::of_sets(&whole.spec, "stem").unwrap();
    layers[set].forward(&all, &context(true, ROWS)).unwrap().to_dtype(DType::F64).unwrap()
}

#[test]
fn a_set_reads_its_own_columns_and_sequences() {
    let whole = stem();
    let leaves = whole.leaves();
    for set in 0..3 {
        let x = by_set(&whole, set);
        assert_eq!(x.dims(), [ROWS, WIDTH]);
        let columns = |start| numbers(&x.narrow(1, start, 1).unwrap().contiguous().unwrap());
        assert_eq!(columns(0), numbers(&leaves[0].narrow(1, 5 * set, 1).unwrap().contiguous().unwrap()));
        // Row 0 has a single element, which is all that it attends to.
        assert_eq!(columns(5)[0], numbers(&leaves[1 + set])[0]);
    }
}

#[test]
fn stem_mixes_all_experts_by_the_sum_of_both_inputs() {
    let whole = stem();
    let logits = whole.run(&context(true, ROWS)).1.logits;
    let plain = Plain::of(&whole.store);
    let x: Vec<Tensor> = (0..3).map(|set| by_set(&whole, set)).collect();
    let experts = [("click", 1), ("buy", 2), ("shared", 0)]
        .map(|(name, set)| plain.experts(&x[set], &format!("experts.{name}"), 2));
    for (k, task) in PAIR.iter().enumerate() {
        // `mixed` takes gate and experts of one input: here the gate reads the sum.
        let both = (&x[0] + &x[k + 1]).unwrap();
        let h = plain.mixed(&both, &format!("gates.{task}"), &experts.concat());
        assert_close(&numbers(&logits[k]), &numbers(&plain.tower(&h, task)), 1e-5, task);
    }
}

#[test]
fn a_loss_reaches_neither_experts_nor_tables_of_another_task() {
    for (whole, shared_columns) in [(stem(), Some(0..5)), (own(), None)] {
        for taped in [false, true] {
            for (task, other) in [(0, 1), (1, 0)] {
                let graph = if taped { Graph::tape() } else { Graph::Candle };
                let gradients = whole.gradients(task, &Context { graph, ..context(true, ROWS) });
                for (name, gradient) in whole.store.names().iter().zip(&gradients) {
                    let of_other = name.contains(&format!(".{}.", PAIR[other]));
                    assert_eq!(gradient.is_none(), of_other, "task {task}: {name}");
                }
                let parameters = whole.store.vars().len();
                let pooled = gradients[parameters].as_ref().unwrap();
                let first = if shared_columns.is_some() { 5 } else { 0 };
                let width = first + 10;
                for row in pooled.chunks_exact(width) {
                    let of = |k: usize| &row[first + 5 * k..][..5];
                    assert!(of(other).iter().all(|&g| g == 0.0), "exactly zero at the other task's rows");
                    assert!(of(task).iter().any(|&g| g != 0.0));
                    if let Some(shared) = shared_columns.clone() {
                        assert!(row[shared].iter().any(|&g| g != 0.0));
                    }
                }
                // The sequences, too: of the other task's set none is reached.
                let sequence =
                    |k: usize| gradients[parameters + 1 + usize::from(shared_columns.is_some()) + k].as_ref();
                assert!(sequence(other).is_none_or(|g| g.iter().all(|&g| g == 0.0)));
                assert!(sequence(task).unwrap().iter().any(|&g| g != 0.0));
            }
        }
    }
}

#[test]
fn stem_wants_its_sets_and_experts() {
    let error = |job: &str, spec: &InputSpec| {
        build(&mut component(job), spec, &mut ParamStore::new(0)).err().unwrap().to_string()
    };
    assert!(error(STEM, &spec(&PAIR, &[])).contains("1 sets of tables for 2 tasks"));
    let sets = spec(&PAIR, &["", "click", "buy"]);
    assert!(error("{kind: stem, shared_experts: 0}", &sets).contains("model.shared_experts"));
    assert!(error("{kind: stem, task_experts: 0}", &sets).contains("model.task_experts"));
    assert!(error("{kind: stem, expert: []}", &sets).contains("model.expert"));
}
