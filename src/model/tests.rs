//! What every architecture must pass.

mod chains;
mod sets;
mod whole;

use super::*;
use crate::config::Component;
use crate::nn::testing::{Rendezvous, assert_close, check_directions, context, numbers, random, shifted};
use crate::nn::{Graph, Kernels, ParamStore, backward_from};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Var};
use send_wrapper::SendWrapper;
use std::collections::BTreeMap;
use std::rc::Rc;

const ROWS: usize = 7;
const TASKS: [&str; 3] = ["click", "like", "grade"];

mod scenarios;

/// Two pooled fields, a sequence that attends with the second, two dense columns, three tasks, two scenarios.
fn spec() -> InputSpec {
    let field = |name: &str, start, width| Field { name: name.to_string(), start, width };
    let sequence =
        SequenceSpec { name: "history".to_string(), max_len: 4, dim: 2, target: Some(1), candidates: vec![1] };
    InputSpec {
        fields: vec![field("user", 0, 3), field("item", 3, 2)],
        sequences: vec![sequence],
        dense_width: 2,
        outputs: vec![1, 1, 3],
        tasks: TASKS.map(String::from).to_vec(),
        scenarios: ["home", "shop"].map(String::from).to_vec(),
        ..InputSpec::default()
    }
}

/// Columns of the model's input: pooled, attended, dense.
const WIDTH: usize = 5 + 2 + 2;

fn component(yaml: &str) -> Component {
    serde_yaml::from_str(yaml).unwrap()
}

/// Small models with every kind, norm and stack.
fn jobs() -> Vec<Component> {
    let end = "tower: [4], activation: tanh";
    [
        format!("{{kind: shared_bottom, bottom: [6, 5], {end}}}"),
        format!("{{kind: shared_bottom, bottom: [6], norm: batch, {end}}}"),
        "{kind: shared_bottom, bottom: [5], tower: [], activation: silu}".to_string(),
        format!("{{kind: single_task, bottom: [6, 5], dropout: 0.2, {end}}}"),
        format!("{{kind: mmoe, experts: 3, expert: [5, 4], gate: [3], {end}}}"),
        format!("{{kind: mmoe, experts: 2, expert: [4, 3], norm: layer, dropout: 0.3, {end}}}"),
        format!("{{kind: mmoe, experts: 2, expert: [4, 3], norm: batch, {end}}}"),
        format!("{{kind: mpt, expert: [5, 4], adversary: 0, {end}}}"),
        format!("{{kind: mpt, expert: [4], new_tasks: [grade], temperature: 2, {end}}}"),
        format!("{{kind: omoe, experts: 1, expert: [4], {end}}}"),
        format!("{{kind: pf_msmtrec, experts: 2, expert: [4, 3], {end}}}"),
        format!(
            "{{kind: pf_msmtrec, experts: 2, expert: [4], template: multiplicative, norm: none, dropout: 0.2, {end}}}"
        ),
        format!("{{kind: cgc, shared_experts: 1, task_experts: 2, expert: [5, 4], {end}}}"),
        format!("{{kind: ple, shared_experts: 2, task_experts: 1, levels: [[4], [3, 3]], {end}}}"),
        format!("{{kind: ple, shared_experts: 1, task_experts: 1, levels: [[4], [3]], dropout: 0.2, {end}}}"),
        format!("{{kind: star, bottom: [6, 5], auxiliary: [3], {end}}}"),
        format!("{{kind: star, bottom: [5], auxiliary: null, partitioned_norm: false, dropout: 0.2, {end}}}"),
        format!("{{kind: pepnet, personal: [user, item], gate: 5, {end}}}"),
        "{kind: m2m, experts: 2, expert: [5, 3], knowledge: [4], attention: 3, activation: tanh, dropout: 0.2}"
            .to_string(),
    ]
    .iter()
    .map(|job| component(job))
    .collect()
}

/// Architectures whose gradients are no derivatives, by design; they have tests of their own.
const STOPS_GRADIENTS: [&str; 1] = ["pepnet"];

