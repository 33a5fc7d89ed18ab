//! `--set a.b=value`: changes to the job before it is read.

use super::locate::{Locator, child, element};
use super::suggest::suggest;
use crate::error::{Error, Result};
use serde_yaml::{Mapping, Value};

const QUOTES: &str = "put the whole override in quotes, as in `--set 'model.expert=[256, 128]'`";

/// Deeper than any job; what reads the job recurses.
const MAX_KEYS: usize = 32;

/// Applies override `index`, written as `text`, to `root`, and tells `locator`.
///
/// A key goes into a mapping by name and into a list by index (`tasks.0.weight`, `tasks[0].weight`) or by
/// the `name` of the entry (`tasks.click.weight`). Mappings on the way that are not there are made; whether
/// their keys exist is found out when the job is read.
pub(super) fn apply(root: &mut Value, text: &str, index: usize, locator: &mut Locator) -> Result<()> {
    let (keys, value) = parse(text).map_err(|error| error.at("--set", text))?;
    let mut place = root;
    let mut path = String::new();
    for key in &keys {
        (place, path) = enter(place, &path, key).map_err(|error| error.at("--set", text))?;
    }
    *place = value;
    locator.replace(&path, index);
    Ok(())
}

/// Splits `a.b[0]=value` into its keys and its value.
fn parse(text: &str) -> Result<(Vec<String>, Value)> {
    let Some((path, value)) = text.split_once('=') else {
        return Err(Error::job("an override has the form `key=value`").fix("write, for example, `train.epochs=2`"));
    };
    let keys: Vec<String> =
        path.trim().replace('[', ".").replace(']', "").split('.').map(|key| key.trim().to_string()).collect();
    if keys.iter().any(String::is_empty) {
        return Err(Error::job("a part of the override's key is empty").fix("write, for example, `train.epochs=2`"));
    }
    if keys.len() > MAX_KEYS {
        return Err(Error::job(format!("the override's key has more than {MAX_KEYS} parts")));
    }
    let value = serde_yaml::from_str(value)
        .map_err(|error| Error::job(format!("the override's value is not YAML: {error}")).fix(QUOTES))?;
    Ok((keys, value))
}

/// One step down from `place`, which stands at `path`: the value of `key`, and its path.
fn enter<'v>(place: &'v mut Value, path: &str, key: &str) -> Result<(&'v mut Value, String)> {
    if place.is_null() {
        *place = Value::Mapping(Mapping::new());
    }
    match place {
        Value::Mapping(mapping) => {
            let value = mapping.entry(Value::String(key.to_string())).or_insert(Value::Null);
            Ok((value, child(path, key)))
        }
        Value::Sequence(entries) => {
            let i = entry_index(entries, path, key)?;
            Ok((&mut entries[i], element(path, i)))
        }
        _ => Err(Error::job(format!("`{path}` is a single value and has no key `{key}`")).at("key", path)),
    }
}

/// The entry of the list at `path` that `key` means.
fn entry_index(entries: &[Value], path: &str, key: &str) -> Result<usize> {
    let names: Vec<&str> = entries.iter().filter_map(|entry| entry.get("name")?.as_str()).collect();
    if let Ok(i) = key.parse::<usize>() {
        if i < entries.len() {
            return Ok(i);
        }
        let error =
            Error::job(format!("`{path}` has {} entries, counted from 0; there is no entry {i}", entries.len()));
        let all = if names.is_empty() { "give one of those".to_string() } else { suggest(key, &names, "names") };
        return Err(error.at("key", path).fix(all));
    }
    match entries.iter().position(|entry| entry.get("name").and_then(Value::as_str) == Some(key)) {
        Some(i) => Ok(i),
        None => {
            let error = Error::job(format!("`{path}` has no entry named `{key}`")).at("key", path);
            if names.is_empty() {
                return Err(error.fix("its entries have no names: give the index, counted from 0"));
            }
            Err(error.fix(suggest(key, &names, "names")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::locate::Origin;
    use super::*;

    const JOB: &str = "\
train: {epochs: 1}
tables:
tasks:
  - {name: click, weight: 1}
  - {name: buy}
layers: [1, 2]
";

    fn after(text: &str) -> Result<Value> {
        let mut root: Value = serde_yaml::from_str(JOB).unwrap();
        apply(&mut root, text, 0, &mut Locator::default())?;
        Ok(root)
    }

    #[test]
    fn a_path_reaches_mappings_and_lists() {
        for (text, pointer, value) in [
            ("train.epochs=2", &["train", "epochs"][..], "2"),
            ("train.eval.every=2 epochs", &["train", "eval", "every"], "2 epochs"),
            ("tables.item.dim=8", &["tables", "item", "dim"], "8"),
            ("tasks.0.weight=2.5", &["tasks", "0", "weight"], "2.5"),
            ("tasks[1].weight=2", &["tasks", "1", "weight"], "2"),
            ("tasks.buy.weight = 3", &["tasks", "1", "weight"], "3"),
            ("layers[1]=7", &["layers", "1"], "7"),
            ("layers=[64, 32]", &["layers"], "[64, 32]"),
            ("model={kind: mmoe, gate: a=b}", &["model"], "{kind: mmoe, gate: a=b}"),
            ("train=", &["train"], "null"),
        ] {
            let root = after(text).unwrap();
            let found = pointer.iter().fold(&root, |at, key| match key.parse::<usize>() {
                Ok(i) => &at[i],
                Err(_) => &at[*key],
            });
            assert_eq!(*found, serde_yaml::from_str::<Value>(value).unwrap(), "{text}");
        }
    }

    #[test]
    fn the_other_entries_stay() {
        let root = after("tasks.click.weight=2").unwrap();
        assert_eq!(root["tasks"][0]["name"], "click");
        assert_eq!(root["tasks"][1]["name"], "buy");
        assert_eq!(root["train"]["epochs"], 1);
    }

    #[test]
    fn a_wrong_path_says_which_override_and_what_is_there() {
        for (text, parts) in [
            ("train.epochs", &["the form `key=value`", "--set train.epochs"][..]),
            ("=2", &["is empty"]),
            ("train..epochs=2", &["is empty", "--set train..epochs=2"]),
            ("train.epochs=[1", &["not YAML", "--set train.epochs=[1"]),
            ("train.epochs.x=1", &["`train.epochs` is a single value", "no key `x`"]),
            ("tasks.clik.weight=1", &["no entry named `clik`", "did you mean `click`? the names are: click, buy"]),
            ("tasks.2.weight=1", &["`tasks` has 2 entries", "no entry 2"]),
            ("layers.a=1", &["give the index"]),
            (&format!("{}=1", ["a"; 33].join(".")), &["more than 32 parts"]),
        ] {
            let message = after(text).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{text}: {message}");
            }
        }
    }

    #[test]
    fn the_locator_learns_the_normal_path() {
        let mut root: Value = serde_yaml::from_str(JOB).unwrap();
        let mut locator = Locator::read(JOB).unwrap();
        apply(&mut root, "tasks.buy.weight=2", 5, &mut locator).unwrap();
        assert_eq!(locator.locate("tasks[1].weight"), Some(Origin::Override(5)));
        assert_eq!(locator.locate("tasks[1].name"), Some(Origin::Line(5)));
    }
}
