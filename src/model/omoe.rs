//! One-gate mixture of experts (the baseline of Ma et al., KDD 2018): h = Σ_e softmax(V x)_e f_e(x),
//! ŷ_k = T_k(h). Its options are those of [`super::mmoe`].

use super::{InputLayer, InputSpec, Model, OnFeatures, mmoe};
use crate::config::Component;
use crate::error::Result;
use crate::nn::ParamStore;

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let input = InputLayer::new(spec, &component.kind)?;
    let head = Box::new(mmoe::head(component, spec, input.width(), &["shared".to_string()], store)?);
    Ok(Box::new(OnFeatures { input, head }))
}