struct Case {
    kind: String,
    store: ParamStore,
    model: Box<dyn Model>,
}

fn case(job: &Component) -> Case {
    let (mut job, mut store) = (job.clone(), ParamStore::new(5));
    let model = build(&mut job, &spec(), &mut store).unwrap();
    Case { kind: job.kind, store, model }
}

/// Leaves of one batch: pooled embeddings and the sequence. The last row has an empty sequence.
fn leaves() -> [Var; 2] {
    [random(&[ROWS, 5], 1), random(&[ROWS, 4, 2], 2)].map(|t| Var::from_tensor(&t).unwrap())
}

fn input(pooled: &Tensor, values: &Tensor, start: usize) -> Input {
    let rows = pooled.dims()[0];
    let mask: Vec<f32> =
        (start..start + rows).flat_map(|row| (0..4).map(move |l| f32::from(row + 1 < ROWS && l <= row % 4))).collect();
    let mask = Tensor::from_vec(mask, (rows, 4), &Device::Cpu).unwrap();
    let dense = random(&[ROWS, 2], 3).narrow(0, start, rows).unwrap();
    let sequences = vec![Sequence { values: values.clone(), mask }];
    let scenarios = (start..start + rows).map(|row| [0, 2, 1][row % 3]).collect();
    Input { pooled: pooled.clone(), sequences, dense, scenarios, classes: [].into(), repeats: [].into() }
}

/// A fixed gradient of the loss by each task's logits.
fn cotangents() -> Vec<Tensor> {
    spec().outputs.iter().enumerate().map(|(k, &n)| random(&[ROWS, n], 40 + k as u64)).collect()
}

fn backward(output: &Output, tasks: &[usize], rows: (usize, usize)) -> GradStore {
    let cotangents = cotangents();
    let part = |k: usize| (&output.logits[k], cotangents[k].narrow(0, rows.0, rows.1).unwrap());
    backward_from(&tasks.iter().map(|&k| part(k)).collect::<Vec<_>>()).unwrap()
}

#[test]
fn gradients_match_finite_differences() {
    for job in jobs() {
        let case = case(&job);
        if STOPS_GRADIENTS.contains(&case.kind.as_str()) {
            continue;
        }
        let at = context(true, ROWS);
        let [pooled, values] = leaves();
        let forward = |pooled: &Tensor, values: &Tensor| case.model.forward(&input(pooled, values, 0), &at).unwrap();
        let gradients = backward(&forward(&pooled, &values), &[0, 1, 2], (0, ROWS));
        let vars = case.store.vars().iter().chain([&pooled, &values]);
        let gradients: Vec<Vec<f64>> = vars.map(|var| numbers(gradients.get(var).unwrap())).collect();
        let scalar = |output: Output| -> f64 {
            let pairs = output.logits.iter().zip(cotangents());
            pairs.map(|(z, c)| numbers(&(z * c).unwrap()).iter().sum::<f64>()).sum()
        };
        let parameters = case.store.vars().len();
        check_directions(&gradients, |argument, direction, step| {
            if argument == parameters {
                return scalar(forward(&shifted(&pooled, direction, step), &values));
            } else if argument > parameters {
                return scalar(forward(&pooled, &shifted(&values, direction, step)));
            }
            let mut start = vec![0.0; direction.len()];
            case.store.read(argument, &mut start).unwrap();
            let moved: Vec<f32> = start.iter().zip(direction).map(|(&v, d)| (f64::from(v) + step * d) as f32).collect();
            case.store.load(argument, &moved).unwrap();
            let value = scalar(forward(&pooled, &values));
            case.store.load(argument, &start).unwrap();
            value
        });
    }
}

/// The architectures with candle's own operations in float64, expert by expert, on the parameters of a store.
struct Plain(BTreeMap<String, Tensor>);

impl Plain {
    fn of(store: &ParamStore) -> Self {
        let pairs = store.names().iter().zip(store.vars());
        Self(pairs.map(|(name, var)| (name.clone(), var.to_dtype(DType::F64).unwrap())).collect())
    }

