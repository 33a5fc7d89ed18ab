//! The part of a tape that several tasks share, and where it ends.
//!
//! ```text
//!   x ──trunk──► z ──head 1──► logits 1        boundary: the z that heads read
//!                └───head 2──► logits 2
//! ```
//!
//! A method that needs the tasks' gradients only at the last shared representation pulls each task back through
//! its own head alone, and the weighted sum of what arrives at the boundary once through the trunk. One that needs
//! them at the last shared layer's weights passes that layer with the heads ([`Tape::without_last_layer`]).

use super::{Node, Tape};
use candle_core::{Tensor, TensorId};
use std::collections::{HashMap, HashSet};

/// The operations that two or more tasks' outputs go back to.
#[derive(Debug)]
pub struct Trunk {
    /// By position on the tape.
    nodes: Vec<Place>,
    boundary: Vec<Tensor>,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// No task's output goes back to it.
    Aside,
    /// It is passed once a task.
    Head,
    /// It is passed once in all.
    Trunk,
}

impl Trunk {
    /// The tensors where the trunk ends: it made them, and the tasks' own operations read them.
    pub fn boundary(&self) -> &[Tensor] {
        &self.boundary
    }

    /// Whether the operation at this position on the tape belongs to it.
    pub(super) fn holds(&self, node: usize) -> bool {
        self.nodes[node] == Place::Trunk
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
        let nodes = self.places(outputs);
        Trunk { boundary: self.boundary(&nodes, outputs), nodes }
    }

    /// [`Tape::trunk`] less its last layer: the operations next to the end of the trunk at `ends` that read a matrix of
    /// parameters, and what follows them. Returns those matrices too.
    pub(super) fn without_last_layer(&self, outputs: &[Vec<&Tensor>], ends: &[Tensor]) -> (Trunk, Vec<Tensor>) {
        let mut nodes = self.places(outputs);
        let mut wanted: HashSet<TensorId> = ends.iter().map(Tensor::id).collect();
        // What stays in the trunk is passed later: an operation that it reads cannot be passed before.
        let mut needed: HashSet<TensorId> = HashSet::new();
        let mut layer = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let at = node.output.id();
            if nodes[index] != Place::Trunk {
                continue;
            }
            if !wanted.contains(&at) || needed.contains(&at) {
                needed.extend(node.inputs.iter().map(Tensor::id));
                continue;
            }
            nodes[index] = Place::Head;
            match node.last_matrix() {
                Some(matrix) => layer.push(matrix.clone()),
                None => wanted.extend(node.inputs.iter().map(Tensor::id)),
            }
        }
        (Trunk { boundary: self.boundary(&nodes, outputs), nodes }, layer)
    }

    fn places(&self, outputs: &[Vec<&Tensor>]) -> Vec<Place> {
        let mut reach: HashMap<TensorId, Reach> = HashMap::new();
        for (task, outputs) in outputs.iter().enumerate() {
            outputs.iter().for_each(|output| Reach::join(&mut reach, output, Reach::One(task)));
        }
        let mut places = vec![Place::Aside; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let Some(&of) = reach.get(&node.output.id()) else { continue };
            places[index] = if of == Reach::Many { Place::Trunk } else { Place::Head };
            node.inputs.iter().for_each(|x| Reach::join(&mut reach, x, of));
        }
        places
    }

    /// What the trunk makes and heads read, or is an output itself.
    fn boundary(&self, nodes: &[Place], outputs: &[Vec<&Tensor>]) -> Vec<Tensor> {
        let placed = || self.nodes.iter().zip(nodes);
        let of = |place: Place| placed().filter(move |(_, at)| **at == place).map(|(node, _)| node);
        let mut made: HashSet<TensorId> = of(Place::Trunk).map(|node| node.output.id()).collect();
        let read = of(Place::Head).flat_map(|node| &node.inputs).chain(outputs.iter().flatten().copied());
        read.filter(|x| made.remove(&x.id())).cloned().collect()
    }
}

impl Node {
    /// The last of the parameters with two or more dimensions that it reads: where layers are one operation, the weights
    /// of the last of them.
    fn last_matrix(&self) -> Option<&Tensor> {
        self.inputs.iter().rev().find(|x| x.is_variable() && x.dims().len() >= 2)
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

    #[test]
    fn the_last_layer_is_passed_with_the_heads() {
        let mut store = ParamStore::new(5);
        let mut layer =
            |name: &str, input, output, act| Linear::new(store.builder().at(name), input, output, act).unwrap();
        let first = layer("first", 4, 6, Activation::Relu);
        let last = layer("last", 6, 3, Activation::Relu);
        let heads = ["a", "b"].map(|name| layer(name, 3, 2, Activation::None));
        let (x, context) = (random(&[5, 4], 1), Context { graph: Graph::tape(), ..context(true, 5) });
        let h = first.forward(&x, &context).unwrap();
        // An operation without parameters, such as dropout, stands between the last layer and the representation.
        let z = crate::nn::add(&context.graph, &last.forward(&h, &context).unwrap(), &random(&[5, 3], 4)).unwrap();
        let logits = heads.each_ref().map(|head| head.forward(&z, &context).unwrap());
        let outputs = [vec![&logits[0]], vec![&logits[1]]];
        let (trunk, layer) = context.graph.without_last_layer(&outputs, std::slice::from_ref(&z)).unwrap();
        assert_eq!(trunk.boundary().iter().map(Tensor::id).collect::<Vec<_>>(), [h.id()]);
        let weight = &store.vars()[store.names().iter().position(|name| name == "last.weight").unwrap()];
        assert_eq!(layer.iter().map(Tensor::id).collect::<Vec<_>>(), [weight.id()]);
        for (k, logits) in logits.iter().enumerate() {
            let cotangent = || random(&[5, 2], 2 + k as u64);
            let head = context.graph.backward_head(&trunk, &[(logits, cotangent())]).unwrap().grads;
            let whole = context.graph.backward(&[(logits, cotangent())]).unwrap().grads;
            assert_eq!(numbers(head.get(weight).unwrap()), numbers(whole.get(weight).unwrap()));
            assert!(head.get(&store.vars()[0]).is_none(), "the first layer is passed once, later");
        }
        // Where another operation of the trunk reads it too, the layer cannot be passed before that.
        let again = crate::nn::add(&context.graph, &z, &z).unwrap();
        let more = heads.each_ref().map(|head| head.forward(&again, &context).unwrap());
        let outputs = [vec![&logits[0], &more[0]], vec![&logits[1], &more[1]]];
        let (trunk, layer) = context.graph.without_last_layer(&outputs, std::slice::from_ref(&z)).unwrap();
        assert!(layer.is_empty() && trunk.boundary().iter().any(|x| x.id() == z.id()));
    }
}
