//! A forward pass written down as a list of plain tensor operations, for those who run it elsewhere.
//!
//! ```text
//! values     x      W      b      v3 = MatMul x W      v4 = Add v3 b      v5 = Relu v4      …
//! source     Input  Parameter …   Computed             Computed           Computed
//! nodes                           ────────────────── in the order in which they run ──────────────
//! ```
//!
//! An operation of a layer describes itself ([`Describe`]) by the [`Primitive`]s that give the same numbers. Their
//! meaning is numpy's: shapes are broadcast, axes are counted from 0. The first axis of what comes from an input
//! is the batch, whose length a program does not know.

use crate::error::{Error, Result};

/// One tensor of a [`Program`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value(usize);

impl Value {
    /// Its place in [`Program::sources`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The caller gives it: float32.
    Input(String),
    /// The caller gives it: the number of each row's scenario, `[B]`, int64.
    Scenarios,
    /// The same for every batch. Parameters have their name.
    Constant {
        /// Name of the parameter, empty for other numbers.
        name: String,
        /// Its shape.
        dims: Vec<usize>,
        /// Its numbers, row-major.
        values: Vec<f32>,
    },
    /// A node computes it.
    Computed,
}

/// A plain operation on tensors.
#[derive(Debug, Clone, PartialEq)]
pub enum Primitive {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a · b, element by element.
    Mul,
    /// a / b.
    Div,
    /// The matrix product over the last two axes; those before are broadcast.
    MatMul,
    /// e to the power of x.
    Exp,
    /// The natural logarithm.
    Ln,
    /// The square root.
    Sqrt,
    /// The absolute value.
    Abs,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(−x)).
    Sigmoid,
    /// max(x, 0).
    Relu,
    /// x for x > 0, else `slope` · x.
    LeakyRelu {
        /// The slope below 0.
        slope: f32,
    },
    /// The error function.
    Erf,
    /// 1 where x is not 0, else 0.
    NotZero,
    /// Softmax over the last axis.
    Softmax,
    /// The sum over an axis, which stays with length 1.
    Sum {
        /// The axis.
        axis: usize,
    },
    /// The mean over an axis, which stays with length 1.
    Mean {
        /// The axis.
        axis: usize,
    },
    /// Another shape: 0 keeps the length at that place, −1 is what is left.
    Reshape(Vec<i64>),
    /// The axes in another order.
    Transpose(Vec<usize>),
    /// `start..end` of an axis.
    Slice {
        /// The axis.
        axis: usize,
        /// First.
        start: usize,
        /// After the last.
        end: usize,
    },
    /// All inputs one after another along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// Those entries of the first axis of a that the integers b name: the shape of b, then the rest of a's.
    Gather,
}

/// One step of a [`Program`].
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The operation of `nn` that it is a part of.
    pub operation: String,
    /// What it does.
    pub primitive: Primitive,
    /// To what.
    pub inputs: Vec<Value>,
    /// What comes out.
    pub output: Value,
}

/// A forward pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Program {
    sources: Vec<Source>,
    nodes: Vec<Node>,
    outputs: Vec<Value>,
    /// The operation that is being described.
    operation: String,
}

/// An operation that can say what it computes. Every operation that [`super::Graph`] runs must.
pub(crate) trait Describe {
    /// Adds to `program` what it computes of `inputs`, the values of its tensors in order; returns the value of its
    /// output. What runs in training only returns [`only_in_training`].
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value>;
}

/// The description of an operation that no evaluation runs.
pub(crate) fn only_in_training(operation: &str) -> Result<Value> {
    Err(Error::internal(format!("`{operation}` has no description: it runs in training only")))
}

/// The inputs of an operation that has `N` of them.
pub(crate) fn exactly<const N: usize>(inputs: &[Value]) -> Result<[Value; N]> {
    inputs.try_into().map_err(|_| Error::internal(format!("an operation of {N} tensors was given {}", inputs.len())))
}

impl Program {
    /// Where each value comes from, by [`Value::index`].
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The steps, in an order in which they can run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What is asked for.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// Asks for one more value.
    pub fn add_output(&mut self, value: Value) {
        self.outputs.push(value);
    }

    /// A value that the caller gives.
    pub fn input(&mut self, name: &str) -> Value {
        self.value(Source::Input(name.to_string()))
    }

    /// The number of each row's scenario: `[B]`.
    pub fn scenarios(&mut self) -> Value {
        match self.sources.iter().position(|source| *source == Source::Scenarios) {
            Some(index) => Value(index),
            None => self.value(Source::Scenarios),
        }
    }

    /// Numbers that are the same for every batch, row-major.
    pub fn constant(&mut self, dims: &[usize], values: Vec<f32>) -> Value {
        self.named_constant("", dims, values)
    }