    fn linear(&self, x: &Tensor, path: &str) -> Tensor {
        let (weight, bias) = (&self.0[&format!("{path}.weight")], &self.0[&format!("{path}.bias")]);
        x.matmul(weight).unwrap().broadcast_add(bias).unwrap()
    }

    /// Hidden layers at `path` with tanh, of one of `groups` stacks.
    fn stack(&self, x: &Tensor, path: &str, group: usize, groups: usize) -> Tensor {
        let mut x = x.clone();
        for layer in 0.. {
            let Some(weight) = self.0.get(&format!("{path}.{layer}.weight")) else {
                break;
            };
            let bias = self.0[&format!("{path}.{layer}.bias")].chunk(groups, 0).unwrap()[group].clone();
            let weight = match weight.rank() {
                2 => weight.chunk(groups, 1).unwrap()[group].clone(),
                _ => weight.get(group).unwrap(),
            };
            x = x.matmul(&weight.contiguous().unwrap()).unwrap().broadcast_add(&bias).unwrap().tanh().unwrap();
        }
        x
    }

    fn experts(&self, x: &Tensor, path: &str, count: usize) -> Vec<Tensor> {
        (0..count).map(|e| self.stack(x, path, e, count)).collect()
    }

    fn mixed(&self, x: &Tensor, gate: &str, experts: &[Tensor]) -> Tensor {
        let hidden = self.stack(x, &format!("{gate}.hidden"), 0, 1);
        let scores = self.linear(&hidden, &format!("{gate}.scores")).exp().unwrap();
        let weights = scores.broadcast_div(&scores.sum_keepdim(1).unwrap()).unwrap();
        let weighted = |(e, y): (usize, &Tensor)| y.broadcast_mul(&weights.narrow(1, e, 1).unwrap()).unwrap();
        experts.iter().enumerate().map(weighted).reduce(|a, b| (a + b).unwrap()).unwrap()
    }

    fn tower(&self, x: &Tensor, task: &str) -> Tensor {
        let hidden = self.stack(x, &format!("towers.{task}.hidden"), 0, 1);
        self.linear(&hidden, &format!("towers.{task}.logits"))
    }

    /// A mixture whose experts' weights are made of three parts by `weight`, and their biases by adding.
    fn of_parts(
        &self,
        count: usize,
        x: &Tensor,
        weight: impl Fn([&Tensor; 3]) -> candle_core::Result<Tensor>,
    ) -> Vec<Tensor> {
        let mut whole = Self(self.0.clone());
        for path in self.0.keys().filter_map(|name| name.strip_suffix(".global.weight")) {
            let parts =
                |what: &str| ["global", "task", "scenario"].map(|part| &self.0[&format!("{path}.{part}.{what}")]);
            let [g, t, s] = parts("bias");
            whole.0.insert(format!("{path}.weight"), weight(parts("weight")).unwrap());
            whole.0.insert(format!("{path}.bias"), ((g + t).unwrap() + s).unwrap());
        }
        let experts: Vec<Tensor> = (0..count).map(|e| whole.stack(x, &format!("experts.{e}"), 0, 1)).collect();
        TASKS.map(|task| self.tower(&self.mixed(x, &format!("gates.{task}"), &experts), task)).to_vec()
    }

    fn ple(&self, x: &Tensor, shared_count: usize, own_count: usize, levels: usize) -> Vec<Tensor> {
        let (mut tasks, mut shared) = (vec![x.clone(); TASKS.len()], x.clone());
        for level in 0..levels {
            let experts_s = self.experts(&shared, &format!("levels.{level}.shared.experts"), shared_count);
            let mut all = Vec::new();
            for (x, task) in tasks.iter_mut().zip(TASKS) {
                let path = format!("levels.{level}.tasks.{task}");
                let own = self.experts(x, &format!("{path}.experts"), own_count);
                all.extend(own.clone());
                *x = self.mixed(x, &format!("{path}.gate"), &[own, experts_s.clone()].concat());
            }
            if level + 1 < levels {
                all.extend(experts_s);
                shared = self.mixed(&shared, &format!("levels.{level}.shared.gate"), &all);
            }
        }
        tasks.iter().zip(TASKS).map(|(x, task)| self.tower(x, task)).collect()
    }
}

