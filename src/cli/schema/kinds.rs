//! What is chosen by `kind`: every kind with its options, as building it with its defaults fills them in.

use crate::config::Component;
use crate::error::Result;
use crate::{balance, embedding, model, nn, optim};
use serde_json::{Map, Value, json};

/// Builds a component, which fills its defaults in.
pub type Build = fn(&mut Component) -> Result<()>;

/// What is chosen by `kind` in a job, by its name in the schema, and how one is built for a made-up log.
pub fn components() -> impl Iterator<Item = (&'static str, Build)> {
    PLACES.iter().map(|place| (place.name, place.build))
}

/// A component of the job: its name in the schema, where it stands, its kinds, and how one is built.
struct Place {
    name: &'static str,
    /// Properties that hold it, as pointers into the schema.
    at: &'static [&'static str],
    kinds: fn() -> Vec<&'static str>,
    build: Build,
}

const PLACES: [Place; 6] = [
    Place { name: "model", at: &["/properties/model"], kinds: model::kinds, build: build_model },
    Place {
        name: "balance",
        at: &["/properties/balance"],
        kinds: balance::kinds,
        build: |component| balance::build(component, &["click", "buy"].map(str::to_string)).map(drop),
    },
    Place {
        name: "dense",
        at: &["/definitions/Optimizer/properties/dense"],
        kinds: optim::kinds,
        build: |component| optim::build(component).map(drop),
    },
    Place {
        name: "sparse",
        at: &["/definitions/Optimizer/properties/sparse", "/definitions/Table/properties/optimizer"],
        kinds: embedding::optimizer::kinds,
        build: |component| embedding::optimizer::build(component, "optimizer.sparse").map(drop),
    },
    Place {
        name: "schedule",
        at: &["/definitions/Optimizer/properties/schedule"],
        kinds: optim::schedule::kinds,
        build: |component| optim::schedule::build(component, 10).map(drop),
    },
    Place {
        name: "init",
        at: &["/definitions/Table/properties/init"],
        kinds: embedding::Init::kinds,
        build: |component| embedding::Init::build(component, "tables.item.init", 4).map(drop),
    },
];

/// Puts a definition for each place into the schema, and lets the properties there refer to it.
pub(super) fn fill(schema: &mut Value) -> Result<()> {
    for place in &PLACES {
        for at in place.at {
            if let Some(property) = schema.pointer_mut(at) {
                refer(property, &format!("#/definitions/{}", place.name));
            }
        }
        let kinds: Vec<Value> = (place.kinds)().into_iter().map(|kind| of_kind(kind, place.build)).collect();
        schema["definitions"][place.name] = json!({"oneOf": kinds});
    }
    if let Some(definitions) = schema["definitions"].as_object_mut() {
        definitions.shift_remove("Component");
    }
    Ok(())
}

/// Replaces the reference to any component.
fn refer(value: &mut Value, to: &str) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                match value.as_str() {
                    Some("#/definitions/Component") if key == "$ref" => *value = to.into(),
                    _ => refer(value, to),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| refer(value, to)),
        _ => {}
    }
}

/// One kind and its options. One that has options without a default says only that it has others.
fn of_kind(kind: &str, build: Build) -> Value {
    let mut component = Component::named(kind);
    let mut properties = Map::from_iter([("kind".to_string(), json!({"const": kind}))]);
    let built = build(&mut component);
    for (name, default) in component.options.iter().filter(|_| built.is_ok()) {
        let (Some(name), Ok(default)) = (name.as_str(), serde_json::to_value(default)) else { continue };
        properties.insert(name.to_string(), option(default));
    }
    json!({"type": "object", "properties": properties, "required": ["kind"], "additionalProperties": built.is_err()})
}

/// An option of this default. Of a list, a mapping or nothing it says nothing more.
fn option(default: Value) -> Value {
    let kind = match &default {
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        _ => return json!({"default": default}),
    };
    json!({"type": kind, "default": default})
}

/// Builds a model on made-up features of every sort.
fn build_model(component: &mut Component) -> Result<()> {
    let field = |name: &str, start| model::Field { name: name.to_string(), start, width: 2 };
    let tasks = vec!["click".to_string(), "buy".to_string()];
    let sets = model::table_sets(component, &tasks)?;
    let fields = (0..sets.len()).flat_map(|set| [field("user", 4 * set), field("item", 4 * set + 2)]).collect();
    let history = || model::SequenceSpec {
        name: "history".to_string(),
        max_len: 3,
        dim: 2,
        candidates: vec![1],
        ..Default::default()
    };
    let pair = model::PairSpec { left: 0, right: 1, drawn: None };
    let input = model::InputSpec {
        fields,
        sets,
        // The others read no unpooled sequence.
        sequences: if component.kind == "dtrn" { vec![history()] } else { Vec::new() },
        // Only matrix factorisation reads pairs, and it reads nothing else.
        pairs: if component.kind == "mf" { vec![pair; 2] } else { Vec::new() },
        dense_width: 2,
        outputs: vec![1, 1],
        scenarios: vec!["home".to_string(), "shop".to_string()],
        tasks,
        ..Default::default()
    };
    // It is refused without knowledge, which it has no default for.
    let made_up = (component.kind == "llm4msr").then(|| serde_yaml::Value::from("user_knowledge"));
    if let Some(option) = &made_up {
        component.options.insert(option.clone(), "user".into());
    }
    model::build(component, &input, &mut nn::ParamStore::new(1))?;
    if let Some(option) = made_up {
        component.options.insert(option, serde_yaml::Value::Null);
    }
    Ok(())
}
