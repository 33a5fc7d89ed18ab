//! Named dense parameters, and the flat vector that the step exchanges.
//!
//! ```text
//! names    experts.0.weight   experts.0.bias   …   towers.click.1.bias
//! vars     [in, out] f32      [out]                [1]
//! flat     |────range(0)─────|──range(1)───| … |──range(n − 1)──|        len() floats
//! ```

use crate::error::{Error, Result};
use crate::random;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, Var};
use rand::Rng;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// Initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All this number.
    Constant(f32),
    /// Uniform in [−bound, bound).
    Uniform(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
}

impl Init {
    /// Uniform in ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16).
    pub fn glorot(fan_in: usize, fan_out: usize) -> Self {
        Self::Uniform((6.0 / (fan_in + fan_out).max(1) as f32).sqrt())
    }

    /// Uniform in ±√(1 / fan_in): PyTorch's default for the weights and biases of a linear layer.
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform((1.0 / fan_in.max(1) as f32).sqrt())
    }

    /// `count` values, a pure function of `(seed, name)`.
    fn values(self, seed: u64, name: &str, count: usize) -> Vec<f32> {
        let mut stream = random::stream(seed, &[random::text("dense parameter"), random::text(name)]);
        match self {
            Self::Zeros => vec![0.0; count],
            Self::Ones => vec![1.0; count],
            Self::Constant(value) => vec![value; count],
            Self::Uniform(bound) => (0..count).map(|_| (stream.random::<f32>() * 2.0 - 1.0) * bound).collect(),
            Self::Normal(std) => {
                (0..count).map(|_| std * stream.sample::<f32, _>(rand_distr::StandardNormal)).collect()
            }
        }
    }
}

/// State of a layer that is not trained, such as batch norm's running mean: a shared handle.
#[derive(Debug, Clone)]
pub struct Buffer(Rc<RefCell<Vec<f32>>>);

impl Buffer {
    /// A copy of the values.
    pub fn get(&self) -> Vec<f32> {
        self.0.borrow().clone()
    }

    /// Replaces the values; the length must stay the same.
    pub fn set(&self, values: &[f32]) -> Result<()> {
        let mut held = self.0.borrow_mut();
        if held.len() != values.len() {
            return Err(Error::internal(format!("a buffer of {} values cannot take {}", held.len(), values.len())));
        }
        held.copy_from_slice(values);
        Ok(())
    }
}

/// All dense parameters of a model in order of registration, and its buffers (state that is not trained,
/// such as batch norm's running moments).
#[derive(Debug, Default)]
pub struct ParamStore {
    seed: u64,
    names: Vec<String>,
    vars: Vec<Var>,
    buffer_names: Vec<String>,
    buffers: Vec<Buffer>,
    ranges: Vec<Range<usize>>,
    frozen: Vec<bool>,
    freezes: Freezes,
    /// λ of each parameter; those after the end have 0.
    l2: Vec<f64>,
}

/// Says by name and shape whether a parameter is to stay as it is.
type Rule = Box<dyn Fn(&str, &[usize]) -> bool>;

/// A rule, if there is one.
#[derive(Default)]
struct Freezes(Option<Rule>);

impl fmt::Debug for Freezes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "some" } else { "none" })
    }
}

impl ParamStore {
    /// An empty store; initial values are a pure function of `(seed, parameter name)`.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Freezes those parameters to come of which `freezes` says so by their name and shape. A frozen parameter is a plain
    /// tensor to the layer that registers it: no gradient goes to it, nor through what is made of frozen things alone.
    #[must_use]
    pub fn freezing(mut self, freezes: impl Fn(&str, &[usize]) -> bool + 'static) -> Self {
        self.freezes = Freezes(Some(Box::new(freezes)));
        self
    }

    /// Whether the parameter `index` stays as it is.
    pub fn is_frozen(&self, index: usize) -> bool {
        self.frozen[index]
    }

    /// Adds ½ `l2` ‖W‖² to the loss for those parameters W so far of whose names `of` says so.
    pub fn penalise(&mut self, l2: f64, of: impl Fn(&str) -> bool) {
        self.l2.resize(self.names.len(), 0.0);
        self.names.iter().zip(&mut self.l2).filter(|(name, _)| of(name)).for_each(|(_, known)| *known = l2);
    }

    /// λ of ½ λ ‖W‖² for the parameter `index`.
    pub fn l2(&self, index: usize) -> f64 {
        self.l2.get(index).copied().unwrap_or(0.0)
    }