/// Some parameters start at 0, where an equation shows nothing of them.
fn start_elsewhere(store: &ParamStore) {
    for index in 0..store.names().len() {
        let values: Vec<f32> = (0..store.range(index).len() as u64)
            .map(|i| crate::random::unit(index as u64, &[i]) as f32 - 0.5)
            .collect();
        store.load(index, &values).unwrap();
    }
}

#[test]
fn logits_match_the_equations_in_plain_operations() {
    type Equations = Box<dyn Fn(&Plain, &Tensor) -> Vec<Tensor>>;
    let towers = |p: &Plain, h: &Tensor| TASKS.map(|task| p.tower(h, task)).to_vec();
    let cases: Vec<(&str, Equations)> = vec![
        (
            "{kind: shared_bottom, bottom: [6, 5], tower: [4], activation: tanh}",
            Box::new(move |p, x| towers(p, &p.stack(x, "bottom", 0, 1))),
        ),
        (
            "{kind: mmoe, experts: 3, expert: [5, 4], gate: [3], tower: [], activation: tanh}",
            Box::new(|p, x| {
                let experts = p.experts(x, "experts", 3);
                TASKS.map(|task| p.tower(&p.mixed(x, &format!("gates.{task}"), &experts), task)).to_vec()
            }),
        ),
        (
            "{kind: pf_msmtrec, experts: 2, expert: [5, 4], tower: [4], activation: tanh, norm: none}",
            Box::new(|p, x| p.of_parts(2, x, |[g, t, s]| (g + t).unwrap() + s)),
        ),
        (
            "{kind: pf_msmtrec, experts: 3, expert: [5], tower: [], activation: tanh, norm: none, template: multiplicative}",
            Box::new(|p, x| p.of_parts(3, x, |[g, t, s]| (g * (t + 1.0).unwrap()).unwrap() * (s + 1.0).unwrap())),
        ),
        (
            "{kind: omoe, experts: 2, expert: [5, 4], tower: [4], activation: tanh}",
            Box::new(move |p, x| towers(p, &p.mixed(x, "gates.shared", &p.experts(x, "experts", 2)))),
        ),
        (
            "{kind: cgc, shared_experts: 2, task_experts: 1, expert: [5, 4], tower: [4], activation: tanh}",
            Box::new(|p, x| p.ple(x, 2, 1, 1)),
        ),
        (
            "{kind: ple, shared_experts: 1, task_experts: 2, levels: [[5], [4, 3], [3]], tower: [4], activation: tanh}",
            Box::new(|p, x| p.ple(x, 1, 2, 3)),
        ),
    ];
    for (job, equations) in cases {
        let case = case(&component(job));
        let plain_spec = InputSpec { sequences: Vec::new(), dense_width: 0, ..spec() };
        let mut store = ParamStore::new(5);
        let model = build(&mut component(job), &plain_spec, &mut store).unwrap();
        start_elsewhere(&store);
        let x = random(&[ROWS, 5], 1);
        let dense = random(&[ROWS, 0], 0);
        let (sequences, scenarios, classes) = (Vec::new(), [].into(), [].into());
        let input = Input { pooled: x.clone(), sequences, dense, scenarios, classes, repeats: [].into() };
        let logits = model.forward(&input, &context(true, ROWS)).unwrap().logits;
        let exact = equations(&Plain::of(&store), &x.to_dtype(DType::F64).unwrap());
        for ((z, exact), task) in logits.iter().zip(&exact).zip(TASKS) {
            assert_close(&numbers(z), &numbers(exact), 1e-5, &format!("{} {task}", case.kind));
        }
    }
}

