//! Metrics of all clients: gathered, and their mean.

use super::exchange::Exchange;
use crate::error::{Error, Result};
use crate::metric::{TaskReport, Value, by_task};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

/// Each client's metrics by task; none where it has no rows to evaluate.
pub type Reports = Vec<Option<Vec<TaskReport>>>;

/// A [`Value`] as it travels.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Number {
    Real(f64),
    Count(u64),
    Undefined,
}

/// A task's name and its metrics.
type Message = (String, Vec<(String, Number)>);

/// All clients' reports on every rank, in client order; `mine` are those of this rank's clients. Collective.
pub fn gather(exchange: &Exchange, mine: &Reports) -> Result<Reports> {
    let messages: Vec<Option<Vec<Message>>> =
        mine.iter().map(|reports| reports.as_ref().map(|reports| reports.iter().map(to_message).collect())).collect();
    let broken = |e: serde_json::Error| Error::internal(format!("metrics cannot be sent: {e}"));
    let sent = serde_json::to_vec(&messages).map_err(broken)?;
    let mut all = Reports::new();
    for message in exchange.messages(&sent)? {
        let reports: Vec<Option<Vec<Message>>> = serde_json::from_slice(&message).map_err(broken)?;
        all.extend(reports.into_iter().map(|reports| Some(reports?.into_iter().map(from_message).collect())));
    }
    Ok(all)
}

fn to_message(report: &TaskReport) -> Message {
    let number = |value: &Value| match *value {
        Value::Real(value) => Number::Real(value),
        Value::Count(count) => Number::Count(count),
        Value::Undefined => Number::Undefined,
    };
    (report.task.clone(), report.values.iter().map(|(name, value)| (name.to_string(), number(value))).collect())
}

fn from_message((task, values): Message) -> TaskReport {
    let value = |number| match number {
        Number::Real(value) => Value::Real(value),
        Number::Count(count) => Value::Count(count),
        Number::Undefined => Value::Undefined,
    };
    TaskReport { task, values: values.into_iter().map(|(name, number)| (name.into(), value(number))).collect() }
}

/// An evaluation of all clients. Serialises as `{"tasks": {task: …}, "clients": {client: {task: …}}}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// The mean over the clients, every one counting alike: their models are different ones, whose scores have no order among each
    /// other, so there are no metrics of the whole.
    #[serde(serialize_with = "by_task")]
    pub tasks: Vec<TaskReport>,
    /// The metrics of each client that has rows to evaluate.
    #[serde(serialize_with = "by_client")]
    pub clients: Vec<(String, Vec<TaskReport>)>,
}

impl Report {
    /// Of `reports`, in the order of the clients' `names`.
    pub fn new(names: &[String], reports: &Reports) -> Self {
        let clients = names.iter().zip(reports).filter_map(|(name, tasks)| Some((name.clone(), tasks.clone()?)));
        Self { tasks: mean(reports), clients: clients.collect() }
    }
}

/// The metrics of one client.
#[derive(Serialize)]
#[serde(transparent)]
struct OfClient<'a> {
    #[serde(serialize_with = "by_task")]
    tasks: &'a [TaskReport],
}

fn by_client<S: Serializer>(
    clients: &[(String, Vec<TaskReport>)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(clients.len()))?;
    for (name, reports) in clients {
        map.serialize_entry(name, &OfClient { tasks: reports })?;
    }
    map.end()
}

/// The mean over the clients of each metric where it is defined, and the sum of each count.
fn mean(reports: &Reports) -> Vec<TaskReport> {
    let clients: Vec<&Vec<TaskReport>> = reports.iter().flatten().collect();
    let Some(first) = clients.first() else { return Vec::new() };
    let of_task = |(t, task): (usize, &TaskReport)| {
        let of_metric = |(v, (name, _)): (usize, &(crate::metric::Name, Value))| {
            let values = clients.iter().filter_map(|reports| Some(reports.get(t)?.values.get(v)?.1));
            (name.clone(), mean_value(values))
        };
        TaskReport { task: task.task.clone(), values: task.values.iter().enumerate().map(of_metric).collect() }
    };
    first.iter().enumerate().map(of_task).collect()
}

fn mean_value(values: impl Iterator<Item = Value>) -> Value {
    let (mut sum, mut defined, mut count) = (0.0, 0u32, None);
    for value in values {
        match value {
            Value::Real(value) => (sum, defined) = (sum + value, defined + 1),
            Value::Count(more) => count = Some(count.unwrap_or(0) + more),
            Value::Undefined => {}
        }
    }
    match (count, defined) {
        (Some(count), _) => Value::Count(count),
        (None, 0) => Value::Undefined,
        (None, defined) => Value::Real(sum / f64::from(defined)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(auc: Value, rows: u64) -> Option<Vec<TaskReport>> {
        let values = vec![("auc".into(), auc), ("rows".into(), Value::Count(rows))];
        Some(vec![TaskReport { task: "click".to_string(), values }])
    }

    #[test]
    fn clients_count_alike_where_a_metric_is_defined() {
        let reports =
            vec![report(Value::Real(0.6), 10), None, report(Value::Undefined, 5), report(Value::Real(0.8), 1)];
        let report = Report::new(&["a", "b", "c", "d"].map(String::from), &reports);
        assert_eq!(report.tasks[0].get("auc"), Some(0.7));
        assert_eq!(report.tasks[0].values[1].1, Value::Count(16));
        assert_eq!(report.clients.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["clients"]["d"]["click"]["rows"], 1);
        assert!(Report::new(&["a".to_string()], &vec![None]).tasks.is_empty());
    }
}
