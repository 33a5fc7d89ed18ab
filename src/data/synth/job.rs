//! The job file beside the log: a newcomer's first `tandem train`.

use super::options::{COUNTRY, Checked, HISTORY, Labels, USER};
use crate::config::job::{Feature, FeatureKind, Pooling, Transform};
use std::path::Path;

/// `features:` of a job that reads every column of the log.
pub fn features(checked: &Checked) -> Vec<Feature> {
    let options = checked.options();
    let mut features: Vec<Feature> = (0..options.numeric)
        .map(|j| Feature { transform: Some(Transform::Standardize), ..plain(&format!("n{j}"), FeatureKind::Numeric) })
        .collect();
    for column in &checked.columns {
        // Wide enough to hold what the ids of the column can say, no wider than a demo can afford.
        let dim = if column.cardinality < 1000 { 8 } else { 16 };
        features.push(Feature { dim: Some(dim), ..plain(&column.name, FeatureKind::Categorical) });
    }
    if let Some(column) = checked.history_column() {
        features.push(Feature {
            table: Some(checked.columns[column].name.clone()),
            max_len: Some(options.history),
            pooling: Some(Pooling::Mean),
            ..plain(HISTORY, FeatureKind::Sequence)
        });
    }
    features
}

fn plain(name: &str, kind: FeatureKind) -> Feature {
    Feature {
        name: name.to_string(),
        kind,
        column: None,
        columns: Vec::new(),
        table: None,
        dim: None,
        pooling: None,
        max_len: None,
        target: None,
        transform: None,
        buckets: None,
        length: None,
    }
}

/// A commented job for an MMoE over all tasks of the log in `out`.
pub fn text(out: &Path, checked: &Checked) -> String {
    let options = checked.options();
    let tasks: String =
        options.tasks.iter().map(|t| format!("  - {{name: {t}, label: {t}, gauc: {USER}}}\n")).collect();
    let nested = match (options.labels, &options.tasks[..]) {
        (Labels::Nested, [first, second, ..]) => format!(
            "# Each label is 1 only where the one before it is. All rows carry all labels here; to learn\n\
             # P({second} | {first}) instead, add `where: {first}` to the task {second}.\n"
        ),
        _ => String::new(),
    };
    let features: String = features(checked).iter().map(|f| format!("  - {}\n", flow(f))).collect();
    let valid = if options.split[1] > 0 { "  valid: valid\n" } else { "" };
    let train_rows: u64 = checked.files.iter().filter(|f| f.split == 0).map(|f| f.rows.end - f.rows.start).sum();
    format!(
        "# A job for the synthetic log beside this file, written by `tandem synth`:\n\
         #   tandem train {path}/job.yaml\n\
         # and on two ranks, with the same result:\n\
         #   mpirun -n 2 tandem train {path}/job.yaml\n\
         # synth.json says what the best possible AUC of each task is.\n\
         name: {name}\n\
         \n\
         data:\n  root: {root}\n  train: train\n{valid}  test: test\n\
         \n\
         # {COUNTRY} is text, {USER} and c0, c1, ... are 64-bit ids with the table sizes of synth.json.\n\
         features:\n{features}\
         \n\
         {nested}\
         # GAUC is the AUC within each user, averaged by rows.\n\
         tasks:\n{tasks}\
         \n\
         model: {{kind: mmoe, experts: 4, expert: [128, 64], tower: [32]}}\n\
         \n\
         # How the tasks' gradients are combined. Also try {{kind: cagrad, c: 0.4}}, {{kind: pcgrad}}.\n\
         balance: {{kind: uniform}}\n\
         \n\
         optimizer:\n  dense:  {{kind: adam, lr: 1.0e-3}}\n  sparse: {{kind: rowwise_adagrad, lr: 0.02}}\n\
         \n\
         train:\n  global_batch: {batch}    # rows of a step over all ranks\n  epochs: 2\n",
        path = out.display(),
        name = job_name(out),
        root = quoted(&out.display().to_string()),
        batch = global_batch(train_rows),
    )
}

/// The folder's name where that is a plain name: it names the run's folder too.
fn job_name(out: &Path) -> String {
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if plain { name } else { "synth".to_string() }
}

/// A power of two that makes an epoch some hundred steps.
fn global_batch(train_rows: u64) -> u64 {
    (train_rows / 300).next_power_of_two().clamp(256, 8192)
}

/// Text in double quotes: JSON's escapes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// One feature on one line. Names of columns are plain words, so nothing needs quotes.
fn flow(feature: &Feature) -> String {
    let fields = match serde_json::to_value(feature) {
        Ok(serde_json::Value::Object(fields)) => fields,
        other => unreachable!("a feature is a mapping: {other:?}"),
    };
    let pairs: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{key}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_string)))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}
