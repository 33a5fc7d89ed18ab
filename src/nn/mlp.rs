//! Hidden layers: Linear → (norm) → activation → dropout, repeated.

#[cfg(target_arch = "x86_64")]
use super::stack;
use super::{Activation, Builder, Context, Finish, Linear};
use crate::error::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// What normalises the columns between a linear layer and its activation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Nothing.
    #[default]
    None,
    /// [`BatchNorm`](super::BatchNorm).
    Batch,
    /// [`LayerNorm`](super::LayerNorm).
    Layer,
}

/// How every hidden layer of a model is finished.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Style {
    /// Activation.
    pub activation: Activation,
    /// Dropout rate, in [0, 1).
    pub dropout: f64,
    /// Normalisation.
    pub norm: NormKind,
}

impl Style {
    /// The style with these options, if the dropout rate is one.
    pub fn new(activation: Activation, dropout: f64, norm: NormKind) -> Result<Self> {
        if (0.0..1.0).contains(&dropout) {
            return Ok(Self { activation, dropout, norm });
        }
        Err(Error::job(format!("a dropout rate of {dropout} keeps nothing or makes no sense"))
            .at("key", "model.dropout")
            .fix("give the probability of dropping a unit: 0 (off) or more, and below 1"))
    }
}

/// A stack of hidden layers, or G stacks side by side (the experts of a mixture).
#[derive(Debug, Clone)]
pub struct Mlp {
    layers: Vec<Layer>,
    width: usize,
}

#[derive(Debug, Clone)]
struct Layer {
    linear: Linear,
    finish: Finish,
}

impl Mlp {
    /// One stack from `input` columns through hidden layers of `widths`; none: the identity.
    pub fn new(builder: Builder, input: usize, widths: &[usize], style: Style) -> Result<Self> {
        Self::grouped(builder, 1, input, widths, style)
    }

    /// `groups` stacks that all read the same `input` columns. Their outputs stand side by side; `widths` are
    /// those of one stack.
    pub fn grouped(mut builder: Builder, groups: usize, input: usize, widths: &[usize], style: Style) -> Result<Self> {
        let mut layers = Vec::new();
        let mut before = None;
        for (i, &width) in widths.iter().enumerate() {
            if width == 0 || groups == 0 {
                return Err(Error::job(format!("layer {i} of `{}` has width 0", builder.path()))
                    .at("key", "model")
                    .fix("give every layer at least one unit"));
            }
            layers.push(Layer::new(builder.at(i), groups, before.unwrap_or(Before::Shared(input)), width, style)?);
            before = Some(Before::Own(width));
        }
        let width = widths.last().map_or(input, |width| groups * width);
        Ok(Self { layers, width })
    }

    /// Whether it has no layer, and is the identity.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Columns of the output: `groups ×` the last width.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `[B, input]` → `[B, width]`.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        #[cfg(target_arch = "x86_64")]
        if let Some(y) = self.plain_layers(context).and_then(|layers| stack::forward(&layers, x, context)) {
            return y;
        }
        self.forward_with(x, context, |_, y| Ok(y))
    }

    /// [`Mlp::forward`], where the next layer reads what `after` makes of a layer's number and output.
    pub fn forward_with(
        &self,
        x: &Tensor,
        context: &Context,
        after: impl Fn(usize, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.layers.iter().enumerate().try_fold(x.clone(), |x, (i, layer)| after(i, layer.forward(&x, context)?))
    }
}

#[cfg(target_arch = "x86_64")]
impl Mlp {
    /// The linear layers, if there is nothing between them now.
    fn plain_layers(&self, context: &Context) -> Option<Vec<&Linear>> {
        let plain = |layer: &Layer| layer.finish.is_nothing(context);
        self.layers.iter().all(plain).then(|| self.layers.iter().map(|layer| &layer.linear).collect())
    }
}

/// What the groups of a layer read.
#[derive(Clone, Copy)]
enum Before {
    /// All the same columns.
    Shared(usize),
    /// Each its own.
    Own(usize),
}

