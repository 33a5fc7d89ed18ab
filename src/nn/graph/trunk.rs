//! The part of a tape that several tasks share, and where it ends.
//!
//! ```text
//!   x ──trunk──► z ──head 1──► logits 1        boundary: the z that heads read
//!                └───head 2──► logits 2
//! ```
//!
//! A method that needs the tasks' gradients only at the last shared representation pulls each task back through
//! its own head alone, and the weighted sum of what arrives at the boundary once through the trunk.

use super::Tape;
use candle_core::{Tensor, TensorId};
use std::collections::{HashMap, HashSet};

/// The operations that two or more tasks' outputs go back to.
#[derive(Debug)]
pub struct Trunk {
    /// By position on the tape.
    nodes: Vec<bool>,
    boundary: Vec<Tensor>,
}

impl Trunk {
    /// The tensors where the trunk ends: it made them, and the tasks' own operations read them.
    pub fn boundary(&self) -> &[Tensor] {
        &self.boundary
    }

    /// Whether the operation at this position on the tape belongs to it.
    pub(super) fn holds(&self, node: usize) -> bool {
        self.nodes[node]
    }
}

/// Which tasks' outputs go back to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    One(usize),
    Many,
}

impl Reach {
    fn join(reach: &mut HashMap<TensorId, Self>, x: &Tensor, of: Self) {
        reach.entry(x.id()).and_modify(|known| *known = if *known == of { of } else { Self::Many }).or_insert(of);
    }
}

impl Tape {
    pub(super) fn trunk(&self, outputs: &[Vec<&Tensor>]) -> Trunk {
        let mut reach: HashMap<TensorId, Reach> = HashMap::new();
        for (task, outputs) in outputs.iter().enumerate() {
            outputs.iter().for_each(|output| Reach::join(&mut reach, output, Reach::One(task)));
        }
        let mut trunk = Trunk { nodes: vec![false; self.nodes.len()], boundary: Vec::new() };
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let Some(&of) = reach.get(&node.output.id()) else { continue };
            trunk.nodes[index] = of == Reach::Many;
            node.inputs.iter().for_each(|x| Reach::join(&mut reach, x, of));
        }
        let heads = self.nodes.iter().filter(|node| matches!(reach.get(&node.output.id()), Some(Reach::One(_))));
        let mut seen = HashSet::new();
        for x in heads.flat_map(|node| &node.inputs).chain(outputs.iter().flatten().copied()) {
            if self.made(x) && reach.get(&x.id()) == Some(&Reach::Many) && seen.insert(x.id()) {
                trunk.boundary.push(x.clone());
            }
        }
        trunk
    }

    /// Whether an operation of the tape made `x`: it is no parameter, no leaf, and not the cut-off input.
    fn made(&self, x: &Tensor) -> bool {
        self.outputs.contains(&x.id()) && !self.input.as_ref().is_some_and(|input| input.leaf.id() == x.id())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Graph;
    use crate::nn::testing::{context, numbers, random};
    use crate::nn::{Activation, Context, Linear, ParamStore};
    use candle_core::Tensor;

    /// z = relu(x·W), which both heads read.
    struct Model {
        store: ParamStore,
        bottom: Linear,
        heads: [Linear; 2],
    }

    impl Model {
        fn new() -> Self {
            let mut store = ParamStore::new(5);
            let mut layer =
                |name: &str, input, output, act| Linear::new(store.builder().at(name), input, output, act).unwrap();
            let bottom = layer("bottom", 4, 6, Activation::Relu);
            let heads = [layer("a", 6, 2, Activation::None), layer("b", 6, 3, Activation::None)];
            Self { store, bottom, heads }
        }

        fn forward(&self, x: &Tensor, context: &Context) -> (Tensor, [Tensor; 2]) {
            let z = self.bottom.forward(x, context).unwrap();
            let logits = self.heads.each_ref().map(|head| head.forward(&z, context).unwrap());
            (z, logits)
        }
    }

    #[test]
    fn heads_and_then_the_trunk_give_what_whole_passes_give() {
        let (model, x) = (Model::new(), random(&[5, 4], 1));
        let context = Context { graph: Graph::tape(), ..context(true, 5) };
        let (z, logits) = model.forward(&x, &context);
        let cotangents = [random(&[5, 2], 2), random(&[5, 3], 3)];
        let trunk = context.graph.trunk(&logits.each_ref().map(|logits| vec![logits])).unwrap();
        assert_eq!(trunk.boundary().iter().map(Tensor::id).collect::<Vec<_>>(), [z.id()]);

        let whole: Vec<_> = (0..2).map(|k| (&logits[k], cotangents[k].copy().unwrap())).collect();
        let whole = context.graph.backward(&whole).unwrap().grads;
        let heads = [0, 1].map(|k| {
            context.graph.backward_head(&trunk, &[(&logits[k], cotangents[k].copy().unwrap())]).unwrap().grads
        });
        let at_z = (heads[0].get(&z).unwrap() + heads[1].get(&z).unwrap()).unwrap();
        let through = context.graph.backward(&[(&z, at_z)]).unwrap().grads;
        for (name, var) in model.store.names().iter().zip(model.store.vars()) {
            let parts: Vec<_> = heads.iter().chain([&through]).filter_map(|grads| grads.get(var)).collect();
            assert_eq!(parts.len(), 1, "{name} belongs to one head or to the trunk");
            assert_eq!(numbers(parts[0]), numbers(whole.get(var).unwrap()), "{name}");
        }
    }

    #[test]
    fn one_task_has_no_trunk() {
        let (model, x) = (Model::new(), random(&[5, 4], 1));
        let context = Context { graph: Graph::tape(), ..context(true, 5) };
        let (_, [logits, _]) = model.forward(&x, &context);
        let trunk = context.graph.trunk(&[vec![&logits]]).unwrap();
        assert!(trunk.boundary().is_empty());
        let pass = context.graph.backward_head(&trunk, &[(&logits, random(&[5, 2], 2))]).unwrap();
        assert!(pass.grads.get(&model.store.vars()[0]).is_some(), "all of it is the task's own");
        assert!(Graph::Candle.trunk(&[vec![&logits]]).is_err());
    }
}
