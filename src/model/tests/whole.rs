//! The checks of one architecture on any input, the terms of its losses included.

use super::*;
use crate::nn::Loss;

/// An architecture, its parameters and what it is fed.
pub(super) struct Whole {
    pub store: ParamStore,
    pub model: Box<dyn Model>,
    pub spec: InputSpec,
}

/// Binary tasks on two fields, in `sets` sets of tables, with a sequence that attends with the second.
pub(super) fn spec(tasks: &[&str], sets: &[&str]) -> InputSpec {
    let (mut fields, mut sequences) = (Vec::new(), Vec::new());
    for set in 0..sets.len().max(1) {
        for (name, start, width) in [("user", 5 * set, 3), ("item", 5 * set + 3, 2)] {
            fields.push(Field { name: format!("{name}{set}"), start, width });
        }
        let target = Some(2 * set + 1);
        sequences.push(SequenceSpec {
            name: format!("history{set}"),
            max_len: 4,
            dim: 2,
            target,
            candidates: Vec::new(),
        });
    }
    InputSpec {
        fields,
        sequences,
        dense_width: 2,
        outputs: vec![1; tasks.len()],
        tasks: tasks.iter().map(ToString::to_string).collect(),
        losses: vec![Some(Loss::BinaryCrossEntropy); tasks.len()],
        sets: sets.iter().map(ToString::to_string).collect(),
        ..InputSpec::default()
    }
}

impl Whole {
    pub fn new(job: &str, spec: InputSpec) -> Self {
        let mut store = ParamStore::new(5);
        let model = build(&mut component(job), &spec, &mut store).unwrap();
        Self { store, model, spec }
    }

    /// The pooled embeddings, then each sequence's.
    pub fn leaves(&self) -> Vec<Var> {
        let width = self.spec.fields.iter().map(|field| field.width).sum();
        let pooled = random(&[ROWS, width], 1);
        let sequences = (0..self.spec.sequences.len()).map(|i| random(&[ROWS, 4, 2], 20 + i as u64));
        std::iter::once(pooled).chain(sequences).map(|t| Var::from_tensor(&t).unwrap()).collect()
    }

    pub fn forward(&self, leaves: &[Tensor], at: &Context) -> Output {
        let mut whole = input(&leaves[0], &random(&[ROWS, 4, 2], 2), 0);
        let mask = whole.sequences[0].mask.clone();
        whole.sequences =
            leaves[1..].iter().map(|values| Sequence { values: values.clone(), mask: mask.clone() }).collect();
        self.model.forward(&whole, at).unwrap()
    }

    /// Forward with its leaves as they are.
    pub fn run(&self, at: &Context) -> (Vec<Var>, Output) {
        let leaves = self.leaves();
        let output = self.forward(&tensors(&leaves), at);
        (leaves, output)
    }

    /// The gradients of all parameters, then of the leaves, under fixed cotangents of one task's tensors.
    pub fn gradients(&self, task: usize, at: &Context) -> Vec<Option<Vec<f64>>> {
        let (leaves, output) = self.run(at);
        let starts = starts(&output, task);
        let starts: Vec<(&Tensor, Tensor)> = starts.iter().map(|(t, c)| (t, c.copy().unwrap())).collect();
        let pass = at.graph.backward(&starts).unwrap();
        let at_input = at.graph.backward_input(&[(1.0, &pass.at_input)]).unwrap();
        let of = |var: &Var| pass.grads.get(var).or_else(|| at_input.get(var)).map(numbers);
        self.store.vars().iter().chain(&leaves).map(of).collect()
    }

    /// The gradient of a parameter by name.
    pub fn gradient(&self, name: &str, task: usize) -> Option<Vec<f64>> {
        let index = self.store.names().iter().position(|n| n == name).unwrap_or_else(|| panic!("no {name}"));
        self.gradients(task, &context(true, ROWS))[index].clone()
    }

    /// Differences, the tape and the reference kernels agree with candle's graph.
    pub fn check(&self) {
        self.check_where(|_| true);
    }

    /// The same where an architecture stops gradients, which differences cannot see: they go along those numbers only that
    /// have a gradient.
    pub fn check_with_stops(&self) {
        self.check_where(|gradient| gradient != 0.0);
    }

    fn check_where(&self, moves: impl Fn(f64) -> bool) {
        for task in 0..self.spec.tasks.len() {
            let at = context(true, ROWS);
            let gradients = self.gradients(task, &at);
            let filled = |of: Vec<Option<Vec<f64>>>, like: &[Var]| -> Vec<Vec<f64>> {
                let zeros = |var: &Var| vec![0.0; var.elem_count()];
                let vars = self.store.vars().iter().chain(like);
                of.into_iter().zip(vars).map(|(gradient, var)| gradient.unwrap_or_else(|| zeros(var))).collect()
            };
            let leaves = self.leaves();
            let exact = filled(gradients, &leaves);
            let tape = Context { graph: Graph::tape(), ..context(true, ROWS) };
            let reference = Context { kernels: Kernels::Reference, ..context(true, ROWS) };
            for (what, at) in [("tape", tape), ("reference", reference)] {
                for (i, (a, b)) in exact.iter().zip(&filled(self.gradients(task, &at), &leaves)).enumerate() {
                    assert_close(a, b, 2e-5, &format!("{what}, task {task}, argument {i}"));
                }
            }
            let parameters = self.store.vars().len();
            check_directions(&exact, |argument, direction, step| {
                let numbers = direction.iter().zip(&exact[argument]);
                let direction: Vec<f64> = numbers.map(|(&d, &g)| if moves(g) { d } else { 0.0 }).collect();
                let direction = direction.as_slice();
                let mut moved = tensors(&leaves);
                if argument >= parameters {
                    moved[argument - parameters] = shifted(&leaves[argument - parameters], direction, step);
                    return scalar(&self.forward(&moved, &at), task);
                }
                let mut start = vec![0.0; direction.len()];
                self.store.read(argument, &mut start).unwrap();
                let there: Vec<f32> =
                    start.iter().zip(direction).map(|(&v, d)| (f64::from(v) + step * d) as f32).collect();
                self.store.load(argument, &there).unwrap();
                let value = scalar(&self.forward(&moved, &at), task);
                self.store.load(argument, &start).unwrap();
                value
            });
        }
    }
}

fn tensors(vars: &[Var]) -> Vec<Tensor> {
    vars.iter().map(|var| var.as_tensor().clone()).collect()
}

/// The tensors of a task's loss, each with a fixed gradient of the loss by it.
fn starts(output: &Output, task: usize) -> Vec<(Tensor, Tensor)> {
    let tensors = output.of_task(task).into_iter().enumerate();
    tensors.map(|(i, tensor)| (tensor.clone(), random(tensor.dims(), 60 + i as u64))).collect()
}

fn scalar(output: &Output, task: usize) -> f64 {
    starts(output, task).iter().map(|(t, c)| numbers(&(t * c).unwrap()).iter().sum::<f64>()).sum()
}
