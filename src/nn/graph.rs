//! What a forward pass did, and the way back from it.
//!
//! ```text
//! forward    x ──op──► y ──op──► z        each operation writes (inputs, output, op) on the tape
//! backward   dz, then the tape from its end: dy += op.backward(dz), dx += op.backward(dy) …
//! ```
//!
//! Candle has a graph of its own, whose backward fills a tensor with zeros and adds to it for every gradient of
//! every operation: a third of a step's memory traffic. On the tape a first gradient is kept as it is, and later
//! ones are added in place. The operations are the same ones, so either graph gives the other's gradients.

mod tape;
mod trace;
mod trunk;

pub use trace::Trace;
pub use trunk::Trunk;

use super::input_gradient::InputGradient;
use super::params::ParamStore;
use super::program::{Describe, Program, Value};
use super::repeats::{Parted, Repeats};
use super::seed::backward_from;
use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Tensor, TensorId};
use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

/// Where the operations of a forward pass are written down.
#[derive(Clone, Default)]
pub enum Graph {
    /// Nowhere: there is no way back.
    #[default]
    None,
    /// On candle's own graph.
    Candle,
    /// On tandem's tape.
    Tape(Rc<RefCell<Tape>>),
    /// As a program that others can run, without a way back.
    Trace(Rc<RefCell<Trace>>),
}

/// The operations of one forward pass, in order.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    outputs: HashSet<TensorId>,
    input: Option<Input>,
}

struct Node {
    inputs: Vec<Tensor>,
    output: Tensor,
    op: Box<dyn Operation>,
}

/// The model's input, which [`Graph::cut`] cut off.
struct Input {
    /// As it was computed.
    source: Tensor,
    /// As the first layers read it.
    leaf: Tensor,
    /// Which of its rows are the same.
    repeats: Arc<[Repeats]>,
    /// The same by distinct rows, once a layer has asked for it.
    parted: OnceCell<Arc<Parted>>,
}

/// The way back through one operation.
pub(crate) trait Operation {
    /// The gradients of the inputs, each in a tensor that nothing else holds; `None` where there is none to give.
    fn backward(&self, inputs: &[Tensor], output: &Tensor, dy: &Tensor, pass: &mut Pass)
    -> Result<Vec<Option<Tensor>>>;

    /// What operations have in common that are pulled back together where they stand next to each other on the tape: they
    /// read one large tensor, which then comes from memory once.
    fn family(&self) -> Option<Family> {
        None
    }

    /// [`Operation::backward`] of two or more operations of this one's family, in the order in which they are pulled back.
    fn backward_together(&self, family: &[Reached], pass: &mut Pass) -> Result<Vec<Vec<Option<Tensor>>>> {
        let _ = (family, pass);
        Err(Error::internal("an operation with a family is pulled back by itself only"))
    }
}

/// Operations of one kind that read the same tensor in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Family {
    /// The kind.
    pub kind: &'static str,
    /// What they read.
    pub reads: TensorId,
    /// Settings that they share.
    pub settings: [usize; 2],
}

/// One of the operations that a backward pass has come to.
pub(crate) struct Reached<'a> {
    pub inputs: &'a [Tensor],
    pub output: &'a Tensor,
    pub dy: Tensor,
}

/// What one backward pass gave.
#[derive(Debug, Default)]
pub struct Pass {
    /// Gradients of parameters and leaves.
    pub grads: GradStore,
    /// What is left to do for the gradient of the model's input.
    pub at_input: InputGradient,
    /// Of how many passes the gradient of the model's input is the weighted sum; 0 or 1: of this one alone.
    pub(crate) passes: usize,
}

impl Graph {
    /// A new tape.
    pub fn tape() -> Self {
        Self::Tape(Rc::default())
    }

    /// Writes down what reads `inputs`, given by name, and the parameters of `store`.
    pub fn trace(inputs: &[(&str, &Tensor)], store: &ParamStore) -> Self {
        Self::Trace(Rc::new(RefCell::new(Trace::new(inputs, store))))
    }

    /// What was traced, as a program for `outputs`.
    ///
    /// # Errors
    /// Not a trace, or an output that no operation made.
    pub fn program(&self, outputs: &[&Tensor]) -> Result<Program> {
        match self {
            Self::Trace(trace) => trace.borrow().program(outputs),
            _ => Err(Error::internal("only a trace is a program")),
        }
    }

    /// Whether a gradient will be wanted for `x`.
    pub(crate) fn tracks(&self, x: &Tensor) -> bool {
        match self {
            Self::None | Self::Trace(_) => false,
            Self::Candle => x.track_op(),
            Self::Tape(tape) => tape.borrow().tracks(x),
        }
    }

