//! From serde's messages to sentences about the job.
//!
//! serde hands its findings on as text only, in the fixed forms of `serde::de::Error`. They are taken
//! apart here, in one place, so that every key of the job and of its components is explained alike.

use super::locate::{child, element};
use super::suggest::suggest;
use crate::error::Error;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::Value;

/// Reads `value`, which stands at the key `path` of the job, as `T`.
pub(super) fn read<T: DeserializeOwned>(value: Value, path: &str) -> Result<T, Error> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().iter().fold(path.to_string(), |path, segment| match segment {
            Segment::Map { key } => child(&path, key),
            Segment::Seq { index } => element(&path, *index),
            Segment::Enum { .. } | Segment::Unknown => path,
        });
        explain(&error.into_inner().to_string(), &path)
    })
}

/// The error for serde's `message` about the key at `path`.
fn explain(message: &str, path: &str) -> Error {
    if let Some((given, known)) = unknown(message, "field") {
        return Error::job(format!("unknown key `{given}`")).at("key", path).fix(suggest(given, &known, "keys here"));
    }
    if let Some((given, known)) = unknown(message, "variant") {
        return Error::job(format!("unknown value `{given}`")).at("key", path).fix(suggest(given, &known, "values"));
    }
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let error = Error::job(format!("the key `{name}` is missing")).at("key", child(path, name));
        let place = if path.is_empty() { "the job".to_string() } else { format!("`{path}`") };
        return error.fix(format!("add `{name}: …` to {place}"));
    }
    match mismatch(message) {
        Some((found, expected)) => wrong_type(found, expected, path),
        None => Error::job(message).at("key", path),
    }
}

/// Takes ``unknown WHAT `given`, expected one of `a`, `b` `` apart.
fn unknown<'m>(message: &'m str, what: &str) -> Option<(&'m str, Vec<&'m str>)> {
    let rest = message.strip_prefix("unknown ")?.strip_prefix(what)?.strip_prefix(" `")?;
    let (given, known) = rest.split_once("`, ")?;
    Some((given, known.split('`').skip(1).step_by(2).collect()))
}

/// Takes `invalid type: FOUND, expected EXPECTED` apart.
fn mismatch(message: &str) -> Option<(&str, &str)> {
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    rest.rsplit_once(", expected ")
}

fn wrong_type(found: &str, expected: &str, path: &str) -> Error {
    let wanted = match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, 0 or more",
        "isize" | "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "`true` or `false`",
        "a string" | "a borrowed string" => "text",
        "a sequence" => "a list",
        "a map" => "a mapping",
        "a Value::Tagged enum" | "a YAML tag starting with '!'" => "a name",
        "struct Component" => "a mapping such as `{kind: …}`",
        other if other.starts_with("struct ") => "a mapping of keys",
        other => other,
    };
    let error = Error::job(format!("expected {wanted}, found {}", found_words(found))).at("key", path);
    let scalar = ["integer", "floating point", "boolean"].iter().any(|kind| found.starts_with(kind));
    if wanted == "text" && scalar { error.fix("put the value in quotes") } else { error }
}

/// serde's words for a value, in YAML's.
fn found_words(found: &str) -> String {
    match found {
        "unit value" | "Option value" => "nothing".to_string(),
        "map" => "a mapping".to_string(),
        "sequence" => "a list".to_string(),
        "enum" => "a tag".to_string(),
        _ => found.replacen("string ", "the text ", 1).replacen("integer ", "the number ", 1).replacen(
            "floating point ",
            "the number ",
            1,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read only through errors")]
    struct Options {
        experts: usize,
        #[serde(default)]
        dropout: f64,
        #[serde(default)]
        layers: Vec<usize>,
        #[serde(default)]
        norm: Option<Norm>,
        #[serde(default)]
        title: String,
        #[serde(default)]
        gate: bool,
        #[serde(default)]
        inner: Option<Box<Options>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code, reason = "read only through errors")]
    enum Norm {
        Batch,
        Layer,
    }

    /// Pins the forms of serde's messages that are taken apart.
    #[test]
    fn serde_messages_become_sentences() {
        for (yaml, message) in [
            (
                "{experts: 1, expert: 2}",
                "unknown key `expert` (key model.expert)\n  fix: did you mean `experts`? the keys here are: experts, dropout, layers, norm, title, gate, inner",
            ),
            ("{dropout: 0}", "the key `experts` is missing (key model.experts)\n  fix: add `experts: …` to `model`"),
            ("{experts: x}", "expected a whole number, 0 or more, found the text \"x\" (key model.experts)"),
            ("{experts: -1}", "expected a whole number, 0 or more, found the number `-1` (key model.experts)"),
            ("{experts: 1.5}", "expected a whole number, 0 or more, found the number `1.5` (key model.experts)"),
            ("{experts: }", "expected a whole number, 0 or more, found nothing (key model.experts)"),
            ("{experts: 1, dropout: {}}", "expected a number, found a mapping (key model.dropout)"),
            ("{experts: 1, layers: 3}", "expected a list, found the number `3` (key model.layers)"),
            (
                "{experts: 1, layers: [1, [2]]}",
                "expected a whole number, 0 or more, found a list (key model.layers[1])",
            ),
            (
                "{experts: 1, norm: batsh}",
                "unknown value `batsh` (key model.norm)\n  fix: did you mean `batch`? the values are: batch, layer",
            ),
            ("{experts: 1, norm: 3}", "expected a name, found the number `3` (key model.norm)"),
            (
                "{experts: 1, title: 3}",
                "expected text, found the number `3` (key model.title)\n  fix: put the value in quotes",
            ),
            ("{experts: 1, gate: yes}", "expected `true` or `false`, found the text \"yes\" (key model.gate)"),
            ("{experts: 1, inner: [1]}", "expected a mapping of keys, found a list (key model.inner)"),
            (
                "{experts: 1, inner: {}}",
                "the key `experts` is missing (key model.inner.experts)\n  fix: add `experts: …` to `model.inner`",
            ),
        ] {
            let value = serde_yaml::from_str(yaml).unwrap();
            assert_eq!(read::<Options>(value, "model").unwrap_err().to_string(), message, "{yaml}");
        }
    }

    #[test]
    fn a_component_without_options_says_so() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let value = serde_yaml::from_str("{c: 1}").unwrap();
        assert_eq!(
            read::<Nothing>(value, "balance").unwrap_err().to_string(),
            "unknown key `c` (key balance.c)\n  fix: remove it: there are no keys here"
        );
    }
}