#[test]
fn the_input_is_pooled_then_attended_then_dense() {
    let [pooled, values] = leaves();
    let layer = InputLayer::new(&spec(), "mmoe").unwrap();
    let input = input(&pooled, &values, 0);
    let x = layer.forward(&input, &context(true, ROWS)).unwrap();
    assert_eq!((layer.width(), x.dims()), (WIDTH, &[ROWS, WIDTH][..]));
    let columns = |start, len| numbers(&x.narrow(1, start, len).unwrap().contiguous().unwrap());
    assert_eq!(columns(0, 5), numbers(&pooled));
    assert_eq!(columns(7, 2), numbers(&input.dense));
    // Row 0 has one element, the last row none.
    assert_eq!(columns(5, 2)[..2], numbers(&values)[..2]);
    assert_eq!(columns(5, 2)[2 * (ROWS - 1)..], [0.0; 2]);
}

#[test]
fn a_loss_reaches_its_own_parameters_and_the_shared_ones_only() {
    for job in jobs() {
        let case = case(&job);
        let [pooled, values] = leaves();
        let output = case.model.forward(&input(&pooled, &values, 0), &context(true, ROWS)).unwrap();
        for (k, task) in TASKS.iter().enumerate() {
            let gradients = backward(&output, &[k], (0, ROWS));
            for (i, name) in case.store.names().iter().enumerate() {
                let mut found = None;
                case.store.with_gradient(&gradients, i, |gradient| found = Some(gradient.to_vec())).unwrap();
                let reached = found.is_some();
                assert_eq!(reached, expect_reached(&case, name, task), "{} {task} {name}", case.kind);
                // A gate over one expert, or a bias before a norm, is reached but has no effect.
                let has_effect = name.ends_with("weight") && !name.contains("gate");
                assert!(
                    !reached || !has_effect || found.iter().flatten().any(|&g| g != 0.0),
                    "{} {task} {name}",
                    case.kind
                );
            }
        }
    }
}

/// A parameter named after another task is not reached, except below PLE's last level, where its expert feeds
/// the shared stream.
fn expect_reached(case: &Case, name: &str, task: &str) -> bool {
    let of_other = TASKS.iter().any(|other| other != &task && name.contains(&format!(".{other}.")));
    let feeds_shared = case.kind == "ple" && name.starts_with("levels.0.") && name.contains(".experts.");
    // A new task of MPT-Rec attends over the prompts and experts of the others.
    let path = format!("attention.{task}.");
    let attends = case.store.names().iter().any(|name| name.starts_with(&path));
    let attended = attends && (name.starts_with("prompts.") || name.starts_with("experts."));
    !of_other || feeds_shared || attended
}

/// A batch's rows that all models of this file read.
fn whole_input([pooled, values]: &[Var; 2]) -> Input {
    input(pooled, values, 0)
}

#[test]
fn the_tape_gives_the_gradients_of_candles_graph() {
    let weights = [0.7, -0.2, 1.5];
    for job in jobs() {
        let case = case(&job);
        let leaves = leaves();
        let mut at = context(true, ROWS);
        let whole = case.model.forward(&whole_input(&leaves), &at).unwrap();
        at.graph = Graph::tape();
        let taped = case.model.forward(&whole_input(&leaves), &at).unwrap();

        let mut expected = [vec![0.0; ROWS * 5], vec![0.0; ROWS * 8]];
        let mut passes = Vec::new();
        for (k, weight) in weights.into_iter().enumerate() {
            let direct = backward(&whole, &[k], (0, ROWS));
            let pass = at.graph.backward(&[(&taped.logits[k], cotangents().swap_remove(k))]).unwrap();
            for var in case.store.vars() {
                let [direct, taped] = [&direct, &pass.grads].map(|grads| grads.get(var).map(numbers));
                assert_eq!(direct.is_some(), taped.is_some());
                assert_close(&direct.unwrap_or_default(), &taped.unwrap_or_default(), 1e-6, &case.kind);
            }
            for (sum, leaf) in expected.iter_mut().zip(&leaves) {
                assert!(pass.grads.get(leaf).is_none(), "only the weighted sum reaches the leaves");
                let gradient = numbers(direct.get(leaf).unwrap());
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * g);
            }
            passes.push((weight, pass));
        }
        let at_input: Vec<_> = passes.iter().map(|(weight, pass)| (*weight, &pass.at_input)).collect();
        let gradients = at.graph.backward_input(&at_input).unwrap();
        for (leaf, expected) in leaves.iter().zip(&expected) {
            assert_close(&numbers(gradients.get(leaf).unwrap()), expected, 1e-5, &case.kind);
        }
    }
}

