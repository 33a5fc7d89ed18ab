//! One-gate mixture of experts (the baseline of Ma et al., KDD 2018): h = Σ_e softmax(V x)_e f_e(x),
//! ŷ_k = T_k(h). Its options are those of [`super::mmoe`].

use super::mmoe::Mixture;
use super::{InputSpec, Model};
use crate::config::Component;
use crate::error::Result;
use crate::nn::ParamStore;

/// Builds the model and fills in the component's defaults.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    Ok(Box::new(Mixture::build(component, spec, store, &["shared".to_string()])?))
}
