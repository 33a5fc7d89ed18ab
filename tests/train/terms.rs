//! Losses that an architecture adds to its tasks', and tasks without a loss, under every way to weigh, on any number of
//! ranks. The architecture is one of this test, added as another crate would add it.

use crate::common::job::{How, Seen, Workplace, newest, train};
use crate::common::state::State;
use std::sync::Once;
use tandem::comm::threads;
use tandem::config::Component;
use tandem::model::{Input, InputLayer, InputSpec, Model, Output, Term, TermKind, register};
use tandem::nn::{Activation, Context, Linear, Mlp, ParamStore, Style};

/// A bottom, a layer per task, and beside them a layer for each term.
struct WithTerms {
    input: InputLayer,
    bottom: Mlp,
    tasks: Vec<Linear>,
    terms: [Linear; 3],
}

fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> tandem::Result<Box<dyn Model>> {
    let input = InputLayer::new(spec, &component.kind)?;
    let style = Style { activation: Activation::Tanh, ..Style::default() };
    let bottom = Mlp::new(store.builder().at("bottom"), input.width(), &[6], style)?;
    let mut layer = |name: &str, outputs, act| Linear::new(store.builder().at(name), 6, outputs, act);
    let tasks = spec.tasks.iter().zip(&spec.outputs).map(|(name, &n)| layer(name, n, Activation::None));
    let tasks = tasks.collect::<tandem::Result<_>>()?;
    let terms = [
        layer("penalty", 1, Activation::Sigmoid)?,
        layer("again", 1, Activation::None)?,
        layer("class", 3, Activation::None)?,
    ];
    Ok(Box::new(WithTerms { input, bottom, tasks, terms }))
}

impl Model for WithTerms {
    fn forward(&self, input: &Input, context: &Context) -> tandem::Result<Output> {
        let bottom = self.bottom.forward(&self.input.forward(input, context)?, context)?;
        let layer = |layer: &Linear| layer.forward(&bottom, context);
        let logits = self.tasks.iter().map(layer).collect::<tandem::Result<_>>()?;
        let mut output = Output::new(logits, vec![bottom.clone()]);
        if context.learns() {
            let targets = context.slots.iter().map(|slot| (slot % 5 != 4).then_some(slot % 3)).collect();
            let kinds = [TermKind::Penalty, TermKind::Label, TermKind::Class { targets }];
            for (i, kind) in kinds.into_iter().enumerate() {
                // The penalty and the classes are of the first task, the second logits of the second.
                output.terms.push(Term { task: i % 2, tensor: layer(&self.terms[i])?, weight: 0.5, kind });
            }
        }
        Ok(output)
    }
}

/// All ways that a step can take from losses to an update.
const WAYS: [&str; 8] = [
    "{kind: uniform}",
    "{kind: mgda}",
    "{kind: cagrad, scope: representation}",
    "{kind: pcgrad, scope: shared+rows}",
    "{kind: graddrop}",
    "{kind: sdmgrad}",
    "{kind: famo}",
    "{kind: db_mtl}",
];

fn workplace() -> Workplace {
    static ADDED: Once = Once::new();
    ADDED.call_once(|| register("with_terms", build).unwrap());
    Workplace::with_log(120)
}

fn run(place: &Workplace, name: &str, ranks: usize, overrides: &[&str]) -> (Seen, State) {
    let run_dir = place.path(name);
    let how = How { threads: threads::Options::unruly(ranks as u64), ..How::default() };
    let seen = train(&place.job(&[&["model={kind: with_terms}"], overrides].concat()), ranks, &run_dir, how);
    (seen, State::read(&newest(&run_dir)))
}

#[test]
fn terms_train_alike_on_any_number_of_ranks() {
    let place = workplace();
    for way in WAYS {
        let balance = format!("balance={way}");
        let (seen, alone) = run(&place, &format!("{way} 1"), 1, &[&balance]);
        for ranks in [2, 4] {
            let (_, other) = run(&place, &format!("{way} {ranks}"), ranks, &[&balance]);
            alone.assert_close(&other, 2e-4, &format!("{way}, {ranks} ranks"));
        }
        for step in seen.steps() {
            let of = |task: &str| (step.losses[task].as_f64().unwrap(), step.plain_losses[task].as_f64().unwrap());
            let ((click, plain_click), (buy, plain_buy), (stars, plain_stars)) = (of("click"), of("buy"), of("stars"));
            assert!(click > plain_click && buy > 0.7 * plain_buy, "{way}: losses hold the terms");
            assert!((stars - plain_stars).abs() < 1e-12, "{way}: this task has none");
        }
    }
}

#[test]
fn every_way_to_weigh_trains_the_layers_of_the_terms() {
    let place = workplace();
    let first = |name: &str, overrides: &[&str]| {
        let all = [&["train.max_steps=1", "optimizer.dense={kind: sgd, lr: 1}"], overrides].concat();
        run(&place, name, 1, &all).1
    };
    let still = first("still", &["optimizer.dense.lr=1.0e-30"]);
    for way in WAYS {
        let moved = first(way, &[&format!("balance={way}")]);
        for layer in ["penalty", "again", "class"] {
            let name = format!("parameters.{layer}.weight");
            assert_ne!(still.dense[&name], moved.dense[&name], "{way}: {name}");
        }
    }
}

#[test]
fn a_task_of_weight_0_is_evaluated_and_not_trained() {
    let place = workplace();
    for way in WAYS {
        let overrides = [&format!("balance={way}"), "tasks.click.weight=0"];
        let (seen, state) = run(&place, &format!("{way} untrained"), 1, &overrides);
        let (_, start) = run(&place, &format!("{way} start"), 1, &[overrides[0], overrides[1], "train.max_steps=1"]);
        for layer in ["click", "penalty", "class"] {
            let name = format!("parameters.{layer}.weight");
            assert_eq!(start.dense[&name], state.dense[&name], "{way}: {name} is of this task alone");
        }
        assert_ne!(start.dense["parameters.buy.weight"], state.dense["parameters.buy.weight"], "{way}");
        for step in seen.steps() {
            let number = |of: &serde_json::Map<String, serde_json::Value>| of["click"].as_f64().unwrap();
            assert_eq!((number(&step.losses), number(&step.weights)), (0.0, 0.0), "{way}");
            assert!(number(&step.plain_losses) > 0.0, "{way}");
        }
        let (_, tasks) = seen.evaluations().into_iter().next_back().unwrap();
        assert!(tasks[0].get("auc").is_some(), "{way}");
    }
}