/// What is computed once for rows that are the same is what is computed row by row, in every architecture.
#[test]
fn rows_that_repeat_change_nothing() {
    let keys: Vec<u32> = (0..ROWS as u32).map(|row| row % 3).collect();
    let item = |row: usize| (0..5).map(move |column| if column < 3 { row } else { row % 3 });
    let pooled = numbers(&random(&[ROWS, 5], 1));
    let pooled = (0..ROWS).flat_map(|row| item(row).enumerate()).map(|(column, row)| pooled[row * 5 + column] as f32);
    let pooled = Tensor::from_vec(pooled.collect(), (ROWS, 5), &Device::Cpu).unwrap();
    for job in jobs() {
        let case = case(&job);
        let results = |repeats: &[Repeats]| {
            let [_, values] = leaves();
            let pooled = Var::from_tensor(&pooled).unwrap();
            let input = Input { repeats: repeats.into(), ..input(&pooled, &values, 0) };
            let at = Context { graph: Graph::tape(), ..context(true, ROWS) };
            let output = case.model.forward(&input, &at).unwrap();
            let pass = at.graph.backward(&output.logits.iter().zip(cotangents()).collect::<Vec<_>>()).unwrap();
            let of_input = at.graph.backward_input(&[(1.0, &pass.at_input)]).unwrap();
            let of = |var: &Var| pass.grads.get(var).or_else(|| of_input.get(var)).map(numbers).unwrap_or_default();
            let mut dx = of(&pooled);
            for row in 3..if dx.is_empty() { 0 } else { ROWS } {
                (3..5).for_each(|column| dx[row % 3 * 5 + column] += std::mem::take(&mut dx[row * 5 + column]));
            }
            let mut all: Vec<_> = output.logits.iter().map(numbers).collect();
            all.extend(case.store.vars().iter().map(of));
            all.push(dx);
            all.push(of(&values));
            all
        };
        let repeats = Repeats::at_most(ROWS, 3..5, &keys, 3).unwrap();
        for (number, (once, each)) in results(&[repeats]).iter().zip(&results(&[])).enumerate() {
            // A bias before a norm has no effect: its gradient is all rounding.
            assert_close(once, each, 1e-3, &format!("{} {number}", case.kind));
        }
    }
}

#[test]
fn one_pass_for_all_tasks_is_the_sum_of_the_passes() {
    for job in jobs() {
        let case = case(&job);
        let mut at = context(true, ROWS);
        at.graph = Graph::tape();
        let output = case.model.forward(&whole_input(&leaves()), &at).unwrap();
        let pairs = || output.logits.iter().zip(cotangents());
        let together = at.graph.backward(&pairs().collect::<Vec<_>>()).unwrap();
        let apart: Vec<_> = pairs().map(|pair| at.graph.backward(&[pair]).unwrap()).collect();
        for var in case.store.vars() {
            let mut sum = vec![0.0; var.elem_count()];
            for gradient in apart.iter().filter_map(|pass| pass.grads.get(var)) {
                sum.iter_mut().zip(numbers(gradient)).for_each(|(sum, g)| *sum += g);
            }
            // A bias before a norm has no effect: its gradient is all rounding.
            assert_close(&numbers(together.grads.get(var).unwrap()), &sum, 1e-3, &case.kind);
        }
    }
}

