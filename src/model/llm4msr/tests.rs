//! What is special about meta layers; what every architecture must pass is tested with all of them.

use super::*;
use crate::nn::testing::{assert_close, check_directions, context, numbers, random, shifted};
use crate::nn::{Graph, Kernels, backward_from};
use candle_core::{DType, Var};

const ROWS: usize = 6;
/// Of a user's vector, and of a scenario's.
const DIM: usize = 4;

/// Two features, the user's vector between them, dense columns, two tasks, three scenarios.
fn spec() -> InputSpec {
    let field = |name: &str, start, width| Field { name: name.to_string(), start, width };
    InputSpec {
        fields: vec![field("user", 0, 3), field("known", 3, DIM), field("item", 3 + DIM, 2)],
        dense_width: 2,
        outputs: vec![1, 3],
        tasks: vec!["click".to_string(), "grade".to_string()],
        scenarios: ["a", "b", "c"].map(String::from).to_vec(),
        ..InputSpec::default()
    }
}

const KNOWN: &str = "scenario_knowledge: unread, scenario_dim: 4, user_knowledge: known, knowledge_width: 5";
const BACKBONE: &str = "kind: mmoe, experts: 2, expert: [4], tower: [3], activation: tanh";

fn jobs() -> Vec<String> {
    let job = |more: &str| {
        format!(
            "{{kind: llm4msr, {KNOWN}, user_layers: [4, 3], init_std: 0.4, activation: tanh, backbone: {{{BACKBONE}}}, {more}}}"
        )
    };
    vec![
        job("rank: 2, scenario_layers: [3, 2]"),
        job("rank: 0, scenario_layers: [3, 2]"),
        job("rank: 2, scenario_layers: [], user_mode: replace"),
        job("rank: 0, scenario_layers: [2], learn_kappa: false"),
    ]
}

struct Case {
    store: ParamStore,
    model: Box<dyn Model>,
}

/// A model whose buffers were filled.
fn case(job: &str) -> Case {
    let mut store = ParamStore::new(5);
    let model = registry::build(&mut serde_yaml::from_str(job).unwrap(), &spec(), &mut store).unwrap();
    for (name, buffer) in store.buffer_names().iter().zip(store.buffers()) {
        if [SCENARIO_VECTORS, USER_MEANS].contains(&name.as_str()) {
            let values: Vec<f32> =
                numbers(&random(&[4 * DIM], 60 + name.len() as u64)).iter().map(|&x| x as f32).collect();
            buffer.set(&values).unwrap();
        }
    }
    Case { store, model }
}

fn pooled() -> Var {
    Var::from_tensor(&random(&[ROWS, 5 + DIM], 1)).unwrap()
}

fn input(pooled: &Tensor) -> Input {
    Input {
        pooled: pooled.clone(),
        sequences: Vec::new(),
        dense: random(&[ROWS, 2], 3),
        // 3 is "other".
        scenarios: [0, 1, 3, 1, 2, 0].into(),
        repeats: [].into(),
        classes: [].into(),
    }
}

fn cotangents() -> Vec<Tensor> {
    spec().outputs.iter().enumerate().map(|(k, &n)| random(&[ROWS, n], 40 + k as u64)).collect()
}

fn logits(case: &Case, pooled: &Tensor, at: &Context) -> Vec<Tensor> {
    case.model.forward(&input(pooled), at).unwrap().logits
}

#[test]
fn gradients_match_finite_differences() {
    for job in jobs() {
        let (case, at, pooled) = (case(&job), context(true, ROWS), pooled());
        let forward = |pooled: &Tensor| logits(&case, pooled, &at);
        let output = forward(&pooled);
        let gradients = backward_from(&output.iter().zip(cotangents()).collect::<Vec<_>>()).unwrap();
        let mut by_argument: Vec<Vec<f64>> =
            case.store.vars().iter().map(|var| numbers(gradients.get(var).unwrap())).collect();
        let of_input = numbers(gradients.get(&pooled).unwrap());
        // Vectors are frozen: the logits depend on them, and nothing is trained by it.
        assert!((0..ROWS).all(|row| of_input[row * (5 + DIM) + 3..][..DIM].iter().all(|&g| g == 0.0)));
        by_argument.push(of_input);
        let scalar = |logits: Vec<Tensor>| -> f64 {
            logits.iter().zip(cotangents()).map(|(z, c)| numbers(&(z * c).unwrap()).iter().sum::<f64>()).sum()
        };
        check_directions(&by_argument, |argument, direction, step| {
            if argument == case.store.vars().len() {
                let mut direction = direction.to_vec();
                (0..ROWS).for_each(|row| direction[row * (5 + DIM) + 3..][..DIM].fill(0.0));
                return scalar(forward(&shifted(&pooled, &direction, step)));
            }
            let mut start = vec![0.0; direction.len()];
            case.store.read(argument, &mut start).unwrap();
            let moved: Vec<f32> = start.iter().zip(direction).map(|(&v, d)| (f64::from(v) + step * d) as f32).collect();
            case.store.load(argument, &moved).unwrap();
            let value = scalar(forward(&pooled));
            case.store.load(argument, &start).unwrap();
            value
        });
    }
}