    /// A constant with the name of a parameter.
    pub fn named_constant(&mut self, name: &str, dims: &[usize], values: Vec<f32>) -> Value {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        self.value(Source::Constant { name: name.to_string(), dims: dims.to_vec(), values })
    }

    /// One number.
    pub fn scalar(&mut self, value: f32) -> Value {
        self.constant(&[1], vec![value])
    }

    /// The shape of a constant with `N` axes.
    pub(super) fn dims_of_constant<const N: usize>(&self, value: Value) -> Result<[usize; N]> {
        let dims = match &self.sources[value.0] {
            Source::Constant { dims, .. } => dims.as_slice().try_into().ok(),
            _ => None,
        };
        dims.ok_or_else(|| Error::internal(format!("a description expects a parameter with {N} axes")))
    }

    /// Says which operation the following nodes belong to.
    pub(super) fn begin(&mut self, operation: &str) {
        self.operation = operation.to_string();
    }

    fn value(&mut self, source: Source) -> Value {
        self.sources.push(source);
        Value(self.sources.len() - 1)
    }

    /// Adds a step.
    pub fn node(&mut self, primitive: Primitive, inputs: &[Value]) -> Value {
        let output = self.value(Source::Computed);
        self.nodes.push(Node { operation: self.operation.clone(), primitive, inputs: inputs.to_vec(), output });
        output
    }

    /// a + b.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.node(Primitive::Add, &[a, b])
    }

    /// a − b.
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.node(Primitive::Sub, &[a, b])
    }

    /// a · b, element by element.
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        self.node(Primitive::Mul, &[a, b])
    }

    /// a / b.
    pub fn div(&mut self, a: Value, b: Value) -> Value {
        self.node(Primitive::Div, &[a, b])
    }

    /// `factor` · x.
    pub fn scale(&mut self, x: Value, factor: f32) -> Value {
        let factor = self.scalar(factor);
        self.mul(x, factor)
    }

    /// The matrix product.
    pub fn matmul(&mut self, a: Value, b: Value) -> Value {
        self.node(Primitive::MatMul, &[a, b])
    }

    /// Another shape; see [`Primitive::Reshape`].
    pub fn reshape(&mut self, x: Value, dims: &[i64]) -> Value {
        self.node(Primitive::Reshape(dims.to_vec()), &[x])
    }

    /// The axes in another order.
    pub fn transpose(&mut self, x: Value, axes: &[usize]) -> Value {
        self.node(Primitive::Transpose(axes.to_vec()), &[x])
    }

    /// `width` entries of an axis from `start`.
    pub fn narrow(&mut self, x: Value, axis: usize, start: usize, width: usize) -> Value {
        self.node(Primitive::Slice { axis, start, end: start + width }, &[x])
    }

    /// The sum over an axis, which stays with length 1.
    pub fn sum(&mut self, x: Value, axis: usize) -> Value {
        self.node(Primitive::Sum { axis }, &[x])
    }

    /// The mean over an axis, which stays with length 1.
    pub fn mean(&mut self, x: Value, axis: usize) -> Value {
        self.node(Primitive::Mean { axis }, &[x])
    }

    /// Softmax over the last axis.
    pub fn softmax(&mut self, x: Value) -> Value {
        self.node(Primitive::Softmax, &[x])
    }

    /// Side by side along an axis.
    pub fn concat(&mut self, parts: &[Value], axis: usize) -> Value {
        self.node(Primitive::Concat { axis }, parts)
    }

    /// Entries of the first axis of `table` by the integers `index`.
    pub fn gather(&mut self, table: Value, index: Value) -> Value {
        self.node(Primitive::Gather, &[table, index])
    }

    /// Checks that this program, traced with one batch, is `other`, traced with another batch of another length.
    ///
    /// # Errors
    /// They differ: then something was computed from the batch without an operation of `nn`, and would wrongly be a
    /// constant.
    pub fn same_as(&self, other: &Self) -> Result<()> {
        let differs = |what: String| {
            Error::internal(format!("the model cannot be exported: {what} is computed from the batch outside of `nn`"))
                .fix("compute it with an operation of `nn` that describes itself (docs/contributing.md)")
        };
        for (index, (mine, theirs)) in self.sources.iter().zip(&other.sources).enumerate() {
            if mine != theirs {
                let reader = self.nodes.iter().find(|node| node.inputs.iter().any(|value| value.0 == index));
                let reader = reader.map_or("the output".to_string(), |node| format!("what `{}` reads", node.operation));
                return Err(differs(reader));
            }
        }
        match self == other {
            true => Ok(()),
            false => Err(differs("the course of the forward pass".to_string())),
        }
    }
}

#[cfg(test)]
pub(crate) mod evaluate;
#[cfg(test)]
mod tests;
