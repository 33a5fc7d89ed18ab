//! From the path of a key to its line in the job file, or to the override that set it.
//!
//! A path is written as people read it: `tasks[1].where`, `tables.item.dim`.

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, ScanError, YamlData};
use std::collections::HashMap;

/// Where the value of a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A line of the job file, counted from 1.
    Line(usize),
    /// The override of this index.
    Override(usize),
}

/// The origin of every key of one job.
#[derive(Debug, Clone, Default)]
pub(super) struct Locator {
    origins: HashMap<String, Origin>,
}

impl Locator {
    /// Reads the lines of all keys in `text`. Fails where a second reader of YAML finds a fault, such as a
    /// key that is given twice.
    pub fn read(text: &str) -> Result<Self, ScanError> {
        let mut locator = Self::default();
        if let Some(document) = MarkedYaml::load_from_str(text)?.first() {
            locator.walk(document, "");
        }
        Ok(locator)
    }

    fn walk(&mut self, node: &MarkedYaml, path: &str) {
        match &node.data {
            YamlData::Mapping(mapping) => {
                for (key, value) in mapping {
                    let YamlData::Value(Scalar::String(name)) = &key.data else { continue };
                    let path = child(path, name);
                    self.origins.insert(path.clone(), Origin::Line(key.span.start.line()));
                    self.walk(value, &path);
                }
            }
            YamlData::Sequence(entries) => {
                for (i, entry) in entries.iter().enumerate() {
                    let path = element(path, i);
                    self.origins.insert(path.clone(), Origin::Line(entry.span.start.line()));
                    self.walk(entry, &path);
                }
            }
            _ => {}
        }
    }

    /// Notes that override `index` replaced everything under `path`, and created the levels of it that
    /// were not there.
    pub fn replace(&mut self, path: &str, index: usize) {
        self.origins.retain(|known, _| !is_within(known, path));
        self.origins.insert(path.to_string(), Origin::Override(index));
        let mut level = path;
        while let Some(above) = parent(level) {
            self.origins.entry(above.to_string()).or_insert(Origin::Override(index));
            level = above;
        }
    }

    /// The origin of `path`, or of the innermost level above it that has one.
    pub fn locate(&self, path: &str) -> Option<Origin> {
        let mut level = path;
        loop {
            if let Some(origin) = self.origins.get(level) {
                return Some(*origin);
            }
            level = parent(level)?;
        }
    }
}

/// The path of key `name` in the mapping at `path`.
pub(super) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

/// The path of entry `index` of the list at `path`.
pub(super) fn element(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

fn parent(path: &str) -> Option<&str> {
    path.rfind(['.', '[']).map(|end| &path[..end])
}

fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "name: x\ntasks:\n  - name: click\n    label: y\n  - {name: buy,\n     label: z}\nmodel:\n  a: &e [1,\n      2]\n  b: *e\n";

    #[test]
    fn keys_have_lines() {
        let locator = Locator::read(JOB).unwrap();
        for (path, line) in [
            ("name", 1),
            ("tasks", 2),
            ("tasks[0]", 3),
            ("tasks[0].label", 4),
            ("tasks[1]", 5),
            ("tasks[1].label", 6),
            ("model.a", 8),
            ("model.a[1]", 9),
            ("model.b", 10),
            // What is not there has the line of what is around it.
            ("tasks[1].where", 5),
            ("model.expert.deep", 7),
        ] {
            assert_eq!(locator.locate(path), Some(Origin::Line(line)), "{path}");
        }
        assert_eq!(locator.locate("data.train"), None);
    }

    #[test]
    fn an_override_owns_what_it_replaced_and_created() {
        let mut locator = Locator::read(JOB).unwrap();
        locator.replace("tasks[1]", 0);
        locator.replace("train.eval.every", 1);
        for (path, origin) in [
            ("tasks[1].label", Origin::Override(0)),
            ("tasks[0].label", Origin::Line(4)),
            ("tasks", Origin::Line(2)),
            ("train.eval.every", Origin::Override(1)),
            ("train.eval", Origin::Override(1)),
            ("train", Origin::Override(1)),
        ] {
            assert_eq!(locator.locate(path), Some(origin), "{path}");
        }
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert!(Locator::read("a: 1\nb: 2\na: 3\n").is_err());
    }
}
