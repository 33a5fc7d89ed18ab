//! A component chosen by name: `{kind: cagrad, c: 0.4}`.

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
        serde_path_to_error::deserialize(Value::Mapping(self.options.clone())).map_err(|error| {
            let path = error.path().to_string();
            let place = if path == "." { key.to_string() } else { format!("{key}.{path}") };
            super::locate::key_error(&error.into_inner().to_string(), &place).at("kind", &self.kind)
        })
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
