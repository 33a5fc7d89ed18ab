//! Named dense parameters, and the flat vector that the step exchanges.

use crate::error::Result;
use candle_core::{Tensor, Var};

/// Initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Uniform in ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16).
    Glorot,
    /// Uniform in ±√(1 / fan_in), PyTorch's default for linear layers.
    Kaiming,
    /// Normal with this standard deviation.
    Normal(f32),
}

/// All dense parameters of a model in order of registration, and its buffers (state that is not trained,
/// such as batch norm's running moments).
#[derive(Debug, Default)]
pub struct ParamStore {
    seed: u64,
    names: Vec<String>,
    vars: Vec<Var>,
}

impl ParamStore {
    /// An empty store; initial values are a pure function of `(seed, parameter name)`.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Names, such as `experts.0.1.weight`, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The variables, in order.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Number of floats over all parameters.
    pub fn len(&self) -> usize {
        self.vars.iter().map(|v| v.elem_count()).sum()
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.vars.is_empty()
    }

    /// A builder at the root of the names.
    pub fn builder(&mut self) -> Builder<'_> {
        Builder { store: self, path: String::new() }
    }
}

/// Registers parameters under a path, as in `builder.at("experts").at(0)`.
pub struct Builder<'a> {
    store: &'a mut ParamStore,
    path: String,
}

impl Builder<'_> {
    /// The builder for a child path.
    pub fn at(&mut self, name: impl std::fmt::Display) -> Builder<'_> {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Builder { store: self.store, path }
    }

    /// Registers a parameter.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let _ = (name, shape, init, self.store.seed, &self.path);
        todo!()
    }
}
