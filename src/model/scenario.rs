//! What the multi-scenario architectures have in common.

use super::InputSpec;
use crate::error::{Error, Result};
use crate::nn::{Builder, Context, Init, by_scenario, with_mean_row};
use candle_core::Tensor;
use std::sync::Arc;

/// A learnt vector for each scenario; "other" has the mean of them all.
#[derive(Debug, Clone)]
pub struct ScenarioEmbedding {
    table: Tensor,
}

impl ScenarioEmbedding {
    /// Vectors of `dim` numbers, uniform between ±1/√dim at first.
    pub fn new(mut builder: Builder, scenarios: usize, dim: usize) -> Result<Self> {
        let table = builder.param("embedding", &[scenarios, dim], Init::fan_in(dim))?;
        Ok(Self { table })
    }

    /// By number, "other" last: `[S + 1, dim]`.
    pub fn table(&self, context: &Context) -> Result<Tensor> {
        with_mean_row(&self.table, context)
    }

    /// Of each row: `[B, dim]`.
    pub fn forward(&self, scenarios: &Arc<[u32]>, context: &Context) -> Result<Tensor> {
        by_scenario(&self.table(context)?, scenarios, context)
    }
}

/// How many scenarios there are without "other"; an error where the job has none, which `kind` cannot do without.
pub fn count(spec: &InputSpec, kind: &str) -> Result<usize> {
    match spec.scenarios.len() {
        0 => Err(Error::job(format!("`{kind}` needs to know the scenario of each row"))
            .at("key", "model.kind")
            .fix("name its column in `data.scenario`, or choose an architecture without scenarios")),
        count => Ok(count),
    }
}
