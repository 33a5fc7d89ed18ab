//! PEPNet (Chang et al., KDD 2023): gates that personalise the input by scenario (EPNet) and the layers of each task's
//! tower by user and item (PPNet).
//!
//! ```text
//! gate(u) = 2 σ(W₂ relu(W₁ u + c₁) + c₂)               eqs. 1 and 2: between 0 and 2, 1 at 0
//! e' = gate([e_s; d; sg(e)]) ⊙ e                       EPNet: e the input, e_s the scenario's embedding, d domain fields
//! h ← gate_{k,l}([p; sg(e')]) ⊙ layer_{k,l}(h)         PPNet: p personal fields, for task k and layer l, from h = e'
//! logit_k = W_k h + c_k                                sg: no gradient goes through
//! ```
//!
//! The scenario "other" has the mean of the scenarios' embeddings.

use super::parts::at_least_one;
use super::scenario::ScenarioEmbedding;
use super::{Input, InputLayer, InputSpec, Model, Output};
use crate::config::{Component, suggest};
use crate::error::{Error, Result};
use crate::nn::{
    Activation, Builder, Context, Linear, Mlp, NormKind, ParamStore, Style, columns, concat, multiply, stop_gradient,
};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Options of `{kind: pepnet}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Whether the input is gated by scenario. Default true.
    pub epnet: bool,
    /// Whether the layers of the towers are gated. Default true.
    pub ppnet: bool,
    /// Numbers of a scenario's embedding, which EPNet's gate reads; there is one with `data.scenario`. Default 16.
    pub scenario_dim: usize,
    /// Pooled features whose embeddings EPNet's gate reads besides. Default `[]`.
    pub domain: Vec<String>,
    /// Pooled features whose embeddings PPNet's gates read: user, item, author. Default `[]`.
    pub personal: Vec<String>,
    /// Hidden width of every gate. Default 64.
    pub gate: usize,
    /// Hidden widths of each task's tower. Default `[256, 128, 64]`.
    pub tower: Vec<usize>,
    /// Activation of hidden layers. Default `relu`.
    pub activation: Activation,
    /// Dropout rate of hidden layers. Default 0.
    pub dropout: f64,
    /// Normalisation of hidden layers. Default `none`.
    pub norm: NormKind,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            epnet: true,
            ppnet: true,
            scenario_dim: 16,
            domain: Vec::new(),
            personal: Vec::new(),
            gate: 64,
            tower: vec![256, 128, 64],
            activation: Activation::Relu,
            dropout: 0.0,
            norm: NormKind::None,
        }
    }
}

/// See the module.
pub struct PepNet {
    input: InputLayer,
    epnet: Option<EpNet>,
    personal: Fields,
    towers: Vec<Tower>,
}

/// Columns of the input, by first column and width.
struct Fields(Vec<(usize, usize)>);

/// The gate of the input.
struct EpNet {
    scenarios: Option<ScenarioEmbedding>,
    domain: Fields,
    gate: Gate,
}

/// One task's layers, each with its gate.
struct Tower {
    hidden: Mlp,
    /// None without PPNet.
    gates: Vec<Gate>,
    logits: Linear,
}

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let options: Options = component.options("model")?;
    component.resolve(&options)?;
    at_least_one(options.gate, "gate")?;
    at_least_one(options.scenario_dim, "scenario_dim")?;
    let style = Style::new(options.activation, options.dropout, options.norm)?;
    let input = InputLayer::new(spec, &component.kind)?;
    let epnet = match options.epnet {
        true => Some(EpNet::new(store.builder().at("epnet"), spec, input.width(), &options)?),
        false => None,
    };
    let personal = Fields::named(spec, &options.personal, "personal")?;
    let prior = personal.width() + input.width();
    let mut towers = Vec::new();
    for (task, &outputs) in spec.tasks.iter().zip(&spec.outputs) {
        let mut builder = store.builder();
        let mut builder = builder.at("towers");
        let mut builder = builder.at(task);
        let hidden = Mlp::new(builder.at("hidden"), input.width(), &options.tower, style)?;
        let gated = options.tower.iter().enumerate().filter(|_| options.ppnet);
        let gate = |(layer, &width)| Gate::new(builder.at("gates").at(layer), prior, options.gate, width);
        let gates = gated.map(gate).collect::<Result<_>>()?;
        let logits = Linear::new(builder.at("logits"), hidden.width(), outputs, Activation::None)?;
        towers.push(Tower { hidden, gates, logits });
    }
    Ok(Box::new(PepNet { input, epnet, personal, towers }))
}

impl Model for PepNet {
    fn forward(&self, input: &Input, context: &Context) -> Result<Output> {
        let x = self.input.forward(input, context)?;
        let e = match &self.epnet {
            Some(epnet) => epnet.forward(&x, input, context)?,
            None => x.clone(),
        };
        let mut prior = self.personal.of(&x, context)?;
        prior.push(stop_gradient(&e)?);
        let prior = concat(&context.graph, &prior)?;
        let logits = self.towers.iter().map(|tower| tower.forward(&e, &prior, context)).collect::<Result<_>>()?;
        Ok(Output::new(logits, vec![e]))
    }
}

impl EpNet {
    fn new(mut builder: Builder, spec: &InputSpec, input: usize, options: &Options) -> Result<Self> {
        let domain = Fields::named(spec, &options.domain, "domain")?;
        if spec.scenarios.is_empty() && options.domain.is_empty() {
            return Err(Error::job("EPNet gates by scenario, and this job names none")
                .at("key", "model.epnet")
                .fix("name the column in `data.scenario`, or features in `domain`, or set `epnet: false`"));
        }
        let (scenarios, dim) = match spec.scenarios.len() {
            0 => (None, 0),
            count => (
                Some(ScenarioEmbedding::new(builder.at("scenarios"), count, options.scenario_dim)?),
                options.scenario_dim,
            ),
        };
        let gate = Gate::new(builder.at("gate"), dim + domain.width() + input, options.gate, input)?;
        Ok(Self { scenarios, domain, gate })
    }

    fn forward(&self, x: &Tensor, input: &Input, context: &Context) -> Result<Tensor> {
        let mut read = self.domain.of(x, context)?;
        if let Some(scenarios) = &self.scenarios {
            read.insert(0, scenarios.forward(&input.scenarios, context)?);
        }
        read.push(stop_gradient(x)?);
        self.gate.forward(x, &concat(&context.graph, &read)?, context)
    }
}

impl Tower {
    fn forward(&self, e: &Tensor, prior: &Tensor, context: &Context) -> Result<Tensor> {
        let hidden = self.hidden.forward_with(e, context, |layer, h| match self.gates.get(layer) {
            Some(gate) => gate.forward(&h, prior, context),
            None => Ok(h),
        })?;
        self.logits.forward(&hidden, context)
    }
}

impl Fields {
    /// Those of these names; `key` is the option that lists them.
    fn named(spec: &InputSpec, names: &[String], key: &str) -> Result<Self> {
        let field = |name: &String| {
            let found = spec.fields.iter().find(|field| field.name == *name);
            found.map(|field| (field.start, field.width)).ok_or_else(|| {
                let known: Vec<&str> = spec.fields.iter().map(|field| field.name.as_str()).collect();
                Error::job(format!("`{name}` is no pooled feature")).at("key", format!("model.{key}")).fix(suggest(
                    name,
                    &known,
                    "pooled features",
                ))
            })
        };
        names.iter().map(field).collect::<Result<_>>().map(Self)
    }

    fn width(&self) -> usize {
        self.0.iter().map(|(_, width)| width).sum()
    }

    /// Their columns of the input, of which the pooled embeddings are the first.
    fn of(&self, x: &Tensor, context: &Context) -> Result<Vec<Tensor>> {
        self.0.iter().map(|&(start, width)| columns(&context.graph, x, start, width)).collect()
    }
}

/// gate(u), see the module.
struct Gate {
    hidden: Linear,
    scores: Linear,
    gamma: Tensor,
}

impl Gate {
    /// The largest value of a gate (γ in the paper), twice its value at 0.
    const GAMMA: f32 = 2.0;

    fn new(mut builder: Builder, input: usize, hidden: usize, width: usize) -> Result<Self> {
        Ok(Self {
            hidden: Linear::new(builder.at("hidden"), input, hidden, Activation::Relu)?,
            scores: Linear::new(builder.at("scores"), hidden, width, Activation::Sigmoid)?,
            gamma: Tensor::new(&[Self::GAMMA], &Device::Cpu)?,
        })
    }

    /// gate(u) ⊙ h: `[B, width]`.
    fn forward(&self, h: &Tensor, u: &Tensor, context: &Context) -> Result<Tensor> {
        let gate = self.scores.forward(&self.hidden.forward(u, context)?, context)?;
        multiply(&multiply(h, &gate, context)?, &self.gamma, context)
    }
}
