//! Options that name one task of the job: the one that the others serve.

use super::KEY;
use crate::config::suggest;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;

/// The name of a task; left out: the job's first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct TaskName(Option<String>);

impl TaskName {
    /// The number of the task among `names`. Writes the name down where it was left out. `option` is the option's name
    /// in the job.
    ///
    /// # Errors
    /// No task has this name.
    pub fn number(&mut self, option: &str, names: &[String]) -> Result<usize> {
        let Some(given) = &self.0 else {
            self.0 = names.first().cloned();
            return Ok(0);
        };
        names.iter().position(|name| name == given).ok_or_else(|| {
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            Error::job(format!("unknown task `{given}`"))
                .at("key", format!("{KEY}.{option}"))
                .fix(suggest(given, &known, "tasks"))
        })
    }
}

// By hand: a task's number, which says nothing to who reads the job, gets a message of its own.
impl<'de> Deserialize<'de> for TaskName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Name;
        impl de::Visitor<'_> for Name {
            type Value = TaskName;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a task")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<TaskName, E> {
                Ok(TaskName(Some(name.to_string())))
            }

            fn visit_unit<E: de::Error>(self) -> std::result::Result<TaskName, E> {
                Ok(TaskName(None))
            }
        }
        deserializer.deserialize_any(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Component;

    fn build(job: &str) -> Result<Component> {
        let mut component: Component = serde_yaml::from_str(job).unwrap();
        crate::balance::build(&mut component, &["click", "like", "buy"].map(str::to_string))?;
        Ok(component)
    }

    #[test]
    fn tasks_are_named_and_the_first_is_meant_where_none_is() {
        for (kind, option) in [("metabalance", "target"), ("pmtrec", "main"), ("pcd", "primary")] {
            let resolved = build(&format!("{{kind: {kind}}}")).unwrap();
            assert_eq!(resolved.options.get(option).and_then(|name| name.as_str()), Some("click"), "{kind}");
            let resolved = build(&format!("{{kind: {kind}, {option}: buy}}")).unwrap();
            assert_eq!(resolved.options.get(option).and_then(|name| name.as_str()), Some("buy"), "{kind}");
            let error = build(&format!("{{kind: {kind}, {option}: clik}}")).unwrap_err().to_string();
            assert!(error.contains("did you mean `click`") && error.contains(option), "{error}");
            let error = build(&format!("{{kind: {kind}, {option}: 1}}")).unwrap_err().to_string();
            assert!(error.contains("the name of a task"), "{error}");
        }
    }

    #[test]
    fn methods_inside_a_method_know_the_names_too() {
        build("{kind: crmogm, of: {kind: pcd, primary: like}}").unwrap();
        let error = build("{kind: crmogm, of: {kind: pcd, primary: view}}").unwrap_err().to_string();
        assert!(error.contains("unknown task `view`"), "{error}");
    }
}
