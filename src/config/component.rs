//! A component chosen by name: `{kind: cagrad, c: 0.4}`.

use super::explain;
use super::suggest::suggest;
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

/// A `kind` and its options, not yet parsed: the file that implements the kind parses them with
/// [`Component::options`], so adding a kind touches no configuration code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// The registered name, such as `mmoe`.
    pub kind: String,
    /// Every other key of the mapping.
    #[serde(flatten)]
    pub options: Mapping,
}

impl Component {
    /// A component with default options.
    pub fn named(kind: &str) -> Self {
        Self { kind: kind.to_string(), options: Mapping::new() }
    }

    /// Parses the options into `T`, which should `deny_unknown_fields`. `key` is the component's place
    /// in the job (`balance`, `optimizer.dense`), for the message.
    pub fn options<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        explain::read(Value::Mapping(self.options.clone()), key).map_err(|error| error.at("kind", &self.kind))
    }

    /// Replaces the options by `resolved` (all defaults filled in), for the resolved job that is printed
    /// and saved.
    pub fn resolve<T: Serialize>(&mut self, resolved: &T) -> Result<()> {
        match serde_yaml::to_value(resolved) {
            Ok(Value::Mapping(options)) => {
                self.options = options;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(Error::internal(format!("options of {} cannot be written: {error}", self.kind))),
        }
    }
}

/// The error for a component at `key` whose kind `given` is not one of `known`.
pub fn unknown_kind(key: &str, given: &str, known: &[&str]) -> Error {
    Error::job(format!("unknown kind `{given}`")).at("key", format!("{key}.kind")).fix(suggest(given, known, "kinds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        #[serde(default)]
        c: f64,
        #[serde(default)]
        rounds: usize,
    }

    fn component(yaml: &str) -> Component {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn options_are_read_and_resolved() {
        let mut component = component("{kind: cagrad, c: 0.4}");
        let options: Options = component.options("balance").unwrap();
        assert_eq!(options, Options { c: 0.4, rounds: 0 });
        component.resolve(&options).unwrap();
        assert_eq!(serde_yaml::to_string(&component).unwrap(), "kind: cagrad\nc: 0.4\nrounds: 0\n");
    }

    #[test]
    fn a_wrong_option_names_key_and_kind() {
        let error = component("{kind: cagrad, round: 3}").options::<Options>("balance").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown key `round` (key balance.round, kind cagrad)\n  fix: did you mean `rounds`? the keys here are: c, rounds"
        );
    }

    #[test]
    fn an_unknown_kind_names_the_nearest() {
        assert_eq!(
            unknown_kind("model", "mmoee", &["mmoe", "ple"]).to_string(),
            "unknown kind `mmoee` (key model.kind)\n  fix: did you mean `mmoe`? the kinds are: mmoe, ple"
        );
    }
}