    /// Number of floats over all parameters that are not frozen.
    pub fn trained_len(&self) -> usize {
        self.ranges.iter().zip(&self.frozen).filter(|(_, frozen)| !**frozen).map(|(range, _)| range.len()).sum()
    }

    /// Names, such as `experts.0.weight`, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The variables, in order.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Where the parameter `index` stands in the flat vector of all parameters.
    pub fn range(&self, index: usize) -> Range<usize> {
        self.ranges[index].clone()
    }

    /// Number of floats over all parameters.
    pub fn len(&self) -> usize {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.vars.is_empty()
    }

    /// Overwrites the parameter `index`; every layer that uses it sees the new values.
    pub fn load(&self, index: usize, values: &[f32]) -> Result<()> {
        self.expect_len(index, values.len())?;
        Ok(self.vars[index].inplace_op1(&Overwrite(values))?)
    }

    /// Copies the parameter `index` into `out`.
    pub fn read(&self, index: usize, out: &mut [f32]) -> Result<()> {
        self.expect_len(index, out.len())?;
        out.copy_from_slice(&super::floats::Floats::of(&self.vars[index])?);
        Ok(())
    }

    /// Hands the gradient of the parameter `index` to `use_it`, unless the loss does not reach the parameter.
    pub fn with_gradient(&self, gradients: &GradStore, index: usize, use_it: impl FnOnce(&[f32])) -> Result<()> {
        if let Some(gradient) = gradients.get(&self.vars[index]) {
            let gradient = gradient.contiguous()?;
            let gradient = super::floats::Floats::of(&gradient)?;
            self.expect_len(index, gradient.len())?;
            use_it(&gradient);
        }
        Ok(())
    }

    fn expect_len(&self, index: usize, len: usize) -> Result<()> {
        let expected = self.ranges[index].len();
        if expected == len {
            return Ok(());
        }
        Err(Error::internal(format!("parameter {} has {expected} values, not {len}", self.names[index])))
    }

    /// Names of the buffers, in order.
    pub fn buffer_names(&self) -> &[String] {
        &self.buffer_names
    }

    /// The buffers, in order.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// A builder at the root of the names.
    pub fn builder(&mut self) -> Builder<'_> {
        Builder { store: self, path: String::new() }
    }
}