    /// Whether `x` is the cut-off input of the model.
    pub(crate) fn is_input(&self, x: &Tensor) -> bool {
        match self {
            Self::Tape(tape) => tape.borrow().input.as_ref().is_some_and(|input| input.leaf.id() == x.id()),
            _ => false,
        }
    }

    /// Cuts the model's input off from what made it, so that its gradient can be taken once for all tasks
    /// ([`Graph::backward_input`]); the model reads what this returns. An input that nothing trained made stays as it is,
    /// and there is one cut: what a model makes of its input for another model inside it is a layer like any other.
    /// `repeats` says which of its rows are the same, in the order of their columns; the gradients of such rows may come back
    /// as their sum in one of them.
    pub fn cut(&self, x: Tensor, repeats: &Arc<[Repeats]>) -> Tensor {
        let Self::Tape(tape) = self else { return x };
        let mut tape = tape.borrow_mut();
        if tape.input.is_some() || !tape.tracks(&x) {
            return x;
        }
        // Of a tensor without candle's own memory `detach` alone gives back the very same, whose gradient would go on.
        let leaf = x.reshape(x.dims()).map_or_else(|_| x.detach(), |other| other.detach());
        tape.outputs.insert(leaf.id());
        let (repeats, parted) = (repeats.clone(), OnceCell::new());
        tape.input = Some(Input { source: x, leaf: leaf.clone(), repeats, parted });
        leaf
    }

    /// `x` by distinct rows, if it is the cut-off input and its rows repeat.
    pub(crate) fn parted(&self, x: &Tensor) -> Result<Option<Arc<Parted>>> {
        let Self::Tape(tape) = self else { return Ok(None) };
        let tape = tape.borrow();
        let Some(Input { leaf, repeats, parted, .. }) = &tape.input else { return Ok(None) };
        if leaf.id() != x.id() || repeats.is_empty() {
            return Ok(None);
        }
        if parted.get().is_none() {
            // It is none, so that it can be set.
            let _ = parted.set(Arc::new(Parted::new(leaf, repeats)?));
        }
        Ok(parted.get().cloned())
    }

    /// Writes down that `op` made `output` of `inputs`.
    pub(crate) fn record<O>(&self, inputs: &[&Tensor], output: &Tensor, op: O) -> Result<()>
    where
        O: Operation + Describe + 'static,
    {
        match self {
            Self::Tape(tape) => tape.borrow_mut().record(inputs, output, Box::new(op)),
            Self::Trace(trace) => trace.borrow_mut().record(inputs, output, &op, &type_name::<O>())?,
            Self::None | Self::Candle => {}
        }
        Ok(())
    }

