//! The architectures by name.

use super::{InputSpec, Model, cgc, mf, mmoe, omoe, ple, shared_bottom};
use crate::config::{Component, unknown_kind};
use crate::error::Result;
use crate::nn::ParamStore;

/// Registers a model's parameters in the store, writes the resolved options into the component and returns
/// the model.
type Build = fn(&mut Component, &InputSpec, &mut ParamStore) -> Result<Box<dyn Model>>;

/// Kinds in alphabetical order.
const KINDS: &[(&str, Build)] = &[
    ("cgc", cgc::build),
    ("mf", mf::build),
    ("mmoe", mmoe::build),
    ("omoe", omoe::build),
    ("ple", ple::build),
    ("shared_bottom", shared_bottom::build),
];

/// Builds the architecture that `component` (the job's `model:`) names for this input. Fills the component's
/// options with all defaults, for the resolved job.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    match KINDS.iter().find(|(kind, _)| *kind == component.kind) {
        Some((_, build)) => build(component, spec, store),
        None => {
            let kinds: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            Err(unknown_kind("model", &component.kind, &kinds))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_names_the_nearest_and_all() {
        let spec = InputSpec::default();
        let error = |kind: &str| {
            let built = build(&mut Component::named(kind), &spec, &mut ParamStore::new(0));
            built.err().unwrap().to_string()
        };
        let message = error("mmeo");
        assert!(message.contains("`mmeo`") && message.contains("did you mean `mmoe`?"), "{message}");
        assert!(message.contains("shared_bottom"), "{message}");
        assert!(error("transformer").contains("the kinds are: cgc, mf, mmoe"));
    }

    #[test]
    fn kinds_are_in_order() {
        assert!(KINDS.is_sorted_by_key(|(kind, _)| *kind));
    }
}
