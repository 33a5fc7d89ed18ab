//! A value of a label column.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;

/// A text or a whole number, as a column of ids has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum LabelValue {
    /// In a column of texts.
    Text(String),
    /// In a column of whole numbers.
    Number(i64),
}

// By hand, because serde's own reading of untagged enums cannot say what it expected.
impl<'de> Deserialize<'de> for LabelValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl de::Visitor<'_> for TextOrNumber {
            type Value = LabelValue;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text or a whole number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LabelValue, E> {
                Ok(LabelValue::Text(text.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<LabelValue, E> {
                Ok(LabelValue::Number(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<LabelValue, E> {
                i64::try_from(number).map(LabelValue::Number).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}