#[test]
fn the_tape_and_the_reference_kernels_give_the_same() {
    for job in jobs() {
        let (case, mut at, pooled) = (case(&job), context(true, ROWS), pooled());
        let candle = logits(&case, &pooled, &at);
        let direct = backward_from(&candle.iter().zip(cotangents()).collect::<Vec<_>>()).unwrap();
        at.kernels = Kernels::Reference;
        let reference = logits(&case, &pooled, &at);
        let of_reference = backward_from(&reference.iter().zip(cotangents()).collect::<Vec<_>>()).unwrap();
        at.kernels = Kernels::Fused;
        at.graph = Graph::tape();
        let taped = logits(&case, &pooled, &at);
        let pass = at.graph.backward(&taped.iter().zip(cotangents()).collect::<Vec<_>>()).unwrap();
        let of_input = at.graph.backward_input(&[(1.0, &pass.at_input)]).unwrap();
        for ((z, reference), taped) in candle.iter().zip(&reference).zip(&taped) {
            assert_close(&numbers(z), &numbers(reference), 1e-5, &job);
            assert_close(&numbers(z), &numbers(taped), 0.0, &job);
        }
        for var in case.store.vars() {
            let expected = numbers(direct.get(var).unwrap());
            assert_close(&expected, &numbers(of_reference.get(var).unwrap()), 2e-5, &job);
            // z is read by many layers, whose gradients cancel and are added in another order.
            assert_close(&expected, &numbers(pass.grads.get(var).unwrap()), 2e-5, &job);
        }
        assert!(pass.grads.get(&pooled).is_none(), "only the weighted sum reaches the leaves");
        let expected = numbers(direct.get(&pooled).unwrap());
        assert_close(&expected, &numbers(of_input.get(&pooled).unwrap()), 1e-5, &job);
        assert_close(&expected, &numbers(of_reference.get(&pooled).unwrap()), 2e-5, &job);
    }
}

#[test]
fn without_kappa_and_with_zeros_in_the_last_layers_it_is_the_backbone() {
    let backbone = registry::build(
        &mut serde_yaml::from_str(&format!("{{{BACKBONE}}}")).unwrap(),
        &plain_spec(),
        &mut ParamStore::new(5),
    );
    let (backbone, x) = (backbone.unwrap(), pooled());
    let without = Tensor::cat(&[x.narrow(1, 0, 3).unwrap(), x.narrow(1, 3 + DIM, 2).unwrap()], 1).unwrap();
    for rank in [0, 2] {
        let job = format!(
            "{{kind: llm4msr, {KNOWN}, rank: {rank}, init_std: 0, kappa: 0, learn_kappa: false, backbone: {{{BACKBONE}}}}}"
        );
        let found = logits(&case(&job), &x, &context(true, ROWS));
        let expected = backbone.forward(&input(&without), &context(true, ROWS)).unwrap().logits;
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(numbers(found), numbers(expected), "rank {rank}");
        }
        // Either level alone changes the logits.
        for other in ["kappa: 0", "init_std: 0"] {
            let job = job.replace(other, if other == "kappa: 0" { "kappa: 1" } else { "init_std: 0.5" });
            let job = if other == "kappa: 0" { job.replace("init_std: 0", "init_std: 0.5") } else { job };
            let moved = logits(&case(&job), &x, &context(true, ROWS));
            assert_ne!(numbers(&moved[0]), numbers(&expected[0]), "{job}");
        }
    }
}

