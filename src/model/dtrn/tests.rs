//! DTRN against its equations, finite differences, and the plain architectures that it starts as.

use super::*;
use crate::model::{Field, Sequence, SequenceSpec, build};
use crate::nn::testing::{assert_close, check_directions, context, mask, numbers, random, shifted};
use crate::nn::{Graph, Kernels, attention_pool, backward_from};
use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Var};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

const ROWS: usize = 7;
const TASKS: [&str; 3] = ["click", "cart", "grade"];
const HEAD: &str = "{kind: mmoe, experts: 2, expert: [5], tower: [3], activation: tanh}";

/// A user, an item, two dense columns; views and buys of items.
fn spec() -> InputSpec {
    let field = |name: &str, start, width| Field { name: name.to_string(), start, width };
    let sequence = |name: &str, max_len| SequenceSpec {
        name: name.to_string(),
        max_len,
        dim: 4,
        candidates: vec![1],
        ..SequenceSpec::default()
    };
    InputSpec {
        fields: vec![field("user", 0, 3), field("item", 3, 4)],
        sequences: vec![sequence("views", 4), sequence("buys", 3)],
        dense_width: 2,
        outputs: vec![1, 1, 3],
        tasks: TASKS.map(String::from).to_vec(),
        ..InputSpec::default()
    }
}

fn component(options: &str) -> Component {
    serde_yaml::from_str(&format!("{{kind: dtrn, {options}}}")).unwrap()
}

/// Every option away from its default at least once.
fn jobs() -> Vec<Component> {
    let ple = "{kind: ple, shared_experts: 1, task_experts: 1, levels: [[4], [3]], tower: [3], activation: tanh}";
    let few = "task_dim: 2, behaviour_dim: 3, hypernetwork: 4";
    [
        format!("hypernetwork: 4, head: {HEAD}"),
        format!("{few}, blocks: 2, attention_heads: 1, feed_forward: 5, refine: element, reduction: 2, head: {HEAD}"),
        format!("{few}, norm_order: pre, blocks: 2, head: {ple}"),
        format!("{few}, pool: mean, refine: none, behaviours: [buys, views], shared_input: mean, head: {ple}"),
        format!("{few}, norm_order: pre, head: {{kind: shared_bottom, bottom: [5], tower: [3], activation: tanh}}"),
    ]
    .iter()
    .map(|options| component(options))
    .collect()
}

struct Case {
    store: ParamStore,
    model: Box<dyn Model>,
    /// Pooled embeddings, views and buys.
    leaves: [Var; 3],
}

impl Case {
    /// The model as it starts.
    fn fresh(job: &Component) -> Self {
        let mut store = ParamStore::new(5);
        let model = build(&mut job.clone(), &spec(), &mut store).unwrap();
        let leaves = [random(&[ROWS, 7], 1), random(&[ROWS, 4, 4], 2), random(&[ROWS, 3, 4], 3)];
        Self { store, model, leaves: leaves.map(|leaf| Var::from_tensor(&leaf).unwrap()) }
    }

    /// The model somewhere else, where what starts at zero has an effect.
    fn moved(job: &Component) -> Self {
        let case = Self::fresh(job);
        for (i, var) in case.store.vars().iter().enumerate() {
            let name = &case.store.names()[i];
            let is_rectified =
                ["feed_forward.0.bias", "hidden.bias", "squeeze.bias"].iter().any(|end| name.ends_with(end));
            if is_rectified {
                // Units are on or off for good: a kink inside a finite difference is none of their derivative.
                let shift: Vec<f64> =
                    (0..var.elem_count()).map(|unit| if unit % 3 == 1 { -8.0 } else { 8.0 }).collect();
                case.load(i, &shift, 1.0);
            } else {
                case.load(i, &numbers(&random(var.dims(), 60 + i as u64)), 0.2);
            }
        }
        case
    }