#[test]
fn reference_kernels_agree_with_the_fused_ones() {
    for job in jobs() {
        let case = case(&job);
        let leaves = leaves();
        let mut at = context(true, ROWS);
        let fused = case.model.forward(&whole_input(&leaves), &at).unwrap();
        at.kernels = Kernels::Reference;
        let reference = case.model.forward(&whole_input(&leaves), &at).unwrap();
        for (a, b) in fused.logits.iter().zip(&reference.logits) {
            assert_close(&numbers(a), &numbers(b), 1e-5, &case.kind);
        }
        let [fused, reference] = [&fused, &reference].map(|output| backward(output, &[0, 1, 2], (0, ROWS)));
        for var in case.store.vars().iter().chain(&leaves) {
            // The gradient of a bias before a batch norm is 0: what is found is the rounding of numbers near 0.1.
            let [fused, reference] =
                [&fused, &reference].map(|grads| [numbers(grads.get(var).unwrap()), vec![0.1]].concat());
            assert_close(&fused, &reference, 2e-5, &case.kind);
        }
    }
}

#[test]
fn halves_of_a_batch_on_two_ranks_equal_the_whole() {
    let job = "{kind: mmoe, experts: 2, expert: [4, 3], norm: batch, dropout: 0.4, tower: [3], activation: gelu}";
    let part = |start: usize, len: usize, all_sum: Rc<dyn crate::nn::AllSum>| {
        let case = case(&component(job));
        let mut at = context(true, len);
        at.slots = (start as u32..(start + len) as u32).collect();
        at.all_sum = SendWrapper::new(all_sum);
        let [pooled, values] = leaves().map(|leaf| leaf.narrow(0, start, len).unwrap());
        let output = case.model.forward(&input(&pooled, &values, start), &at).unwrap();
        let gradients = backward(&output, &[0, 1, 2], (start, len));
        let logits: Vec<f64> = output.logits.iter().take(2).flat_map(numbers).collect();
        let gradients: Vec<f64> = case.store.vars().iter().flat_map(|v| numbers(gradients.get(v).unwrap())).collect();
        (logits, gradients)
    };
    let (logits, gradients) = part(0, ROWS, Rc::new(()));
    let [first, second] = Rendezvous::run(|rank, all_sum| match rank {
        0 => part(0, 3, all_sum),
        _ => part(3, 4, all_sum),
    });
    let joined = [&first.0[..3], &second.0[..4], &first.0[3..], &second.0[4..]].concat();
    assert_close(&joined, &logits, 1e-5, "logits");
    let sum: Vec<f64> = first.1.iter().zip(&second.1).map(|(a, b)| a + b).collect();
    assert_close(&sum, &gradients, 1e-5, "gradients");
}

#[test]
fn evaluation_has_no_randomness_and_the_representation_is_what_the_logits_read() {
    for job in jobs() {
        let case = case(&job);
        let [pooled, values] = leaves();
        let run = |seed, rows: (usize, usize)| {
            let mut at = context(false, rows.1);
            at.seed = seed;
            let part = |t: &Tensor| t.narrow(0, rows.0, rows.1).unwrap();
            case.model.forward(&input(&part(&pooled), &part(&values), rows.0), &at).unwrap()
        };
        let whole = run(1, (0, ROWS));
        assert_close(&numbers(&whole.logits[0]), &numbers(&run(2, (0, ROWS)).logits[0]), 0.0, "evaluation");
        // In evaluation a row does not depend on its neighbours.
        assert_close(&numbers(&run(1, (2, 1)).logits[0]), &numbers(&whole.logits[0])[2..3], 1e-6, "one row");
        for part in &whole.representation {
            assert_eq!(part.dim(0).unwrap(), ROWS);
            assert!(part.track_op());
        }
    }
}

#[test]
fn every_tower_of_omoe_reads_its_one_mixture() {
    let case = case(&component("{kind: omoe, experts: 3, expert: [5, 4], tower: [4], activation: tanh}"));
    let [pooled, values] = leaves();
    let output = case.model.forward(&input(&pooled, &values, 0), &context(true, ROWS)).unwrap();
    let [mixture] = &output.representation[..] else { panic!("{} parts", output.representation.len()) };
    assert_eq!(mixture.dims(), [ROWS, 4]);
    let (plain, mixture) = (Plain::of(&case.store), mixture.to_dtype(DType::F64).unwrap());
    for (logits, task) in output.logits.iter().zip(TASKS) {
        assert_close(&numbers(logits), &numbers(&plain.tower(&mixture, task)), 1e-5, task);
    }
}