impl Layer {
    fn new(mut builder: Builder, groups: usize, before: Before, width: usize, style: Style) -> Result<Self> {
        let finish = Finish::new(&mut builder, groups, width, style)?;
        let activation = Finish::of_product(style);
        let linear = match before {
            // One matrix product for all groups.
            Before::Shared(input) => Linear::new(builder, input, groups * width, activation)?,
            Before::Own(input) => Linear::grouped(builder, groups, input, width, activation)?,
        };
        Ok(Self { linear, finish })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        self.finish.forward(self.linear.forward(x, context)?, context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ParamStore;
    use super::super::testing::{assert_close, context, numbers, random};
    use super::*;

    fn style(norm: NormKind) -> Style {
        Style { activation: Activation::Tanh, dropout: 0.0, norm }
    }

    #[test]
    fn no_layers_are_the_identity() {
        let mut store = ParamStore::new(0);
        let mlp = Mlp::new(store.builder(), 3, &[], Style::default()).unwrap();
        let x = random(&[2, 3], 1);
        assert_eq!((mlp.width(), numbers(&mlp.forward(&x, &context(true, 2)).unwrap())), (3, numbers(&x)));
        assert!(store.is_empty());
    }

    #[test]
    fn grouped_stacks_equal_separate_stacks_with_the_same_parameters() {
        let (groups, input, widths) = (3, 5, [4, 2]);
        let x = random(&[6, input], 1);
        for norm in [NormKind::None, NormKind::Layer, NormKind::Batch] {
            let mut store = ParamStore::new(4);
            let together = Mlp::grouped(store.builder(), groups, input, &widths, style(norm)).unwrap();
            let y = numbers(&together.forward(&x, &context(true, 6)).unwrap());
            for group in 0..groups {
                let mut own = ParamStore::new(4);
                let mlp = Mlp::new(own.builder(), input, &widths, style(norm)).unwrap();
                for (i, name) in own.names().iter().enumerate() {
                    let values = of_group(&store, name, group, groups, own.range(i).len());
                    own.load(i, &values).unwrap();
                }
                let alone = numbers(&mlp.forward(&x, &context(true, 6)).unwrap());
                let block: Vec<f64> = y.chunks(groups * 2).flat_map(|row| row[group * 2..][..2].to_vec()).collect();
                assert_close(&block, &alone, 1e-5, "group");
            }
        }
    }

    /// The values of one group's parameter: columns of the first layer's matrix, else a contiguous block.
    fn of_group(store: &ParamStore, name: &str, group: usize, groups: usize, len: usize) -> Vec<f32> {
        let index = store.names().iter().position(|n| n == name).unwrap();
        let mut all = vec![0.0; store.range(index).len()];
        store.read(index, &mut all).unwrap();
        if name != "0.weight" {
            return all[group * len..(group + 1) * len].to_vec();
        }
        let width = store.vars()[index].dims()[1] / groups;
        all.chunks(groups * width).flat_map(|row| row[group * width..][..width].to_vec()).collect()
    }

    #[test]
    fn impossible_options_are_refused() {
        for rate in [-0.1, 1.0, f64::NAN] {
            assert!(Style::new(Activation::Relu, rate, NormKind::None).unwrap_err().to_string().contains("dropout"));
        }
        let error = Mlp::new(ParamStore::new(0).builder().at("bottom"), 3, &[4, 0], Style::default()).unwrap_err();
        assert!(error.to_string().contains("layer 1 of `bottom`"), "{error}");
    }

    #[test]
    fn dropout_follows_the_activation_of_every_layer() {
        let mut store = ParamStore::new(0);
        let style = Style { activation: Activation::Sigmoid, dropout: 0.5, norm: NormKind::None };
        let mlp = Mlp::new(store.builder(), 3, &[40], style).unwrap();
        let y = numbers(&mlp.forward(&random(&[10, 3], 1), &context(true, 10)).unwrap());
        let zeros = y.iter().filter(|&&v| v == 0.0).count();
        assert!((100..300).contains(&zeros), "{zeros} of 400");
    }
}
