//! The architectures by name.

use super::{
    InputSpec, Model, aitm, cgc, dtrn, esmm, llm4msr, m2m, mf, mmoe, mpt, omoe, pepnet, pf_msmtrec, ple, shared_bottom,
    single_task, star, stem,
};
use crate::config::{Component, unknown_kind};
use crate::error::{Error, Result};
use crate::nn::ParamStore;
use std::sync::{PoisonError, RwLock};

/// Registers a model's parameters in the store, writes the resolved options into the component and returns
/// the model.
pub type Build = fn(&mut Component, &InputSpec, &mut ParamStore) -> Result<Box<dyn Model>>;

/// Kinds in alphabetical order.
const KINDS: &[(&str, Build)] = &[
    ("aitm", aitm::build),
    ("cgc", cgc::build),
    ("dtrn", dtrn::build),
    ("esmm", esmm::build),
    ("llm4msr", llm4msr::build),
    ("m2m", m2m::build),
    ("mf", mf::build),
    ("mmoe", mmoe::build),
    ("mpt", mpt::build),
    ("omoe", omoe::build),
    ("pepnet", pepnet::build),
    ("pf_msmtrec", pf_msmtrec::build),
    ("ple", ple::build),
    ("shared_bottom", shared_bottom::build),
    ("single_task", single_task::build),
    ("star", star::build),
    ("stem", stem::build),
];

/// Names of tandem's own architectures.
pub fn kinds() -> Vec<&'static str> {
    KINDS.iter().map(|(kind, _)| *kind).collect()
}

/// The sets of embedding tables that an architecture wants, by name: in each set every feature has its own rows. The
/// tables of the set `click` are called `item.click`; the nameless set has the tables of the job as they are, and is all
/// that most architectures read.
///
/// # Errors
/// Options that the kind does not know.
pub fn table_sets(component: &Component, tasks: &[String]) -> Result<Vec<String>> {
    match component.kind.as_str() {
        "single_task" => single_task::table_sets(component, tasks),
        "stem" => Ok(stem::table_sets(tasks)),
        _ => Ok(vec![String::new()]),
    }
}

/// The name of a table, or of a feature, in a set ([`table_sets`]).
pub fn in_set(name: &str, set: &str) -> String {
    if set.is_empty() { name.to_string() } else { format!("{name}.{set}") }
}

/// Kinds of other crates. They belong to the process, as a job and a checkpoint name a kind and nothing more.
static ADDED: RwLock<Vec<(&str, Build)>> = RwLock::new(Vec::new());

/// Adds an architecture of another crate, so that jobs and checkpoints of this process may name its `kind`: to be
/// called before the first of them is read.
///
/// # Errors
/// If there is an architecture of this name.
pub fn register(kind: &'static str, build: Build) -> Result<()> {
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    if KINDS.iter().chain(added.iter()).any(|(known, _)| *known == kind) {
        return Err(Error::internal(format!("there is an architecture `{kind}` already")));
    }
    added.push((kind, build));
    Ok(())
}

/// Builds the architecture that `component` (the job's `model:`) names for this input. Fills the component's
/// options with all defaults, for the resolved job.
pub fn build(component: &mut Component, spec: &InputSpec, store: &mut ParamStore) -> Result<Box<dyn Model>> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner).clone();
    let kinds = || KINDS.iter().chain(&added);
    match kinds().find(|(kind, _)| *kind == component.kind) {
        Some((_, build)) => build(component, spec, store),
        None => Err(unknown_kind("model", &component.kind, &kinds().map(|(kind, _)| *kind).collect::<Vec<_>>())),
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
        assert!(error("transformer").contains("the kinds are: aitm, cgc, "));
    }

    #[test]
    fn a_kind_is_added_once_and_under_a_new_name() {
        register("of_this_test", mf::build).unwrap();
        let error = register("of_this_test", mf::build).unwrap_err();
        assert!(error.to_string().contains("`of_this_test` already"), "{error}");
        assert!(register("mmoe", mf::build).is_err());
        let built = build(&mut Component::named("of_this_test"), &InputSpec::default(), &mut ParamStore::new(0));
        assert!(built.err().unwrap().to_string().contains("`mf` learns relations"), "its own build is called");
    }

    #[test]
    fn kinds_are_in_order() {
        assert!(KINDS.is_sorted_by_key(|(kind, _)| *kind));
    }
}