    /// Adds `step` · `direction` to a parameter; returns what it was.
    fn load(&self, parameter: usize, direction: &[f64], step: f64) -> Vec<f32> {
        let mut values = vec![0.0; direction.len()];
        self.store.read(parameter, &mut values).unwrap();
        let moved: Vec<f32> = values.iter().zip(direction).map(|(&v, d)| (f64::from(v) + step * d) as f32).collect();
        self.store.load(parameter, &moved).unwrap();
        values
    }

    fn forward(&self, at: &Context) -> Output {
        self.model.forward(&input(&self.leaves, 0, ROWS), at).unwrap()
    }

    fn everything(&self) -> impl Iterator<Item = &Var> {
        self.store.vars().iter().chain(&self.leaves)
    }
}

/// Rows of a batch. The fourth has no views and no buys; of the third the first element is missing.
fn input<T: std::ops::Deref<Target = Tensor>>(leaves: &[T; 3], start: usize, rows: usize) -> Input {
    let part = |t: &Tensor| t.narrow(0, start, rows).unwrap();
    let sequence = |values: &Tensor, len| Sequence { values: part(values), mask: part(&mask(ROWS, len)) };
    Input {
        pooled: part(&leaves[0]),
        sequences: vec![sequence(&leaves[1], 4), sequence(&leaves[2], 3)],
        dense: part(&random(&[ROWS, 2], 4)),
        scenarios: Arc::from([]),
        repeats: [].into(),
        classes: Arc::from([]),
    }
}

/// A fixed gradient of the loss by each task's logits.
fn cotangents() -> Vec<Tensor> {
    spec().outputs.iter().enumerate().map(|(k, &n)| random(&[ROWS, n], 40 + k as u64)).collect()
}

fn backward(output: &Output, tasks: &[usize]) -> GradStore {
    let cotangents = cotangents();
    backward_from(&tasks.iter().map(|&k| (&output.logits[k], cotangents[k].clone())).collect::<Vec<_>>()).unwrap()
}

#[test]
fn gradients_match_finite_differences() {
    for job in jobs() {
        let case = Case::moved(&job);
        let at = context(true, ROWS);
        let gradients = backward(&case.forward(&at), &[0, 1, 2]);
        let gradients: Vec<Vec<f64>> = case.everything().map(|var| numbers(gradients.get(var).unwrap())).collect();
        let scalar = |output: Output| -> f64 {
            let pairs = output.logits.iter().zip(cotangents());
            pairs.map(|(z, c)| numbers(&(z * c).unwrap()).iter().sum::<f64>()).sum()
        };
        let parameters = case.store.vars().len();
        check_directions(&gradients, |argument, direction, step| {
            if argument >= parameters {
                let mut leaves = case.leaves.each_ref().map(|leaf| leaf.as_tensor().clone());
                let leaf = &mut leaves[argument - parameters];
                *leaf = shifted(leaf, direction, step);
                let leaves = leaves.map(Box::new);
                return scalar(case.model.forward(&input(&leaves, 0, ROWS), &at).unwrap());
            }
            let start = case.load(argument, direction, step);
            let value = scalar(case.forward(&at));
            case.store.load(argument, &start).unwrap();
            value
        });
    }
}

#[test]
fn the_tape_gives_the_gradients_of_candles_graph() {
    let weights = [0.7, -0.2, 1.5];
    for job in jobs() {
        let case = Case::moved(&job);
        let mut at = context(true, ROWS);
        let whole = case.forward(&at);
        at.graph = Graph::tape();
        let taped = case.forward(&at);
        let mut sums: Vec<(Vec<f64>, Vec<f64>)> =
            case.leaves.iter().map(|leaf| (vec![0.0; leaf.elem_count()], vec![0.0; leaf.elem_count()])).collect();
        for (k, weight) in weights.into_iter().enumerate() {
            let direct = backward(&whole, &[k]);
            let pass = at.graph.backward(&[(&taped.logits[k], cotangents().swap_remove(k))]).unwrap();
            for var in case.store.vars() {
                let [direct, taped] = [&direct, &pass.grads].map(|grads| grads.get(var).map(numbers));
                assert_eq!(direct.is_some(), taped.is_some());
                assert_close(&direct.unwrap_or_default(), &taped.unwrap_or_default(), 1e-5, "parameter");
            }
            for ((direct_sum, taped_sum), leaf) in sums.iter_mut().zip(&case.leaves) {
                for (sum, grads) in [(direct_sum, &direct), (taped_sum, &pass.grads)] {
                    let gradient = numbers(grads.get(leaf).unwrap());
                    sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * g);
                }
            }
        }
        for (direct, taped) in &sums {
            assert_close(direct, taped, 1e-5, "leaf");
        }
    }
}

