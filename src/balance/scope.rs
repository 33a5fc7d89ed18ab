//! `balance.scope`: which gradients of the tasks a method compares.

use super::KEY;
use crate::config::{Component, suggest};
use crate::error::{Error, Result};
use serde_yaml::Value;

/// Which gradients of the tasks a method compares. Each is summed over the whole cluster before it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Of the dense parameters that two or more losses reach.
    Shared,
    /// Of the last representation that the tasks share: each task is pulled back through its own head only, and
    /// the weighted sum once through the trunk. The Gram matrix is a sum over rows, so ranks need to exchange no
    /// more than itself.
    Representation,
    /// Of the matrices of the last layer that the tasks share, before that representation: GradNorm's choice.
    LastLayer,
    /// Of the shared dense parameters and of the rows of the embedding tables, which their owners compare.
    SharedAndRows,
}

/// Every scope by name.
const NAMES: [(&str, Scope); 4] = [
    ("shared", Scope::Shared),
    ("representation", Scope::Representation),
    ("last_layer", Scope::LastLayer),
    ("shared+rows", Scope::SharedAndRows),
];

/// Where the option stands among a method's own.
const OPTION: &str = "scope";

impl Scope {
    /// As written in a job.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, scope)| *scope == self).map_or("", |(name, _)| name)
    }

    /// Takes the option out of the component, so that the method's file sees only its own.
    ///
    /// # Errors
    /// Not the name of a scope.
    pub(super) fn take(component: &mut Component) -> Result<Option<Self>> {
        let Some(value) = component.options.remove(OPTION) else { return Ok(None) };
        let given = value.as_str().unwrap_or_default();
        match NAMES.iter().find(|(name, _)| *name == given) {
            Some((_, scope)) => Ok(Some(*scope)),
            None => {
                let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                let shown = serde_yaml::to_string(&value).unwrap_or_default();
                Err(Error::job(format!("unknown scope `{}`", shown.trim()))
                    .at("key", format!("{KEY}.{OPTION}"))
                    .fix(suggest(given, &names, "scopes")))
            }
        }
    }

    /// The wanted scope if `kind` knows it, else its usual one, which is the first of those it `allowed`; writes it
    /// into the component. None where a method compares no gradients.
    ///
    /// # Errors
    /// A scope that makes no sense for the method.
    pub(super) fn settle(wanted: Option<Self>, allowed: &[Self], component: &mut Component) -> Result<Option<Self>> {
        let refuse = |fix: String| {
            let what = format!("`{}` cannot use this scope", component.kind);
            Err(Error::job(what).at("key", format!("{KEY}.{OPTION}")).fix(fix))
        };
        let scope = match (wanted, allowed) {
            (None, []) => return Ok(None),
            (Some(_), []) => return refuse("leave it out: this method needs only the losses".to_string()),
            (None, [usual, ..]) => *usual,
            (Some(wanted), _) if allowed.contains(&wanted) => wanted,
            _ => {
                let names: Vec<&str> = allowed.iter().map(|scope| scope.name()).collect();
                return refuse(format!("use {}", names.join(" or ")));
            }
        };
        component.options.insert(OPTION.into(), Value::from(scope.name()));
        Ok(Some(scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::build;
    use crate::balance::testing::{names, try_method};

    fn scope_of(job: &str) -> std::result::Result<Option<Scope>, String> {
        try_method(job, 3).map(|balance| balance.scope).map_err(|e| e.to_string())
    }

    #[test]
    fn the_usual_scope_is_the_shared_parameters_and_losses_have_none() {
        assert_eq!(scope_of("{kind: mgda}"), Ok(Some(Scope::Shared)));
        assert_eq!(scope_of("{kind: uniform}"), Ok(None));
        assert_eq!(scope_of("{kind: cagrad, scope: representation}"), Ok(Some(Scope::Representation)));
        assert_eq!(scope_of("{kind: pcgrad, scope: shared+rows}"), Ok(Some(Scope::SharedAndRows)));
        let mut component = Component::named("mgda");
        build(&mut component, &names(2)).unwrap();
        assert_eq!(component.options.get("scope").and_then(Value::as_str), Some("shared"));
    }

    #[test]
    fn a_scope_that_makes_no_sense_is_refused_with_those_that_do() {
        let error = scope_of("{kind: uniform, scope: shared}").unwrap_err();
        assert!(error.contains("needs only the losses") && error.contains("balance.scope"), "{error}");
        let error = scope_of("{kind: mgda, scope: last_layer}").unwrap_err();
        assert!(error.contains("use shared or representation or shared+rows"), "{error}");
        assert_eq!(scope_of("{kind: gradnorm, scope: last_layer}"), Ok(Some(Scope::LastLayer)));
        let error = scope_of("{kind: mgda, scope: share}").unwrap_err();
        assert!(error.contains("did you mean `shared`"), "{error}");
    }
}