/// Copies a slice over a tensor's storage: `Var::set` would need a tensor, hence a second copy.
struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) if end - start == self.0.len() => {
                values[start..end].copy_from_slice(self.0);
                Ok(())
            }
            _ => Err(candle_core::Error::Msg("a parameter is not a contiguous f32 tensor".into())),
        }
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
        let path = self.full(&name.to_string());
        Builder { store: self.store, path }
    }

    /// The path so far, such as `experts.0`; names a layer to random draws.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registers a parameter and returns it; it is an error to register a name twice.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let name = self.full(name);
        if self.store.names.contains(&name) {
            return Err(Error::internal(format!("two layers registered the parameter {name}")));
        }
        let count = shape.iter().product();
        let values = init.values(self.store.seed, &name, count);
        let var = Var::from_vec(values, shape, &Device::Cpu)?;
        let frozen = self.store.freezes.0.as_ref().is_some_and(|freezes| freezes(&name, shape));
        // Both share the variable's memory, so that loading values reaches the layer.
        let tensor = if frozen { var.as_tensor().detach() } else { var.as_tensor().clone() };
        self.store.frozen.push(frozen);
        let start = self.store.len();
        self.store.ranges.push(start..start + count);
        self.store.names.push(name);
        self.store.vars.push(var);
        Ok(tensor)
    }

    /// Registers state that is saved but not trained.
    pub fn buffer(&mut self, name: &str, values: Vec<f32>) -> Result<Buffer> {
        let name = self.full(name);
        if self.store.buffer_names.contains(&name) {
            return Err(Error::internal(format!("two layers registered the buffer {name}")));
        }
        let buffer = Buffer(Rc::new(RefCell::new(values)));
        self.store.buffer_names.push(name);
        self.store.buffers.push(buffer.clone());
        Ok(buffer)
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(store: &ParamStore, index: usize) -> Vec<f32> {
        let mut out = vec![0.0; store.range(index).len()];
        store.read(index, &mut out).unwrap();
        out
    }

    #[test]
    fn initial_values_depend_on_the_seed_and_the_name_only() {
        let build = |seed, names: [&str; 2]| {
            let mut store = ParamStore::new(seed);
            for name in names {
                store.builder().at(name).param("weight", &[3, 2], Init::fan_in(3)).unwrap();
            }
            store
        };
        let (ab, ba) = (build(1, ["a", "b"]), build(1, ["b", "a"]));
        assert_eq!(values(&ab, 0), values(&ba, 1));
        assert_ne!(values(&ab, 0), values(&ab, 1));
        assert_ne!(values(&ab, 0), values(&build(2, ["a", "b"]), 0));
        assert_eq!(ab.names(), ["a.weight", "b.weight"]);
        assert_eq!((ab.range(1), ab.len()), (6..12, 12));
    }

    #[test]
    fn draws_have_the_promised_spread() {
        let n = 20_000;
        let moments = |init: Init| {
            let v = init.values(3, "w", n);
            let mean = v.iter().sum::<f32>() / n as f32;
            (mean, (v.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n as f32).sqrt(), v)
        };
        let (mean, std, drawn) = moments(Init::Uniform(0.5));
        assert!(mean.abs() < 0.01 && (std - 0.5 / 3f32.sqrt()).abs() < 0.01);
        assert!(drawn.iter().all(|v| (-0.5..0.5).contains(v)));
        let (mean, std, _) = moments(Init::Normal(0.2));
        assert!(mean.abs() < 0.01 && (std - 0.2).abs() < 0.01);
        assert_eq!(Init::glorot(2, 4), Init::Uniform(1.0));
        assert_eq!(Init::fan_in(4), Init::Uniform(0.5));
    }

    #[test]
    fn loading_changes_what_layers_see_and_gradients_are_copied_out() {
        let mut store = ParamStore::new(0);
        let used = store.builder().param("used", &[2], Init::Zeros).unwrap();
        store.builder().param("unused", &[1], Init::Ones).unwrap();
        store.load(0, &[3.0, -4.0]).unwrap();
        assert_eq!(used.to_vec1::<f32>().unwrap(), [3.0, -4.0]);

        let gradients = used.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let mut seen = Vec::new();
        store.with_gradient(&gradients, 0, |gradient| seen = gradient.to_vec()).unwrap();
        assert_eq!(seen, [6.0, -8.0]);
        store.with_gradient(&gradients, 1, |_| panic!("the loss does not reach it")).unwrap();
        assert!(store.load(0, &[1.0]).is_err());
    }

    #[test]
    fn a_frozen_parameter_has_no_gradient_and_can_be_loaded() {
        let mut store = ParamStore::new(0).freezing(|name, shape| name == "a.w" && shape == [2]);
        let frozen = store.builder().at("a").param("w", &[2], Init::Ones).unwrap();
        let trained = store.builder().at("b").param("w", &[2], Init::Ones).unwrap();
        store.load(0, &[3.0, 4.0]).unwrap();
        assert_eq!(frozen.to_vec1::<f32>().unwrap(), [3.0, 4.0]);
        assert_eq!((store.is_frozen(0), store.is_frozen(1), store.trained_len()), (true, false, 2));
        let gradients = (&frozen * &trained).unwrap().sum_all().unwrap().backward().unwrap();
        store.with_gradient(&gradients, 0, |_| panic!("it is frozen")).unwrap();
        let mut seen = Vec::new();
        store.with_gradient(&gradients, 1, |gradient| seen = gradient.to_vec()).unwrap();
        assert_eq!(seen, [3.0, 4.0]);
        let mut other = ParamStore::new(0).freezing(|name, shape| name == "a.w" && shape == [3]);
        other.builder().at("a").param("w", &[2], Init::Ones).unwrap();
        assert!(!other.is_frozen(0), "the shape counts");
    }

    #[test]
    fn a_name_is_registered_once() {
        let mut store = ParamStore::new(0);
        store.builder().at("a").param("w", &[1], Init::Zeros).unwrap();
        let error = store.builder().param("a.w", &[1], Init::Zeros).unwrap_err();
        assert!(error.to_string().contains("a.w"), "{error}");
        store.builder().buffer("mean", vec![1.0, 2.0]).unwrap();
        assert!(store.builder().buffer("mean", vec![0.0]).is_err());
    }

    #[test]
    fn buffers_are_shared_with_the_layer() {
        let mut store = ParamStore::new(0);
        let held = store.builder().at("norm").buffer("mean", vec![0.0; 2]).unwrap();
        store.buffers()[0].set(&[1.0, 2.0]).unwrap();
        assert_eq!((held.get(), store.buffer_names()), (vec![1.0, 2.0], &["norm.mean".to_string()][..]));
        assert!(held.set(&[1.0]).is_err());
    }
}
