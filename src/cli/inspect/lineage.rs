//! What a checkpoint was trained for, and from which others it comes.

use crate::checkpoint::{self, Manifest};
use serde::Serialize;
use std::path::Path;

/// Longest chain that is followed.
const MOST: usize = 20;

/// What its job says of a checkpoint.
#[derive(Debug, Default, Serialize)]
pub struct Job {
    pub name: String,
    pub model: String,
    pub balance: String,
    /// Name and kind of each task.
    pub tasks: Vec<(String, String)>,
    /// The checkpoints that it began with, the nearest first: where they are, and their steps if they are still there.
    pub lineage: Vec<(String, Option<u64>)>,
}

/// Reads it from the manifest, and from those of the checkpoints before it as far as these can be found.
pub fn read(manifest: &Manifest) -> Job {
    let job = yaml(manifest);
    let text = |value: &serde_yaml::Value| value.as_str().unwrap_or("?").to_string();
    let tasks = job["tasks"].as_sequence().into_iter().flatten();
    Job {
        name: text(&job["name"]),
        model: text(&job["model"]["kind"]),
        balance: text(&job["balance"]["kind"]),
        tasks: tasks.map(|task| (text(&task["name"]), text(&task["kind"]))).collect(),
        lineage: lineage(&job),
    }
}

fn yaml(manifest: &Manifest) -> serde_yaml::Value {
    serde_yaml::from_str(&manifest.job).unwrap_or_default()
}

fn lineage(job: &serde_yaml::Value) -> Vec<(String, Option<u64>)> {
    let mut found = Vec::new();
    let mut before = job["init_from"]["checkpoint"].as_str().map(String::from);
    while let Some(path) = before.take().filter(|_| found.len() < MOST) {
        let manifest = checkpoint::resolve(Path::new(&path)).and_then(|path| Manifest::read(&path)).ok();
        before = manifest.as_ref().and_then(|m| yaml(m)["init_from"]["checkpoint"].as_str().map(String::from));
        found.push((path, manifest.map(|manifest| manifest.step)));
    }
    found
}
