use super::*;
use crate::config::Component;
use crate::model::Field;
use crate::nn::Graph;
use crate::nn::testing::{assert_close, context, numbers, random};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;
use std::sync::Arc;

const ROWS: usize = 5;

fn spec(tasks: &[&str]) -> InputSpec {
    InputSpec {
        fields: vec![Field { name: "user".to_string(), start: 0, width: 3 }],
        dense_width: 2,
        outputs: vec![1; tasks.len()],
        tasks: tasks.iter().map(ToString::to_string).collect(),
        ..InputSpec::default()
    }
}

fn input() -> Input {
    let pooled = Var::from_tensor(&random(&[ROWS, 3], 1)).unwrap().into_inner();
    Input {
        pooled,
        sequences: Vec::new(),
        dense: random(&[ROWS, 2], 2),
        scenarios: [].into(),
        repeats: [].into(),
        classes: Arc::from([0, 1, 1, 0, 1]),
    }
}

struct Case {
    store: ParamStore,
    model: Box<dyn Model>,
}

fn case(yaml: &str, spec: &InputSpec, mut store: ParamStore) -> Case {
    let mut component: Component = serde_yaml::from_str(yaml).unwrap();
    let model = build(&mut component, spec, &mut store).unwrap();
    Case { store, model }
}

const SMALL: &str = "{kind: mpt, expert: [4, 3], tower: [2], activation: tanh}";

/// The gradients of one task's tensors, or of one term, by the parameters' names.
fn gradients(case: &Case, at: &Context, outputs: &[(&Tensor, Tensor)]) -> BTreeMap<String, Vec<f64>> {
    let pass = at.graph.backward(outputs).unwrap();
    let named = case.store.names().iter().zip(case.store.vars());
    named.filter_map(|(name, var)| Some((name.clone(), numbers(pass.grads.get(var)?)))).collect()
}

#[test]
fn the_adversary_learns_and_what_it_reads_unlearns() {
    let case = case(SMALL, &spec(&["click", "buy"]), ParamStore::new(3));
    let dz = random(&[ROWS, 2], 9);
    let at = |progress| Context { progress, graph: Graph::tape(), ..context(true, ROWS) };
    let adversarial = |at: &Context| {
        let output = case.model.forward(&input(), at).unwrap();
        let term = output.terms.iter().find(|term| matches!(term.kind, TermKind::Class { .. })).unwrap().clone();
        gradients(&case, at, &[(&term.tensor, dz.clone())])
    };
    let (begun, ended) = (adversarial(&at(0.0)), adversarial(&at(1.0)));
    let reached: Vec<&String> = begun.keys().collect();
    assert_eq!(
        reached,
        [
            "adversary.bias",
            "adversary.weight",
            "experts.shared.0.bias",
            "experts.shared.0.weight",
            "experts.shared.1.bias",
            "experts.shared.1.weight"
        ],
        "the adversary reads the shared expert alone"
    );
    assert_eq!(begun["adversary.weight"], ended["adversary.weight"], "the adversary is not reversed");
    assert!(begun["experts.shared.1.bias"].iter().all(|&g| g == 0.0), "α is 0 at first");

    // Without reversal: h_g, then the adversary's layer, by the same operations.
    let (at_end, plain) = (at(1.0), at(0.0));
    let output = case.model.forward(&input(), &plain).unwrap();
    let weight = &case.store.vars()[case.store.names().iter().position(|n| n == "adversary.weight").unwrap()];
    let dh = dz.matmul(&weight.t().unwrap()).unwrap();
    let straight = gradients(&case, &plain, &[(&output.representation[0], dh)]);
    let alpha = 2.0 / (1.0 + (-10.0 * at_end.progress).exp()) - 1.0;
    for name in reached.iter().filter(|name| name.starts_with("experts.")) {
        let reversed: Vec<f64> = straight[*name].iter().map(|g| -alpha * g).collect();
        assert_close(&ended[*name], &reversed, 1e-5, name);
    }
}

