//! The facts that a template's texts may use.

use super::tally::{Event, ScenarioTally, Tally, UserTally};
use super::template::{Prompts, Template};
use super::value::Value;
use crate::error::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// Fills in the texts of a template.
pub struct Writer<'a> {
    template: &'a Template,
    prompts: Prompts,
    /// Names of the tasks, in the order of the tallies.
    tasks: &'a [String],
    /// Column of the scenario.
    scenario: &'a str,
}

/// What is known of some rows.
#[derive(Debug, Serialize)]
struct Facts {
    rows: u64,
    /// Their part of the rows around them.
    share: f64,
    tasks: BTreeMap<String, TaskFacts>,
    top: BTreeMap<String, Vec<Item>>,
}

#[derive(Debug, Serialize)]
struct TaskFacts {
    /// Rows with a label.
    rows: u64,
    /// Mean label; none without one.
    mean: Option<f64>,
}

/// A value of a column.
#[derive(Debug, Serialize)]
struct Item {
    value: Value,
    name: String,
    rows: u64,
    share: f64,
}

#[derive(Debug, Serialize)]
struct ScenarioFacts {
    value: Value,
    name: String,
    users: u64,
    #[serde(flatten)]
    facts: Facts,
    all: AllFacts,
}

/// The whole log, to compare with.
#[derive(Debug, Serialize)]
struct AllFacts {
    users: u64,
    #[serde(flatten)]
    facts: Facts,
}

#[derive(Debug, Serialize)]
struct UserFacts {
    value: Value,
    #[serde(flatten)]
    facts: Facts,
    fields: BTreeMap<String, Option<String>>,
    history: Vec<Named>,
    scenarios: Vec<UserScenario>,
}

#[derive(Debug, Serialize)]
struct Named {
    value: Value,
    name: String,
}

/// A user in one scenario.
#[derive(Debug, Serialize)]
struct UserScenario {
    value: Value,
    name: String,
    #[serde(flatten)]
    facts: Facts,
}

impl<'a> Writer<'a> {
    /// A writer for tallies of these `tasks`, where `scenario` is the column of the scenario.
    pub fn new(template: &'a Template, tasks: &'a [String], scenario: &'a str) -> Result<Self> {
        Ok(Self { template, prompts: Prompts::new(template)?, tasks, scenario })
    }

    /// The text about one scenario of the log.
    pub fn scenario(&self, key: &Value, tally: &ScenarioTally, all: &ScenarioTally) -> Result<String> {
        let whole = AllFacts { users: all.users, facts: self.facts(&all.rows, all.rows.rows) };
        let (name, facts) = (self.name(self.scenario, key), self.facts(&tally.rows, all.rows.rows));
        let facts = ScenarioFacts { value: key.clone(), name, users: tally.users, facts, all: whole };
        self.prompts.fill("scenario", &facts)
    }

    /// The text about one user.
    pub fn user(&self, user: &UserTally) -> Result<String> {
        let mut whole = Tally::new(self.tasks.len(), self.template.top.len());
        user.scenarios.values().for_each(|tally| whole.merge(tally));
        let mut scenarios: Vec<UserScenario> = user
            .scenarios
            .iter()
            .filter_map(|(key, tally)| {
                let value = key.clone()?;
                let name = self.name(self.scenario, &value);
                Some(UserScenario { value, name, facts: self.facts(tally, whole.rows) })
            })
            .collect();
        // The sort is stable: of equal ones the smaller key comes first.
        scenarios.sort_by_key(|scenario| std::cmp::Reverse(scenario.facts.rows));
        let columns = self.template.user.as_ref();
        let fields = columns.map(|columns| columns.fields.as_slice()).unwrap_or_default();
        let field = |(column, event): (&String, &Option<Event>)| {
            (column.clone(), event.as_ref().map(|event| self.name(column, &event.value)))
        };
        let history = columns.and_then(|columns| columns.history.as_ref());
        let named = |event: &Event| Named {
            value: event.value.clone(),
            name: history.map_or(String::new(), |history| self.name(&history.column, &event.value)),
        };
        let facts = UserFacts {
            value: user.key.clone(),
            facts: self.facts(&whole, whole.rows),
            fields: fields.iter().zip(&user.fields).map(field).collect(),
            history: user.history.iter().map(named).collect(),
            scenarios,
        };
        self.prompts.fill("user", &facts)
    }

    fn facts(&self, tally: &Tally, around: u64) -> Facts {
        let task = |(name, labels): (&String, &super::tally::Labels)| {
            (name.clone(), TaskFacts { rows: labels.rows, mean: labels.mean() })
        };
        let columns = self.template.top.iter().zip(&tally.top);
        Facts {
            rows: tally.rows,
            share: tally.rows as f64 / around.max(1) as f64,
            tasks: self.tasks.iter().zip(&tally.tasks).map(task).collect(),
            top: columns.map(|(column, counts)| (column.clone(), self.most(column, counts, tally.rows))).collect(),
        }
    }

    /// The most frequent values, the smaller first among equals.
    fn most(&self, column: &str, counts: &super::tally::Counts, rows: u64) -> Vec<Item> {
        let mut sorted: Vec<(&Value, u64)> = counts.iter().map(|(value, &rows)| (value, rows)).collect();
        sorted.sort_by_key(|&(_, rows)| std::cmp::Reverse(rows));
        let item = |&(value, of): &(&Value, u64)| Item {
            value: value.clone(),
            name: self.name(column, value),
            rows: of,
            share: of as f64 / rows.max(1) as f64,
        };
        sorted.iter().take(self.template.most).map(item).collect()
    }

    fn name(&self, column: &str, value: &Value) -> String {
        let given = self.template.names.get(column).and_then(|names| names.get(value));
        given.cloned().unwrap_or_else(|| value.to_string())
    }
}