/// The input without the vectors.
fn plain_spec() -> InputSpec {
    let mut spec = spec();
    spec.fields.remove(1);
    spec.fields[1].start = 3;
    spec
}

#[test]
fn a_user_without_a_vector_has_the_mean_of_its_scenario() {
    let case = case(&jobs()[0]);
    let means = case.store.buffer_names().iter().position(|name| name == USER_MEANS).unwrap();
    let means = case.store.buffers()[means].get();
    let mut values: Vec<f32> = random(&[ROWS, 5 + DIM], 1).flatten_all().unwrap().to_vec1().unwrap();
    let tensor = |values: &[f32]| Tensor::from_slice(values, (ROWS, 5 + DIM), &Device::Cpu).unwrap();
    let at = context(false, ROWS);
    let known = logits(&case, &tensor(&values), &at);
    for row in 0..ROWS {
        values[row * (5 + DIM) + 3..][..DIM].fill(0.0);
    }
    let unknown = logits(&case, &tensor(&values), &at);
    assert_ne!(numbers(&known[0]), numbers(&unknown[0]));
    let scenarios = input(&tensor(&values)).scenarios;
    for row in 0..ROWS {
        values[row * (5 + DIM) + 3..][..DIM].copy_from_slice(&means[scenarios[row] as usize * DIM..][..DIM]);
    }
    for (unknown, mean) in unknown.iter().zip(logits(&case, &tensor(&values), &at)) {
        assert_close(&numbers(unknown), &numbers(&mean), 1e-6, "mean");
    }
}

#[test]
fn it_stands_on_any_backbone_that_reads_rows() {
    let mut spec = spec();
    spec.sequences.push(super::super::SequenceSpec {
        name: "seen".to_string(),
        max_len: 2,
        dim: 2,
        target: Some(2),
        ..Default::default()
    });
    for backbone in ["shared_bottom", "omoe", "cgc", "ple"] {
        let job = format!("{{kind: llm4msr, {KNOWN}, backbone: {{kind: {backbone}}}}}");
        let mut store = ParamStore::new(5);
        let mut component: Component = serde_yaml::from_str(&job).unwrap();
        let model = registry::build(&mut component, &spec, &mut store).unwrap();
        let values = random(&[ROWS, 2, 2], 9);
        let mask = Tensor::ones((ROWS, 2), DType::F32, &Device::Cpu).unwrap();
        let input = Input { sequences: vec![super::super::Sequence { values, mask }], ..input(&pooled()) };
        let output = model.forward(&input, &context(false, ROWS)).unwrap();
        assert_eq!(output.logits.iter().map(|z| z.dims().to_vec()).collect::<Vec<_>>(), [[ROWS, 1], [ROWS, 3]]);
        // The resolved job shows the backbone's defaults, and builds the same again.
        let resolved = component.clone();
        assert!(serde_yaml::to_string(&resolved).unwrap().contains("activation: relu"));
        registry::build(&mut component, &spec, &mut ParamStore::new(5)).unwrap();
        assert_eq!(component, resolved);
    }
}

#[test]
fn impossible_jobs_say_what_to_change() {
    let refuse = |options: &str, spec: &InputSpec| {
        let mut job = serde_yaml::from_str(&format!("{{kind: llm4msr, {options}}}")).unwrap();
        registry::build(&mut job, spec, &mut ParamStore::new(0)).err().unwrap()
    };
    let key = |options: &str| refuse(options, &spec()).place("key").unwrap().to_string();
    assert_eq!(key("rank: 2"), "model.scenario_knowledge");
    assert_eq!(key("user_knowledge: nobody"), "model.user_knowledge");
    assert_eq!(key("user_knowledge: known, user_layers: []"), "model.user_layers");
    assert_eq!(key("user_knowledge: known, backbone: {kind: mmoe, experts: 0}"), "model.backbone.experts");
    assert_eq!(key("user_knowledge: known, backbone: {kind: llm4msr}"), "model.backbone.kind");
    assert_eq!(key("user_knowledge: known, backbone: {kind: mmoee}"), "model.backbone.kind");
    assert_eq!(key("user_knowledge: known, init_std: -1"), "model.init_std");
    let single = InputSpec { scenarios: Vec::new(), ..spec() };
    assert_eq!(refuse("scenario_knowledge: f, scenario_dim: 4", &single).place("key"), Some("data.scenario"));
}
