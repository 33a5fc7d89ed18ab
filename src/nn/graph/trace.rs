//! Writing a forward pass down as a [`Program`].
//!
//! ```text
//! tensors    x ──op──► y ──op──► z        each operation says in primitives what it computes
//! program    Input x, Parameter W, MatMul, Add, …
//! ```
//!
//! A tensor is known by where its numbers are: `detach` and a copy of the handle change a tensor's id and not its
//! place. A tensor that is neither an input, a parameter, nor made by an operation becomes a constant; that this is
//! right is found by tracing a second batch ([`Program::same_as`]).

use crate::error::{Error, Result};
use crate::nn::ParamStore;
use crate::nn::floats::Floats;
use crate::nn::program::{Describe, Program, Value};
use candle_core::Tensor;
use std::collections::HashMap;

/// See the module.
#[derive(Default)]
pub struct Trace {
    program: Program,
    known: HashMap<Place, Value>,
    names: HashMap<Place, String>,
    /// Holds every tensor, so that no other takes its place in memory.
    held: Vec<Tensor>,
}

/// Where the numbers of a tensor are.
#[derive(PartialEq, Eq, Hash)]
struct Place {
    storage: usize,
    start: usize,
    dims: Vec<usize>,
    stride: Vec<usize>,
}

impl Place {
    fn of(x: &Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        let storage = std::ptr::from_ref(&*storage) as usize;
        Self { storage, start: layout.start_offset(), dims: layout.dims().to_vec(), stride: layout.stride().to_vec() }
    }
}

impl Trace {
    /// A trace of what reads `inputs` and the parameters of `store`.
    pub(super) fn new(inputs: &[(&str, &Tensor)], store: &ParamStore) -> Self {
        let mut trace = Self::default();
        for (name, x) in inputs {
            let value = trace.program.input(name);
            trace.knows(x, value);
        }
        for (name, var) in store.names().iter().zip(store.vars()) {
            trace.names.insert(Place::of(var), name.clone());
        }
        trace
    }

    fn knows(&mut self, x: &Tensor, value: Value) {
        self.known.insert(Place::of(x), value);
        self.held.push(x.clone());
    }

    /// The value of a tensor.
    fn value(&mut self, x: &Tensor) -> Result<Value> {
        let place = Place::of(x);
        if let Some(&value) = self.known.get(&place) {
            return Ok(value);
        }
        let name = self.names.get(&place).cloned().unwrap_or_default();
        let contiguous = x.contiguous()?;
        let value = self.program.named_constant(&name, x.dims(), Floats::of(&contiguous)?.to_vec());
        self.knows(x, value);
        Ok(value)
    }

    /// Writes down that `op` made `output` of `inputs`.
    pub(super) fn record(&mut self, inputs: &[&Tensor], output: &Tensor, op: &dyn Describe, name: &str) -> Result<()> {
        let values = inputs.iter().map(|x| self.value(x)).collect::<Result<Vec<_>>>()?;
        self.program.begin(name);
        let value = op.describe(&mut self.program, &values)?;
        self.knows(output, value);
        Ok(())
    }

    /// What was written down, with the values of `outputs`.
    ///
    /// # Errors
    /// An output that no operation made.
    pub(super) fn program(&self, outputs: &[&Tensor]) -> Result<Program> {
        let mut program = self.program.clone();
        for output in outputs {
            let value = self.known.get(&Place::of(output));
            program.add_output(*value.ok_or_else(|| Error::internal("no operation of `nn` made the model's output"))?);
        }
        Ok(program)
    }
}