#[test]
fn reference_kernels_agree_with_the_fused_ones() {
    for job in jobs() {
        let case = Case::moved(&job);
        let mut at = context(true, ROWS);
        let fused = case.forward(&at);
        at.kernels = Kernels::Reference;
        let reference = case.forward(&at);
        for (a, b) in fused.logits.iter().zip(&reference.logits) {
            assert_close(&numbers(a), &numbers(b), 1e-5, "logits");
        }
        let [fused, reference] = [&fused, &reference].map(|output| backward(output, &[0, 1, 2]));
        for var in case.everything() {
            assert_close(&numbers(fused.get(var).unwrap()), &numbers(reference.get(var).unwrap()), 3e-5, "gradient");
        }
    }
}

/// A plain transformer that all tasks share, over padded sequences in candle's own operations and float64.
struct Plain(BTreeMap<String, Tensor>);

impl Plain {
    fn linear(&self, x: &Tensor, path: &str) -> Tensor {
        let [weight, bias] = ["weight", "bias"].map(|name| &self.0[&format!("interest.transformer.0.{path}.{name}")]);
        x.broadcast_matmul(weight).unwrap().broadcast_add(bias).unwrap()
    }

    /// Layer norm without scale and shift.
    fn norm(x: &Tensor) -> Tensor {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        centred.broadcast_div(&(variance + 1e-5).unwrap().sqrt().unwrap()).unwrap()
    }

    /// One sequence `[L, d]` without padding, with two heads of two columns, pooled by `query` `[d]`.
    fn interest(&self, x: &Tensor, query: &Tensor) -> Tensor {
        let length = x.dims()[0];
        let newest_first = self.0["interest.positions"].narrow(0, 0, length).unwrap();
        let order: Vec<u32> = (0..length as u32).rev().collect();
        let order = Tensor::from_vec(order, length, &Device::Cpu).unwrap();
        let x = (x + newest_first.index_select(&order, 0).unwrap()).unwrap();
        let qkv = self.linear(&x, "attention.project");
        let part = |which: usize, head: usize| qkv.narrow(1, 4 * which + 2 * head, 2).unwrap().contiguous().unwrap();
        let heads: Vec<Tensor> = (0..2)
            .map(|head| {
                let scores = part(0, head).matmul(&part(1, head).t().unwrap()).unwrap();
                let e = (scores / 2f64.sqrt()).unwrap().exp().unwrap();
                let weights = e.broadcast_div(&e.sum_keepdim(1).unwrap()).unwrap();
                weights.matmul(&part(2, head)).unwrap()
            })
            .collect();
        let attended = self.linear(&Tensor::cat(&heads, 1).unwrap(), "attention.output");
        let h = Self::norm(&(x + attended).unwrap());
        let fed = self.linear(&self.linear(&h, "feed_forward.0").relu().unwrap(), "feed_forward.1");
        let y = Self::norm(&(h + fed).unwrap());
        let ones = Tensor::ones((1, length), DType::F64, &Device::Cpu).unwrap();
        let (query, y) = (query.unsqueeze(0).unwrap(), y.unsqueeze(0).unwrap());
        let mut at = context(false, 1);
        at.kernels = Kernels::Reference;
        attention_pool(&query, &y, &ones, &at).unwrap()
    }
}

