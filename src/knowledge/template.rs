//! The template of prompts: what is counted in the log, and how it is said.

use super::value::Value;
use crate::error::{Error, Result};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A text cannot take more instructions than this: a loop in a template must end.
const FUEL: u64 = 1_000_000;

/// A template file, as written in YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The text about a scenario.
    pub scenario: String,
    /// The texts about users; none are written without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Columns of ids, or of lists of ids, whose most frequent values are named.
    #[serde(default)]
    pub top: Vec<String>,
    /// How many values of a `top` column are named.
    #[serde(default = "default_most")]
    pub most: usize,
    /// What values of columns are called: column → value → name. Without a name a value is called as it is written.
    #[serde(default)]
    pub names: BTreeMap<String, BTreeMap<Value, String>>,
}

/// `user:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Column of the user's id.
    pub column: String,
    /// The text about a user.
    pub text: String,
    /// Columns that say something of a user: the value of the user's last row.
    #[serde(default)]
    pub fields: Vec<String>,
    /// The last things that the user did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// Column of integers or times that orders a user's rows; default: their order in the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// `user.history:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Column of what is named.
    pub column: String,
    /// How many are kept.
    #[serde(default = "default_last")]
    pub last: usize,
    /// Only rows where the label of this task is positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

fn default_most() -> usize {
    5
}

fn default_last() -> usize {
    10
}

impl Template {
    /// Reads and checks the template at `path`.
    pub fn load(path: &Path) -> Result<Self> {
        let named = |error: Error| error.within("file", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading the template", path, &e))?;
        Self::parse(&text).map_err(named)
    }

    /// The template that is written in `text`.
    pub fn parse(text: &str) -> Result<Self> {
        let template: Self = serde_yaml::from_str(text).map_err(|e| {
            Error::job(format!("the template cannot be read: {e}"))
                .fix("docs/knowledge.md describes templates; jobs/knowledge/ml1m.yaml is one")
        })?;
        Prompts::new(&template)?;
        Ok(template)
    }
}

/// The texts of a template, ready to be filled in.
pub struct Prompts(Environment<'static>);

impl Prompts {
    /// Compiles the texts.
    ///
    /// # Errors
    /// A text that is not Jinja.
    pub fn new(template: &Template) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("percent", percent);
        let user = template.user.as_ref().map(|user| &user.text);
        for (name, text) in [("scenario", Some(&template.scenario)), ("user", user)] {
            let Some(text) = text else { continue };
            environment.add_template_owned(name, text.clone()).map_err(|e| wrong(name, &e))?;
        }
        Ok(Self(environment))
    }

    /// The text `name` (`scenario` or `user`) about `facts`, on one line.
    ///
    /// # Errors
    /// A name in the text that `facts` do not have.
    pub fn fill(&self, name: &str, facts: &impl Serialize) -> Result<String> {
        let facts = minijinja::Value::from(minijinja::value::Serde(facts));
        let text =
            self.0.get_template(name).and_then(|template| template.render(facts)).map_err(|e| wrong(name, &e))?;
        // Line breaks and indentation are those of the YAML file.
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// `{{ 0.579 | percent }}`: `58%`. The mean of no label is not known.
fn percent(share: Option<f64>) -> String {
    share.map_or("unknown".to_string(), |share| format!("{:.0}%", 100.0 * share))
}

fn wrong(name: &str, error: &minijinja::Error) -> Error {
    let line = error.line().map_or(String::new(), |line| format!(", line {line}"));
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    Error::job(format!("the {name} text of the template cannot be filled in: {}{detail}{line}", error.kind()))
        .fix("docs/knowledge.md lists what a text may use")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_filled_in_on_one_line() {
        let template = Template::parse(
            "scenario: |\n  {{ name }} has {{ rows }} rows,\n  {{ tasks.like.mean | percent }} liked:\n  \
             {% for item in top.genres %}{{ item.name }}{% if not loop.last %}, {% endif %}{% endfor %}.\n",
        );
        let template = template.unwrap();
        assert_eq!((template.most, template.user.is_none()), (5, true));
        let genres = [json!({"name": "Drama"}), json!({"name": "War"})];
        let facts = json!({"name": "18-24", "rows": 7, "tasks": {"like": {"mean": 0.5794}}, "top": {"genres": genres}});
        let text = Prompts::new(&template).unwrap().fill("scenario", &facts).unwrap();
        assert_eq!(text, "18-24 has 7 rows, 58% liked: Drama, War.");
    }

    #[test]
    fn mistakes_name_text_and_line() {
        let error = |text: &str| Template::parse(text).unwrap_err().to_string();
        assert!(error("scenario: x\nusers: {}\n").contains("unknown field `users`"));
        let message = error("scenario: |\n  a\n  {% for %}\n");
        assert!(message.contains("scenario text") && message.contains("line 2"), "{message}");
        let template = Template::parse("scenario: '{{ raws }}'").unwrap();
        let message = Prompts::new(&template).unwrap().fill("scenario", &json!({"rows": 1})).unwrap_err().to_string();
        assert!(message.contains("undefined"), "{message}");
        let endless = Template::parse(
            "scenario: '{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}'",
        );
        assert!(Prompts::new(&endless.unwrap()).unwrap().fill("scenario", &json!({})).is_err());
    }
}
