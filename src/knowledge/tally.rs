//! What is counted in the log. Counts and sums are integers and histories are sorted, so that parts can be merged in any
//! order, by any number of ranks, and give the same.

use super::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Labels are added up in units of 2⁻²⁰: exact for classes, and no order of adding matters.
const LABEL_UNIT: f64 = (1u64 << 20) as f64;

/// Rows by value.
pub type Counts = BTreeMap<Value, u64>;

/// What some rows have in common: counts of rows, labels and values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Rows.
    pub rows: u64,
    /// Labels, by task.
    pub tasks: Vec<Labels>,
    /// Rows by value, for each `top` column of the template.
    #[serde(with = "pairs")]
    pub top: Vec<Counts>,
}

/// The labels of one task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Rows that carry one.
    pub rows: u64,
    sum: i64,
}

impl Labels {
    /// Adds one.
    pub fn add(&mut self, label: f32) {
        self.rows += 1;
        self.sum = self.sum.saturating_add((f64::from(label) * LABEL_UNIT).round() as i64);
    }

    /// Their mean; of a binary task the rate of positives.
    pub fn mean(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.sum as f64 / LABEL_UNIT / self.rows as f64)
    }
}

impl Tally {
    /// Of no rows.
    pub fn new(tasks: usize, top: usize) -> Self {
        Self { rows: 0, tasks: vec![Labels::default(); tasks], top: vec![Counts::new(); top] }
    }

    /// Adds what other rows gave.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        for (mine, other) in self.tasks.iter_mut().zip(&other.tasks) {
            mine.rows += other.rows;
            mine.sum = mine.sum.saturating_add(other.sum);
        }
        for (mine, other) in self.top.iter_mut().zip(&other.top) {
            for (value, rows) in other {
                *mine.entry(value.clone()).or_default() += rows;
            }
        }
    }
}

/// A value and when it was: ordered by time, then by place in the files (row group, row).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Event {
    /// Of the column that orders a user's rows; 0 without one.
    pub order: i64,
    /// Row group and row.
    pub place: (u32, u32),
    /// What there was.
    pub value: Value,
}

/// What the log says of one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserTally {
    /// The user's id.
    pub key: Value,
    /// Rows by scenario; a row without one counts under `None`.
    #[serde(with = "scenarios")]
    pub scenarios: BTreeMap<Option<Value>, Tally>,
    /// The last events, oldest first.
    pub history: Vec<Event>,
    /// For each `fields` column the last value.
    pub fields: Vec<Option<Event>>,
}

impl UserTally {
    /// Of a user without rows.
    pub fn new(key: Value, fields: usize) -> Self {
        Self { key, scenarios: BTreeMap::new(), history: Vec::new(), fields: vec![None; fields] }
    }

    /// Takes a value of a `fields` column.
    pub fn see(&mut self, field: usize, event: Event) {
        self.fields[field] = self.fields[field].take().max(Some(event));
    }

    /// Adds what other rows gave, and keeps the `last` events.
    pub fn merge(&mut self, other: Self, last: usize) {
        for (scenario, tally) in other.scenarios {
            match self.scenarios.get_mut(&scenario) {
                Some(mine) => mine.merge(&tally),
                None => {
                    self.scenarios.insert(scenario, tally);
                }
            }
        }
        self.history.extend(other.history);
        self.shorten(last);
        for (field, event) in other.fields.into_iter().enumerate() {
            self.fields[field] = self.fields[field].take().max(event);
        }
    }

    /// Sorts the events and keeps the `last` ones.
    pub fn shorten(&mut self, last: usize) {
        self.history.sort_unstable();
        let old = self.history.len().saturating_sub(last);
        self.history.drain(..old);
    }
}

/// What the log says of one scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScenarioTally {
    /// Users with a row in it.
    pub users: u64,
    /// Its rows.
    pub rows: Tally,
}

/// Maps whose keys are not texts, as lists of pairs: JSON has no other way.
mod pairs {
    use super::{Counts, Value};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(top: &[Counts], serializer: S) -> Result<S::Ok, S::Error> {
        top.iter().map(|counts| counts.iter().collect::<Vec<_>>()).collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Counts>, D::Error> {
        let top: Vec<Vec<(Value, u64)>> = Vec::deserialize(deserializer)?;
        Ok(top.into_iter().map(|pairs| pairs.into_iter().collect()).collect())
    }
}

mod scenarios {
    use super::{BTreeMap, Tally, Value};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Map = BTreeMap<Option<Value>, Tally>;

    pub fn serialize<S: Serializer>(map: &Map, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        let pairs: Vec<(Option<Value>, Tally)> = Vec::deserialize(deserializer)?;
        Ok(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(rows: &[(i64, u32, i64, f32)]) -> UserTally {
        let mut user = UserTally::new(Value::Int(7), 1);
        for &(order, row, value, label) in rows {
            let event = Event { order, place: (0, row), value: Value::Int(value) };
            let tally = user.scenarios.entry(Some(Value::Int(value % 2))).or_insert_with(|| Tally::new(1, 1));
            tally.rows += 1;
            tally.tasks[0].add(label);
            *tally.top[0].entry(Value::Int(value)).or_default() += 1;
            user.see(0, event.clone());
            user.history.push(event);
        }
        user.shorten(3);
        user
    }

    proptest! {
        #[test]
        fn parts_merge_to_the_whole_in_any_order(
            rows in prop::collection::vec((0i64..5, 0i64..4, -1.0f32..1.0), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let rows: Vec<_> = rows.iter().enumerate().map(|(i, &(o, v, l))| (o, i as u32, v, l)).collect();
            let cut = cut.index(rows.len() + 1);
            let whole = user(&rows);
            for (first, second) in [(&rows[..cut], &rows[cut..]), (&rows[cut..], &rows[..cut])] {
                let mut merged = user(first);
                merged.merge(user(second), 3);
                prop_assert_eq!(&merged, &whole);
            }
            let read: UserTally = serde_json::from_slice(&serde_json::to_vec(&whole).unwrap()).unwrap();
            prop_assert_eq!(read, whole);
        }
    }

    #[test]
    fn the_mean_is_that_of_the_labels() {
        let mut labels = Labels::default();
        assert_eq!(labels.mean(), None);
        [1.0, 0.0, 1.0, 1.0].iter().for_each(|&label| labels.add(label));
        assert_eq!(labels.mean(), Some(0.75));
    }
}