#[test]
fn it_starts_as_a_plain_shared_transformer_under_mmoe() {
    let case = Case::fresh(&component(&format!("feed_forward: 6, head: {HEAD}")));
    let logits = case.forward(&context(true, ROWS)).logits;
    let named = case.store.names().iter().cloned().zip(case.store.vars());
    let plain = Plain(named.map(|(name, var)| (name, var.to_dtype(DType::F64).unwrap())).collect());
    let input = input(&case.leaves, 0, ROWS);
    let rows: Vec<Tensor> = (0..ROWS)
        .map(|row| {
            let row_of = |t: &Tensor| t.to_dtype(DType::F64).unwrap().get(row).unwrap();
            let pooled = row_of(&input.pooled);
            let query = pooled.narrow(0, 3, 4).unwrap();
            let mut parts = vec![pooled.unsqueeze(0).unwrap(), row_of(&input.dense).unsqueeze(0).unwrap()];
            for sequence in &input.sequences {
                let here: Vec<f64> = numbers(&row_of(&sequence.mask));
                let here: Vec<u32> = (0..here.len() as u32).filter(|&l| here[l as usize] != 0.0).collect();
                parts.push(match here.len() {
                    0 => Tensor::zeros((1, 4), DType::F64, &Device::Cpu).unwrap(),
                    n => {
                        let here = Tensor::from_vec(here, n, &Device::Cpu).unwrap();
                        plain.interest(&row_of(&sequence.values).index_select(&here, 0).unwrap(), &query)
                    }
                });
            }
            Tensor::cat(&parts, 1).unwrap()
        })
        .collect();
    let x = Tensor::cat(&rows, 0).unwrap().to_dtype(DType::F32).unwrap();
    // Initial values depend on the names only, so this is the same mixture.
    let mut store = ParamStore::new(5);
    let mut head: Component = serde_yaml::from_str(HEAD).unwrap();
    let mmoe = head::build(&mut head, "model", &spec(), 17, SharedInput::PerTask, &mut store).unwrap();
    let expected = mmoe.forward(&[x], &context(true, ROWS)).unwrap().logits;
    for (a, b) in logits.iter().zip(&expected) {
        assert_close(&numbers(a), &numbers(b), 2e-5, "logits");
    }
}

#[test]
fn every_attention_but_those_behind_a_norm_runs_once_for_all_tasks() {
    for job in jobs() {
        let case = Case::moved(&job);
        let mut at = context(true, ROWS);
        at.graph = Graph::tape();
        let output = case.forward(&at);
        let trunk = at.graph.trunk(&output.logits.iter().map(|z| vec![z]).collect::<Vec<_>>()).unwrap();
        // The tasks' own parts begin inside the representation; without PLE's levels, where tasks meet again, at x, the
        // target item and each behaviour's attention.
        let ids = |tensors: &[Tensor]| tensors.iter().map(Tensor::id).collect::<HashSet<_>>();
        let (begin, all) = (ids(trunk.boundary()), ids(&output.representation));
        assert!(begin.is_subset(&all));
        assert!(output.representation.iter().all(|part| part.dim(0).unwrap() == ROWS));
        if job_is_ple(&job) {
            continue;
        }
        assert_eq!(begin, ids(&output.representation[output.representation.len() - 4..]));
        let [attention, fed] = ["attention.output.weight", "feed_forward.0.weight"].map(|name| {
            let name = format!("interest.transformer.0.{name}");
            case.store.names().iter().position(|n| *n == name).unwrap()
        });
        let head = at.graph.backward_head(&trunk, &[(&output.logits[0], cotangents().swap_remove(0))]).unwrap();
        let in_head = |parameter: usize| head.grads.get(&case.store.vars()[parameter]).is_some();
        let behind_norms = job.options.contains_key("norm_order");
        assert_eq!((in_head(attention), in_head(fed)), (behind_norms, true));
    }
}

