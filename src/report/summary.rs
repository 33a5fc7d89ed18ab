//! A run in a few words: how it went, and what was trained on what.

use super::compare::one_line;
use super::run_log::RunLog;
use serde::Serialize;
use serde_json::Value;

/// How a run went.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    name: String,
    folder: String,
    /// `done`, `early stop`, `stopped`, or `unfinished`: running, or killed.
    status: &'static str,
    step: Value,
    total_steps: Value,
    /// Median over the logged steps.
    samples_per_s: Option<f64>,
    seconds: Value,
    memory_bytes: Value,
    start: Value,
    job_text: String,
}

/// The card of a run.
pub(super) fn card(run: &RunLog) -> Card {
    let reached = [run.steps.last(), run.rounds.last(), Some(&run.end)];
    let step = reached.into_iter().flatten().filter_map(|event| event["step"].as_u64()).max();
    let seconds = [&run.end["seconds"], &run.resources["wall_s"]["max"]].into_iter().find(|value| value.is_number());
    Card {
        name: run.name.clone(),
        folder: run.folder.display().to_string(),
        status: match run.end["reason"].as_str() {
            Some("done") => "done",
            Some("early_stop") => "early stop",
            Some(_) => "stopped",
            None => "unfinished",
        },
        step: step.into(),
        total_steps: run.start["total_steps"].clone(),
        samples_per_s: median(run.steps.iter().filter_map(|step| step["samples_per_s"].as_f64()).collect()),
        seconds: seconds.cloned().unwrap_or_default(),
        memory_bytes: run.resources["memory_bytes"].clone(),
        start: run.start.clone(),
        job_text: run.job_text.clone(),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What was trained on what, from the job.
#[derive(Debug, Serialize)]
pub(super) struct Trained {
    name: String,
    /// A part of the job and its kind with the options that are set.
    parts: Vec<(&'static str, String, String)>,
    tasks: Vec<Task>,
    /// Features by kind.
    features: Vec<(String, Vec<String>)>,
    /// Split, files, rows, bytes.
    splits: Vec<(&'static str, Value)>,
}

#[derive(Debug, Serialize)]
struct Task {
    name: String,
    kind: String,
    /// What it is read from.
    from: String,
    weight: String,
    /// Share of positives in the last evaluation.
    positives: Option<f64>,
}

/// What the job of a run says.
pub(super) fn trained(run: &RunLog) -> Trained {
    let job = &run.job;
    let parts = [
        ("model", &job["model"]),
        ("balance", &job["balance"]),
        ("dense optimizer", &job["optimizer"]["dense"]),
        ("sparse optimizer", &job["optimizer"]["sparse"]),
        ("schedule", &job["optimizer"]["schedule"]),
        ("federated", &job["federated"]),
    ];
    let parts = parts.into_iter().filter(|(_, part)| part.is_mapping());
    let splits = ["train", "valid", "test"].into_iter().map(|split| (split, run.start["data"][split].clone()));
    Trained {
        name: run.name.clone(),
        parts: parts.map(|(name, part)| (name, kind(part), options(part))).collect(),
        tasks: job["tasks"].as_sequence().into_iter().flatten().map(|task| of_task(run, task)).collect(),
        features: features(job),
        splits: splits.filter(|(_, split)| split.is_object()).collect(),
    }
}

fn text(value: &serde_yaml::Value) -> String {
    value.as_str().map_or_else(|| one_line(value), String::from)
}

fn kind(part: &serde_yaml::Value) -> String {
    let kind = if part["kind"].is_string() { &part["kind"] } else { &part["method"] };
    text(kind)
}

fn options(part: &serde_yaml::Value) -> String {
    let options =
        part.as_mapping().into_iter().flatten().filter(|(key, _)| !["kind", "clients"].contains(&text(key).as_str()));
    options.map(|(key, value)| format!("{} {}", text(key), one_line(value))).collect::<Vec<_>>().join(", ")
}

fn of_task(run: &RunLog, task: &serde_yaml::Value) -> Task {
    let name = text(&task["name"]);
    let mut from = if task["label"].is_string() { text(&task["label"]) } else { one_line(&task["pair"]) };
    if let Some(column) = task["where"].as_str() {
        from += &format!(" where {column}");
    }
    let metrics = run.final_eval().map(|eval| &eval["tasks"][&name]);
    let count = |key: &str| metrics.and_then(|metrics| metrics[key].as_f64());
    let positives = count("positives").zip(count("rows")).filter(|(_, rows)| *rows > 0.0);
    Task {
        kind: text(&task["kind"]),
        from,
        weight: one_line(&task["weight"]),
        positives: positives.map(|(positives, rows)| positives / rows),
        name,
    }
}

fn features(job: &serde_yaml::Value) -> Vec<(String, Vec<String>)> {
    let mut kinds: Vec<(String, Vec<String>)> = Vec::new();
    for feature in job["features"].as_sequence().into_iter().flatten() {
        let (kind, name) = (text(&feature["kind"]), text(&feature["name"]));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, names)) => names.push(name),
            None => kinds.push((kind, vec![name])),
        }
    }
    kinds
}
