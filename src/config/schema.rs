//! JSON Schema of the job file, from the types that read it.

use super::job::Share;
use super::{Bytes, Component, Every, Job, TimeLimit};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use std::borrow::Cow;

/// The schema. What a [`Component`] may be is not known here: its definition takes any kind with any options.
pub fn job() -> Value {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<Job>().to_value()
}

impl JsonSchema for Component {
    fn schema_name() -> Cow<'static, str> {
        "Component".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]})
    }
}

impl JsonSchema for Every {
    fn schema_name() -> Cow<'static, str> {
        "Every".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`1 epoch`, `0.5 epochs`, `1000 steps` or `never`.",
            "pattern": r"^\s*([0-9.eE+-]+\s+(steps?|epochs?)|never)\s*$",
        })
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "description": "`2 GiB`, `500 MB`, or a number of bytes.",
            "pattern": r"^\s*[0-9.]+\s*([kMGT]B|[KMGT]iB|B)?\s*$",
        })
    }
}

impl JsonSchema for TimeLimit {
    fn schema_name() -> Cow<'static, str> {
        "TimeLimit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            // YAML 1.1 reads `off` as false.
            "anyOf": [{"type": "string", "pattern": r"^\s*([0-9]+\s*(h|min|s)|off)\s*$"}, {"const": false}],
            "description": "`10 min`, `30 s`, `2 h` or `off`.",
        })
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`learned`, `cosine` or a number from 0 to 1.",
            "anyOf": [{"enum": ["learned", "cosine"]}, {"type": "number", "minimum": 0, "maximum": 1}],
        })
    }
}

/// A number, or `auto`: what [`super::units::auto_or_number`] reads.
pub(super) struct AutoOrNumber;

impl JsonSchema for AutoOrNumber {
    fn schema_name() -> Cow<'static, str> {
        "AutoOrNumber".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}, {"type": "null"}]})
    }
}

/// A path, or a mapping with it: what [`super::job::InitFrom`] is read from.
pub(super) fn path_or_mapping(schema: &mut Schema) {
    let mapping = std::mem::take(schema).to_value();
    *schema = json_schema!({"anyOf": [{"type": "string"}, mapping]});
}