    /// Runs an operation on one tensor.
    pub(crate) fn one<C: CustomOp1 + Describe + Send + Sync + 'static>(&self, x: &Tensor, op: C) -> Result<Tensor> {
        if let Self::Candle = self {
            return Ok(x.apply_op1(op)?);
        }
        let y = x.apply_op1_no_bwd(&op)?;
        self.record(&[x], &y, One(op))?;
        Ok(y)
    }

    /// Runs an operation on two tensors.
    pub(crate) fn two<C: CustomOp2 + Describe + Send + Sync + 'static>(
        &self,
        a: &Tensor,
        b: &Tensor,
        op: C,
    ) -> Result<Tensor> {
        if let Self::Candle = self {
            return Ok(a.apply_op2(b, op)?);
        }
        let y = a.apply_op2_no_bwd(b, &op)?;
        self.record(&[a, b], &y, Two(op))?;
        Ok(y)
    }

    /// Runs an operation on three tensors.
    pub(crate) fn three<C>(&self, a: &Tensor, b: &Tensor, c: &Tensor, op: C) -> Result<Tensor>
    where
        C: CustomOp3 + Describe + Send + Sync + 'static,
    {
        if let Self::Candle = self {
            return Ok(a.apply_op3(b, c, op)?);
        }
        let y = a.apply_op3_no_bwd(b, c, &op)?;
        self.record(&[a, b, c], &y, Three(op))?;
        Ok(y)
    }

    /// Pulls back `outputs`, each given with the gradient of the loss by it: a tensor that is not used again, for it
    /// may be added to.
    pub fn backward(&self, outputs: &[(&Tensor, Tensor)]) -> Result<Pass> {
        self.backward_one_of(1, outputs)
    }

    /// [`Graph::backward`] for one of several passes whose weighted sum alone goes through the model's input
    /// ([`Graph::backward_input`]): what can wait for the sum is left to it.
    pub fn backward_one_of(&self, passes: usize, outputs: &[(&Tensor, Tensor)]) -> Result<Pass> {
        match self {
            Self::None | Self::Trace(_) => Err(Error::internal("a backward pass without a graph")),
            Self::Candle if outputs.is_empty() => Ok(Pass::default()),
            Self::Candle => Ok(Pass { grads: backward_from(outputs)?, ..Pass::default() }),
            Self::Tape(tape) => tape.borrow().backward(Pass { passes, ..Pass::default() }, outputs, |_| true),
        }
    }

    /// Parts what was written down by the tasks whose `outputs` (each task's own list) it leads to.
    ///
    /// # Errors
    /// On candle's graph, which cannot be parted.
    pub fn trunk(&self, outputs: &[Vec<&Tensor>]) -> Result<Trunk> {
        match self {
            Self::Tape(tape) => Ok(tape.borrow().trunk(outputs)),
            _ => Err(Error::internal("only a tape can be parted into heads and trunk")),
        }
    }

    /// [`Graph::trunk`] without the last layer before `ends`, whose operations then belong to the heads, and the
    /// matrices of parameters of that layer: none if something else of the trunk reads it too.
    ///
    /// # Errors
    /// As [`Graph::trunk`].
    pub fn without_last_layer(&self, outputs: &[Vec<&Tensor>], ends: &[Tensor]) -> Result<(Trunk, Vec<Tensor>)> {
        match self {
            Self::Tape(tape) => Ok(tape.borrow().without_last_layer(outputs, ends)),
            _ => Err(Error::internal("only a tape can be parted into heads and trunk")),
        }
    }

    /// Pulls one task's `outputs` back to where the `trunk` begins: the gradients of its own operations' parameters,
    /// and of the tensors that the task reads of the trunk ([`Trunk::boundary`]). As for [`Graph::backward`].
    pub fn backward_head(&self, trunk: &Trunk, outputs: &[(&Tensor, Tensor)]) -> Result<Pass> {
        match self {
            Self::Tape(tape) => tape.borrow().backward(Pass::default(), outputs, |node| !trunk.holds(node)),
            _ => Err(Error::internal("a head's backward pass without a tape")),
        }
    }

    /// The gradients of the embeddings for the weighted sum of some passes, as far as they go through the model's
    /// input: Σ w dx, pulled back from the input to its leaves.
    pub fn backward_input(&self, passes: &[(f64, &InputGradient)]) -> Result<GradStore> {
        let Self::Tape(tape) = self else { return Ok(GradStore::default()) };
        let tape = tape.borrow();
        let Some(Input { source, parted, .. }) = &tape.input else { return Ok(GradStore::default()) };
        let dx = InputGradient::weighted_sum(passes, source.dims(), parted.get().map(Arc::as_ref))?;
        Ok(tape.backward(Pass::default(), &[(source, dx)], |_| true)?.grads)
    }
}

/// The name of an operation's type, without its path: `Mix` of `tandem::nn::mix::Mix`, also inside of [`One`] to
/// [`Three`].
fn type_name<O>() -> String {
    let name = std::any::type_name::<O>().trim_end_matches('>');
    name.rsplit([':', '<']).next().unwrap_or(name).to_string()
}

/// Operations that candle knows as custom ones.
struct One<C>(C);
struct Two<C>(C);
struct Three<C>(C);

impl<C: Describe> Describe for One<C> {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        self.0.describe(program, inputs)
    }
}

impl<C: Describe> Describe for Two<C> {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        self.0.describe(program, inputs)
    }
}

impl<C: Describe> Describe for Three<C> {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        self.0.describe(program, inputs)
    }
}

impl<C: CustomOp1> Operation for One<C> {
    fn backward(&self, inputs: &[Tensor], output: &Tensor, dy: &Tensor, _: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![self.0.bwd(&inputs[0], output, dy)?])
    }
}

impl<C: CustomOp2> Operation for Two<C> {
    fn backward(&self, inputs: &[Tensor], output: &Tensor, dy: &Tensor, _: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        let (da, db) = self.0.bwd(&inputs[0], &inputs[1], output, dy)?;
        Ok(vec![da, db])
    }
}

impl<C: CustomOp3> Operation for Three<C> {
    fn backward(&self, inputs: &[Tensor], output: &Tensor, dy: &Tensor, _: &mut Pass) -> Result<Vec<Option<Tensor>>> {
        let (da, db, dc) = self.0.bwd(&inputs[0], &inputs[1], &inputs[2], output, dy)?;
        Ok(vec![da, db, dc])
    }
}
