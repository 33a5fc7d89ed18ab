//! `reproducible:`: the same bits on any number of ranks.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;

/// Whether a run has the same bits on any number of ranks: `false`, `true`, or how many virtual ranks it is cut into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reproducible(Option<usize>);

impl Reproducible {
    /// Virtual ranks of `reproducible: true`.
    pub const VIRTUAL_RANKS: usize = 8;

    /// The virtual ranks, if there are any.
    pub fn virtual_ranks(self) -> Option<usize> {
        self.0
    }

    /// Whether it is `false`.
    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for Reproducible {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_bool(false),
            Some(Self::VIRTUAL_RANKS) => serializer.serialize_bool(true),
            Some(ranks) => serializer.serialize_u64(ranks as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Reproducible {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnOrRanks;
        impl de::Visitor<'_> for OnOrRanks {
            type Value = Reproducible;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("`true`, `false` or a number of virtual ranks from 1 to 65536")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Reproducible, E> {
                Ok(Reproducible(on.then_some(Reproducible::VIRTUAL_RANKS)))
            }

            fn visit_u64<E: de::Error>(self, ranks: u64) -> Result<Reproducible, E> {
                match ranks {
                    1..=65_536 => Ok(Reproducible(Some(ranks as usize))),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(ranks), &self)),
                }
            }
        }
        deserializer.deserialize_any(OnOrRanks)
    }
}

impl JsonSchema for Reproducible {
    fn schema_name() -> Cow<'static, str> {
        "Reproducible".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`true`, `false` or a number of virtual ranks.",
            "anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 65_536}],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_people_write_it_and_survives_being_written() {
        for (text, ranks) in [("true", Some(8)), ("false", None), ("8", Some(8)), ("1", Some(1)), ("32", Some(32))] {
            let read: Reproducible = serde_yaml::from_str(text).unwrap();
            assert_eq!(read.virtual_ranks(), ranks, "{text}");
            let written = serde_yaml::to_string(&read).unwrap();
            assert_eq!(serde_yaml::from_str::<Reproducible>(&written).unwrap(), read, "{written}");
        }
        for wrong in ["0", "-1", "1.5", "yes please", "65537"] {
            assert!(serde_yaml::from_str::<Reproducible>(wrong).is_err(), "{wrong}");
        }
    }
}