#[test]
fn a_task_reaches_its_own_parameters_and_the_shared_ones_only() {
    for job in jobs() {
        let case = Case::moved(&job);
        let output = case.forward(&context(true, ROWS));
        for (k, task) in TASKS.iter().enumerate() {
            let gradients = backward(&output, &[k]);
            for (name, var) in case.store.names().iter().zip(case.store.vars()) {
                let of_other = TASKS.iter().any(|other| other != task && name.contains(&format!(".{other}.")));
                // In PLE other tasks' experts feed the shared stream of the next level, and with it their inputs.
                let feeds_shared = name.starts_with("levels.0.") && name.contains(".experts.")
                    || !name.starts_with("levels") && !name.starts_with("towers") && job_is_ple(&job);
                let gradient = gradients.get(var).map(numbers);
                assert_eq!(gradient.is_some(), !of_other || feeds_shared, "{task} {name}");
            }
        }
    }
}

fn job_is_ple(job: &Component) -> bool {
    serde_yaml::to_string(job).unwrap().contains("kind: ple")
}

#[test]
fn a_task_costs_the_interest_module_its_embedding_only() {
    let count = |tasks: usize| {
        let all = spec();
        let spec = InputSpec { tasks: TASKS[..tasks].iter().map(ToString::to_string).collect(), ..all };
        let spec = InputSpec { outputs: spec.outputs[..tasks].to_vec(), ..spec };
        let mut store = ParamStore::new(1);
        build(&mut component("task_dim: 5"), &spec, &mut store).unwrap();
        let of_module = store.names().iter().zip(store.vars()).filter(|(name, _)| name.starts_with("interest"));
        of_module.map(|(_, var)| var.elem_count()).sum::<usize>()
    };
    assert_eq!((count(2) - count(1), count(3) - count(2)), (5, 5));
}

#[test]
fn a_row_depends_on_itself_and_an_empty_behaviour_says_nothing() {
    let case = Case::moved(&component(&format!("head: {HEAD}")));
    let whole = case.forward(&context(false, ROWS));
    for row in 0..ROWS {
        let alone = case.model.forward(&input(&case.leaves, row, 1), &context(false, 1)).unwrap();
        assert_close(&numbers(&alone.logits[0]), &numbers(&whole.logits[0])[row..row + 1], 1e-5, "row");
    }
    // What stands in the padding is never read.
    let noise = [random(&[ROWS, 7], 1), random(&[ROWS, 4, 4], 92), random(&[ROWS, 3, 4], 93)].map(Box::new);
    let other = case.model.forward(&input(&noise, 3, 1), &context(false, 1)).unwrap();
    assert_eq!(
        numbers(&other.logits[0])[0],
        numbers(&case.model.forward(&input(&case.leaves, 3, 1), &context(false, 1)).unwrap().logits[0])[0]
    );

    let options = Options { feed_forward: Some(8), ..Options::default() };
    let (mut store, spec) = (ParamStore::new(1), spec());
    let behaviours: Vec<_> = spec.sequences.iter().collect();
    for pool in [Pool::Target, Pool::Mean] {
        let options = Options { pool, ..options.clone() };
        let interest =
            Interest::new(store.builder().at(format!("{pool:?}")), &options, &behaviours, &spec.tasks).unwrap();
        let (input, at) = (input(&case.leaves, 0, ROWS), context(true, ROWS));
        let behaviour = interest.read(&input.sequences[0], &at).unwrap();
        let r = numbers(&interest.of_task((1, 0), &behaviour, Some(&random(&[ROWS, 4], 1)), &at).unwrap());
        assert_eq!(r[3 * 4..4 * 4], [0.0; 4]);
        assert!(r[..3 * 4].chunks(4).all(|r| r.iter().any(|v| *v != 0.0)));
    }
}