#[test]
fn initial_values_depend_on_the_names_only() {
    let small = case(&component("{kind: mmoe, experts: 2, expert: [4]}")).store;
    let other = case(&component("{kind: mmoe, experts: 2, expert: [4], gate: [9], tower: [64]}")).store;
    for (i, name) in small.names().iter().enumerate() {
        if let Some(j) = other.names().iter().position(|n| n == name)
            && small.range(i).len() == other.range(j).len()
        {
            assert_eq!(numbers(&small.vars()[i]), numbers(&other.vars()[j]), "{name}");
        }
    }
}

#[test]
fn defaults_are_written_into_the_resolved_job() {
    for kind in ["shared_bottom", "single_task", "omoe", "mmoe", "cgc", "ple"] {
        let mut job = component(&format!("{{kind: {kind}, dropout: 0.5}}"));
        build(&mut job, &spec(), &mut ParamStore::new(0)).unwrap();
        let text = serde_yaml::to_string(&job).unwrap();
        for line in ["dropout: 0.5", "activation: relu", "norm: none", "tower:\n- 64"] {
            assert!(text.contains(line), "{kind}: {text}");
        }
        // A resolved job builds the same model again.
        let resolved = job.clone();
        build(&mut job, &spec(), &mut ParamStore::new(0)).unwrap();
        assert_eq!(job, resolved);
    }
}

#[test]
fn impossible_jobs_say_what_to_change() {
    let refuse = |job: &str, spec: &InputSpec| {
        build(&mut component(job), spec, &mut ParamStore::new(0)).err().unwrap().to_string()
    };
    let job_errors = [
        ("{kind: mmoe, expert_count: 3}", "expert_count"),
        ("{kind: mmoe, activation: swish}", "activation"),
        ("{kind: mmoe, experts: 0}", "model.experts"),
        ("{kind: mmoe, expert: []}", "model.expert"),
        ("{kind: shared_bottom, bottom: []}", "model.bottom"),
        ("{kind: shared_bottom, dropout: 1}", "model.dropout"),
        ("{kind: shared_bottom, tower: [0]}", "width 0"),
        ("{kind: cgc, expert: []}", "model.expert"),
        ("{kind: cgc, task_experts: 0}", "model.task_experts"),
        ("{kind: ple, levels: []}", "model.levels"),
        ("{kind: ple, levels: [[3], []]}", "model.levels"),
    ];
    for (job, expected) in job_errors {
        let message = refuse(job, &spec());
        assert!(message.contains(expected), "{job}: {message}");
    }

    let mut unpooled = spec();
    unpooled.sequences[0].target = None;
    let message = refuse("{kind: mmoe}", &unpooled);
    assert!(message.contains("`mmoe`") && message.contains("`history`") && message.contains("pooling"), "{message}");
    let mut wide = spec();
    wide.sequences[0].dim = 8;
    assert!(refuse("{kind: mmoe}", &wide).contains("8 and 2 numbers"));
    let empty = InputSpec { fields: Vec::new(), sequences: Vec::new(), dense_width: 0, ..spec() };
    assert!(refuse("{kind: mmoe}", &empty).contains("no input"));
}

#[test]
fn pairs_belong_to_matrix_factorisation() {
    let pairs = vec![PairSpec { left: 0, right: 1, drawn: None }; 3];
    for mut job in jobs() {
        let built = build(&mut job, &InputSpec { pairs: pairs.clone(), ..spec() }, &mut ParamStore::new(1));
        let error = built.err().unwrap();
        assert_eq!(error.place("key"), Some("model.kind"));
        assert!(error.to_string().contains("use `model: {kind: mf}`"), "{error}");
    }
}
