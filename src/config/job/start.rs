//! `init_from:` and `freeze:`, where a run begins and what it leaves as it is.

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;

/// `init_from:`: a checkpoint of another run, whose parameters and tables this one begins with. A path stands for
/// `{checkpoint: PATH}`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(transform = crate::config::schema::path_or_mapping)]
pub struct InitFrom {
    /// A checkpoint folder, or a run folder (its best checkpoint, else its newest).
    pub checkpoint: String,
    /// What becomes of the optimizers' states.
    pub optimizer: InitOptimizer,
}

/// Whether the optimizers remember.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitOptimizer {
    /// They begin anew.
    #[default]
    Fresh,
    /// The moments of what is loaded are loaded too, where the optimizer is of the same kind.
    Keep,
}

/// `freeze:`. Patterns (`*`, `?`, `[…]`) name parameters or tables; one with a `!` before it makes an exception, and the last
/// that fits decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// Everything that `init_from` loads is frozen, but for the exceptions.
    #[serde(default)]
    pub loaded: bool,
    /// Dense parameters, by name; a frozen batch norm keeps its running moments.
    #[serde(default)]
    pub dense: Vec<String>,
    /// Embedding tables, by name.
    #[serde(default)]
    pub tables: Vec<String>,
}

impl Freeze {
    /// Whether nothing is frozen.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// By hand, because serde's own reading of untagged enums cannot say what it expected.
impl<'de> Deserialize<'de> for InitFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Mapping {
            checkpoint: String,
            #[serde(default)]
            optimizer: InitOptimizer,
        }

        struct PathOrMapping;
        impl<'de> de::Visitor<'de> for PathOrMapping {
            type Value = InitFrom;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path or a mapping such as `{checkpoint: runs/…, optimizer: keep}`")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<InitFrom, E> {
                Ok(InitFrom { checkpoint: path.to_string(), optimizer: InitOptimizer::default() })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<InitFrom, A::Error> {
                let Mapping { checkpoint, optimizer } = Mapping::deserialize(MapAccessDeserializer::new(map))?;
                Ok(InitFrom { checkpoint, optimizer })
            }
        }
        deserializer.deserialize_any(PathOrMapping)
    }
}