#[test]
fn terms_are_those_of_the_loss_and_none_at_evaluation() {
    let off = case("{kind: mpt, adversary: 0}", &spec(&["click", "buy"]), ParamStore::new(3));
    assert_eq!(off.model.row_classes(), None);
    let case = case(SMALL, &spec(&["click", "buy"]), ParamStore::new(3));
    let learning = Context { graph: Graph::tape(), ..context(true, ROWS) };
    let terms = case.model.forward(&input(), &learning).unwrap().terms;
    let told: Vec<_> = terms.iter().map(|term| (term.task, term.weight, term.tensor.dims().to_vec())).collect();
    let expected =
        [(0, 0.9, vec![ROWS, 1]), (1, 0.9, vec![ROWS, 1]), (0, 0.05, vec![ROWS, 2]), (1, 0.05, vec![ROWS, 2])];
    assert_eq!(told, expected);
    let targets: Vec<Option<u32>> = [0, 1, 1, 0, 1].map(Some).to_vec();
    assert_eq!(terms[3].kind, TermKind::Class { targets });
    // The generic prediction goes through the task's own tower.
    let reached = gradients(&case, &learning, &[(&terms[1].tensor, random(&[ROWS, 1], 4))]);
    assert!(reached.keys().all(|name| name.starts_with("towers.buy.") || name.starts_with("experts.shared.")));

    let evaluating = Context { graph: Graph::None, ..context(false, ROWS) };
    assert!(case.model.forward(&input(), &evaluating).unwrap().terms.is_empty());
    assert_eq!(case.model.row_classes(), Some(RowClasses { tasks: vec![0, 1], every_epochs: 1 }));
}

#[test]
fn a_new_task_trains_27063_numbers_on_census_as_the_authors_code_does() {
    let census = |tasks: &[&str]| InputSpec { fields: Vec::new(), dense_width: 123, ..spec(tasks) };
    let old = case("{kind: mpt}", &census(&["income", "married"]), ParamStore::new(1)).store;
    let known: Vec<String> = old.names().to_vec();
    let store = ParamStore::new(1).freezing(move |name, _| known.iter().any(|known| known == name));
    let new = case("{kind: mpt, new_tasks: [education]}", &census(&["income", "married", "education"]), store).store;
    assert_eq!(new.trained_len(), 27_063);
    // All of stage 1 but the adversary, which has 128 × 2 weights and 2 biases.
    assert_eq!(new.len() - new.trained_len(), old.len() - 258);
    // The authors count 217,548 with the adversary and 471 embeddings of 4.
    assert_eq!(old.len() + 471 * 4, 217_548);
}

#[test]
fn old_predictions_do_not_know_of_a_new_task() {
    let old = case(SMALL, &spec(&["click", "buy"]), ParamStore::new(3));
    let with_new = "{kind: mpt, expert: [4, 3], tower: [2], activation: tanh, new_tasks: [like]}";
    let new = case(with_new, &spec(&["click", "like", "buy"]), ParamStore::new(3));
    let at = context(false, ROWS);
    let (before, after) = (old.model.forward(&input(), &at).unwrap(), new.model.forward(&input(), &at).unwrap());
    assert_eq!(numbers(&before.logits[0]), numbers(&after.logits[0]));
    assert_eq!(numbers(&before.logits[1]), numbers(&after.logits[2]));
}

#[test]
fn a_new_task_at_a_high_temperature_reads_the_mean_of_the_experts() {
    let tasks = ["click", "buy", "like"];
    let yaml = |t: f64| {
        format!("{{kind: mpt, expert: [4, 3], tower: [2], activation: tanh, new_tasks: [like], temperature: {t}}}")
    };
    let at = context(false, ROWS);
    let logits = |t: f64| {
        let case = case(&yaml(t), &spec(&tasks), ParamStore::new(3));
        numbers(&case.model.forward(&input(), &at).unwrap().logits[2])
    };
    // With one old task there is nothing to choose, whatever the temperature.
    let alone = |t: f64| {
        let case = case(&yaml(t), &spec(&["click", "like"]), ParamStore::new(3));
        numbers(&case.model.forward(&input(), &at).unwrap().logits[1])
    };
    assert_close(&logits(1e6), &logits(1e9), 1e-5, "the attention is uniform");
    assert!(logits(0.2) != logits(1e9));
    assert_eq!(alone(0.2), alone(1e9));
}

#[test]
fn impossible_options_name_their_key() {
    let error = |yaml: &str, tasks: &[&str]| {
        let mut component: Component = serde_yaml::from_str(yaml).unwrap();
        build(&mut component, &spec(tasks), &mut ParamStore::new(1)).err().unwrap().to_string()
    };
    for (yaml, part) in [
        ("{kind: mpt, new_tasks: [clik]}", "did you mean `click`"),
        ("{kind: mpt, new_tasks: [click, buy]}", "needs others"),
        ("{kind: mpt, temperature: 0}", "model.temperature"),
        ("{kind: mpt, adversary: -1}", "model.adversary"),
        ("{kind: mpt, clustering_interval: 0}", "clustering_interval"),
    ] {
        let message = error(yaml, &["click", "buy"]);
        assert!(message.contains(part), "{yaml}: {message}");
    }
}
