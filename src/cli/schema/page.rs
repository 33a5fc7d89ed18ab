//! The schema as a page of Markdown: a table of keys for every mapping of a job, and every kind with its options.

use serde_json::Value;
use std::fmt::Write;

const HEAD: &str = "\
# Every key of a job

Written by `tandem schema --markdown` from the types that read jobs; a test compares. [The job file](job.md) says how keys work together.
`tandem schema > job.schema.json` gives editors the same: begin a job with
`# yaml-language-server: $schema=job.schema.json`, and they complete its keys and mark what is wrong.
";

/// The page.
pub(super) fn page(schema: &Value) -> String {
    let mut text = HEAD.to_string();
    // Writing to a string cannot fail.
    mapping(&mut text, "Job", schema);
    let definitions = || schema["definitions"].as_object().into_iter().flatten();
    for (name, definition) in definitions().filter(|(_, definition)| definition["properties"].is_object()) {
        mapping(&mut text, name, definition);
    }
    text += "\n## Choices\n\n| | value | meaning |\n|---|---|---|\n";
    for (name, definition) in definitions() {
        for value in definition["oneOf"].as_array().into_iter().flatten().filter(|value| value["const"].is_string()) {
            let about = value["description"].as_str().map(one_line).unwrap_or_default();
            let _ = writeln!(text, "| {name} | {} | {about} |", holds(value));
        }
    }
    for (name, definition) in definitions().filter(|(_, definition)| is_component(definition)) {
        let _ = write!(text, "\n## {name}: kinds\n\n| kind | options and their defaults |\n|---|---|\n");
        for kind in definition["oneOf"].as_array().into_iter().flatten() {
            let options = kind["properties"].as_object().into_iter().flatten().filter(|(name, _)| *name != "kind");
            let options: Vec<String> =
                options.map(|(name, option)| format!("`{name}: {}`", option["default"])).collect();
            let more = if kind["additionalProperties"] == true { "others" } else { "" };
            let options = if options.is_empty() { more.to_string() } else { options.join(", ") };
            let _ = writeln!(text, "| `{}` | {options} |", kind["properties"]["kind"]["const"].as_str().unwrap_or("?"));
        }
    }
    text
}

fn is_component(definition: &Value) -> bool {
    definition["oneOf"][0]["properties"]["kind"]["const"].is_string()
}

fn mapping(text: &mut String, name: &str, schema: &Value) {
    let about = schema["description"].as_str().map(|about| format!("{}\n\n", one_line(about))).unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(text, "\n## {name}\n\n{about}| key | holds | default | meaning |\n|---|---|---|---|\n");
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let default = match property.get("default") {
            _ if required.contains(&key.as_str()) => "must be given".to_string(),
            Some(default) if !default.is_null() => format!("`{default}`"),
            _ => String::new(),
        };
        let about = property["description"].as_str().map(one_line).unwrap_or_default();
        let _ = writeln!(text, "| `{key}` | {} | {default} | {about} |", holds(property));
    }
}

/// What a value may be, in words.
fn holds(schema: &Value) -> String {
    if let Some(to) = schema["$ref"].as_str() {
        return to.rsplit('/').next().unwrap_or("?").to_string();
    }
    let parts = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema[*key].as_array());
    if let Some(parts) = parts {
        let words: Vec<String> = parts.iter().filter(|part| part["type"] != "null").map(holds).collect();
        return words.join(" or ");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{}`", value.as_str().map_or_else(|| value.to_string(), String::from));
    }
    if let Some(values) = schema["enum"].as_array() {
        let words: Vec<String> = values.iter().filter_map(|v| Some(format!("`{}`", v.as_str()?))).collect();
        return words.join(", ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
        _ => Vec::new(),
    };
    let word = |name: &&str| match *name {
        "array" => format!("list of {}", holds(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("{} by name", holds(&schema["additionalProperties"]))
        }
        "integer" => "whole number".to_string(),
        "boolean" => "true or false".to_string(),
        "string" => "text".to_string(),
        other => other.to_string(),
    };
    types.iter().map(word).collect::<Vec<_>>().join(" or ")
}

/// A doc comment in a cell of a table.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace("[`", "`").replace("`]", "`")
}