#[test]
fn embeddings_alone_are_a_part_of_the_representation_too() {
    let spec = InputSpec { dense_width: 0, ..spec() };
    let model = build(&mut component(&format!("head: {HEAD}")), &spec, &mut ParamStore::new(5)).unwrap();
    let case = Case::fresh(&component(&format!("head: {HEAD}")));
    let input = Input { dense: random(&[ROWS, 0], 1), ..input(&case.leaves, 0, ROWS) };
    let plain = model.forward(&input, &context(true, ROWS)).unwrap();
    let taped = Context { graph: Graph::tape(), ..context(true, ROWS) };
    let output = model.forward(&input, &taped).unwrap();
    assert_close(&numbers(&plain.logits[0]), &numbers(&output.logits[0]), 0.0, "logits");
    let trunk = taped.graph.trunk(&output.logits.iter().map(|z| vec![z]).collect::<Vec<_>>()).unwrap();
    assert_eq!(trunk.boundary().len(), 4);
    assert!(trunk.boundary().iter().any(|part| numbers(part) == numbers(&case.leaves[0])), "x is one of them");
}

#[test]
fn a_batch_without_any_behaviour_trains() {
    let case = Case::moved(&component(&format!("head: {HEAD}")));
    let mut nothing = input(&case.leaves, 0, ROWS);
    nothing.sequences.iter_mut().for_each(|sequence| sequence.mask = sequence.mask.zeros_like().unwrap());
    for kernels in [Kernels::Fused, Kernels::Reference] {
        let mut at = context(true, ROWS);
        at.kernels = kernels;
        let output = case.model.forward(&nothing, &at).unwrap();
        let gradients = backward(&output, &[0, 1, 2]);
        let finite = |var: &Var| gradients.get(var).is_none_or(|g| numbers(g).iter().all(|g| g.is_finite()));
        assert!(case.everything().all(finite));
        assert!(output.logits.iter().flat_map(numbers).all(|z| z.is_finite()));
    }
}

#[test]
fn defaults_are_written_into_the_resolved_job() {
    let mut job = component("blocks: 2");
    build(&mut job, &spec(), &mut ParamStore::new(0)).unwrap();
    let text = serde_yaml::to_string(&job).unwrap();
    for part in ["blocks: 2", "- views\n- buys", "target: item", "feed_forward: 16", "kind: mmoe\n  experts: 4"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let resolved = job.clone();
    build(&mut job, &spec(), &mut ParamStore::new(0)).unwrap();
    assert_eq!(job, resolved);
}

#[test]
fn impossible_jobs_say_what_to_change() {
    let refuse = |options: &str, spec: &InputSpec| {
        let built = build(&mut component(options), spec, &mut ParamStore::new(0));
        built.err().unwrap_or_else(|| panic!("{options} was accepted")).to_string()
    };
    let cases = [
        ("block: 2", "did you mean `blocks`?"),
        ("blocks: 0", "model.blocks"),
        ("attention_heads: 3", "must divide"),
        ("pool: max", "model.pool"),
        ("behaviours: [views, carts]", "`carts` is no sequence"),
        ("target: nobody", "model.target"),
        ("target: user", "has 3 numbers and the behaviours have 4"),
        ("shared_input: mean", "use `head: {kind: ple}`"),
        ("head: {kind: mmeo}", "did you mean `mmoe`?"),
        ("head: {kind: mmoe, experts: 0}", "key model.head.experts"),
        ("head: {kind: ple, level: [[3]]}", "key model.head.level,"),
    ];
    for (options, expected) in cases {
        let message = refuse(options, &spec());
        assert!(message.contains(expected), "{options}: {message}");
    }
    let mut narrow = spec();
    narrow.sequences[1].dim = 2;
    assert!(refuse("pool: mean", &narrow).contains("give all behaviours the same `dim`"));
    assert!(refuse("", &InputSpec { sequences: Vec::new(), ..spec() }).contains("`pooling: none`"));
    let mut unnamed = spec();
    unnamed.sequences[0].candidates = vec![0, 1];
    unnamed.sequences[1].candidates = vec![0, 1];
    assert!(refuse("", &unnamed).contains("which feature is the target item"));
    // A behaviour that is not named stays unread.
    assert!(refuse("behaviours: [buys]", &spec()).contains("`views`"));
}
