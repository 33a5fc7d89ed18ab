//! The state of a run as Prometheus reads it: a text file for node_exporter's textfile collector.

use super::events::{Notice, Step};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Name, kind and meaning of every metric, in the order of the file.
const METRICS: [(&str, &str, &str); 21] = [
    ("steps", "gauge", "Steps taken."),
    ("steps_planned", "gauge", "Steps of the whole run."),
    ("epoch", "gauge", "Epoch of the last step, from 0."),
    ("ranks", "gauge", "Ranks of the run."),
    ("samples_per_second", "gauge", "Rows a second over all ranks."),
    ("loss", "gauge", "Loss of a task in the last logged step."),
    ("weight", "gauge", "Weight of a task in the last logged step."),
    ("task_gradient_norm", "gauge", "Norm of a task's gradient in the last step that compared them."),
    ("task_cosine", "gauge", "Cosine between two tasks' gradients in the last step that compared them."),
    ("gradient_norm", "gauge", "Norm of the dense update before clipping."),
    ("learning_rate_factor", "gauge", "Factor of the learning-rate schedule."),
    ("metric", "gauge", "A metric of the last evaluation of a split."),
    ("table_rows", "gauge", "Rows of an embedding table over all ranks."),
    ("table_bytes", "gauge", "Bytes of an embedding table over all ranks, at the last checkpoint."),
    ("memory_bytes", "gauge", "Memory of all ranks, at the last checkpoint."),
    ("stage_seconds_total", "counter", "Seconds in a stage, the mean over the ranks, at the last checkpoint."),
    ("comm_seconds_total", "counter", "Seconds in calls to other ranks, the mean over the ranks."),
    ("sent_bytes_total", "counter", "Bytes that a rank sent to others, the mean over the ranks."),
    (
        "skipped_steps_total",
        "counter",
        "Steps that were left out since this process began, for numbers that are not finite.",
    ),
    ("running", "gauge", "1 while the run goes on, 0 once it has ended."),
    ("updated_timestamp_seconds", "gauge", "When this file was written."),
];

/// The newest value of every metric.
#[derive(Debug, Default)]
pub struct Prometheus {
    job: String,
    /// Metric, then labels, then value.
    values: BTreeMap<&'static str, BTreeMap<String, f64>>,
}

impl Prometheus {
    /// Nothing yet, of the job called `job`.
    pub fn new(job: &str) -> Self {
        Self { job: label_value(job), ..Self::default() }
    }

    /// Takes notice.
    pub fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Start(start) => {
                self.set("steps", &[], start.step as f64);
                self.set("steps_planned", &[], start.total_steps as f64);
                self.set("ranks", &[], start.ranks as f64);
                self.set("running", &[], 1.0);
            }
            Notice::Step(step) => self.step(step),
            Notice::Eval(evaluation) => {
                for report in &evaluation.report.tasks {
                    for (metric, value) in &report.values {
                        let labels = [("split", evaluation.split), ("task", &report.task), ("metric", metric)];
                        // A value that does not exist any more must not stay at its last one.
                        self.set("metric", &labels, value.get().unwrap_or(f64::NAN));
                    }
                }
            }
            Notice::Resources(resources) => {
                self.set("memory_bytes", &[], resources.memory_bytes as f64);
                self.set("comm_seconds_total", &[], resources.times.comm_s.mean);
                self.set("sent_bytes_total", &[], resources.times.sent_bytes.mean);
                for row in &resources.times.rows {
                    self.set("stage_seconds_total", &[("stage", row.stage.name())], row.seconds.mean);
                }
                for table in &resources.tables {
                    self.set("table_bytes", &[("table", &table.name)], table.bytes as f64);
                }
            }
            Notice::Skipped(_) => {
                let before = self.values.get("skipped_steps_total").and_then(|values| values.values().next());
                let skipped = before.copied().unwrap_or(0.0) + 1.0;
                self.set("skipped_steps_total", &[], skipped);
            }
            Notice::Checkpoint(_) => {}
            Notice::End(_) => self.set("running", &[], 0.0),
        }
    }

    fn step(&mut self, step: &Step) {
        self.set("steps", &[], step.step as f64);
        self.set("epoch", &[], step.epoch as f64);
        self.set("samples_per_second", &[], step.samples_per_s);
        self.set("gradient_norm", &[], step.grad_norm);
        self.set("learning_rate_factor", &[], step.lr_factor);
        self.set_all("loss", "task", &step.losses);
        self.set_all("weight", "task", &step.weights);
        self.set_all("task_gradient_norm", "task", &step.grad_norms);
        self.set_all("table_rows", "table", &step.table_rows);
        let names: Vec<&String> = step.losses.keys().collect();
        for (k, l) in (0..step.cosines.len()).flat_map(|k| (0..k).map(move |l| (l, k))) {
            self.set("task_cosine", &[("task", names[k]), ("other", names[l])], step.cosines[k][l]);
        }
    }

    fn set_all(&mut self, metric: &'static str, label: &str, values: &Map<String, Value>) {
        for (name, value) in values {
            self.set(metric, &[(label, name)], value.as_f64().unwrap_or(f64::NAN));
        }
    }

    fn set(&mut self, metric: &'static str, labels: &[(&str, &str)], value: f64) {
        let mut text = format!("job=\"{}\"", self.job);
        for (name, of) in labels {
            text += &format!(",{name}=\"{}\"", label_value(of));
        }
        self.values.entry(metric).or_default().insert(text, value);
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64().floor());
        let written = BTreeMap::from([(format!("job=\"{}\"", self.job), now)]);
        for (name, kind, meaning) in METRICS {
            let values = if name == "updated_timestamp_seconds" { Some(&written) } else { self.values.get(name) };
            let Some(values) = values else { continue };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP tandem_{name} {meaning}\n# TYPE tandem_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "tandem_{name}{{{labels}}} {}", number(*value));
            }
        }
        text
    }
}

/// As Prometheus writes numbers that are none.
fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_string(),
        f64::INFINITY => "+Inf".to_string(),
        f64::NEG_INFINITY => "-Inf".to_string(),
        value => value.to_string(),
    }
}

fn label_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Report, TaskReport, Value as MetricValue};
    use crate::train::events::Evaluation;

    #[test]
    fn the_newest_value_of_each_metric_stands_under_its_meaning() {
        let mut state = Prometheus::new("a \"b\"");
        for auc in [MetricValue::Real(0.5), MetricValue::Undefined, MetricValue::Real(0.75)] {
            let tasks = vec![TaskReport { task: "click".to_string(), values: vec![("auc".into(), auc)] }];
            let report = Report { tasks, ..Report::default() };
            let evaluation = Evaluation { step: 1, epoch: 1, split: "valid", report, samples_per_s: 1.0 };
            state.notice(&Notice::Eval(evaluation));
        }
        let text = state.text();
        let wanted = "# HELP tandem_metric A metric of the last evaluation of a split.\n# TYPE tandem_metric gauge\n\
                      tandem_metric{job=\"a \\\"b\\\"\",split=\"valid\",task=\"click\",metric=\"auc\"} 0.75\n";
        assert!(text.starts_with(wanted), "{text}");
        assert!(
            text.lines().last().is_some_and(|line| line.starts_with("tandem_updated_timestamp_seconds{job=")),
            "{text}"
        );
    }

    #[test]
    fn numbers_that_are_none_have_their_words() {
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1].map(number), ["NaN", "+Inf", "-Inf", "0.1"]);
    }
}
