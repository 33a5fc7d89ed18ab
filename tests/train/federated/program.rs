//! `tandem train` of a job with clients, and what the other commands make of its run folder.

use super::{CLIENTS, place};
use crate::common::text_of;
use std::process::Command;

fn tandem(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_tandem")).args(args).output().expect("the program starts")
}

#[test]
fn clients_are_trained_evaluated_and_used() {
    let place = place();
    let (job, run_dir) = (place.job_file().display().to_string(), place.path("run").display().to_string());
    let trained = tandem(&["train", &job, "--run-dir", &run_dir, "--set", "federated.rounds=2"]);
    let said = text_of(&trained);
    assert!(trained.status.success(), "{said}");
    for part in [
        "3 clients: a (70 rows)",
        "each client sends",
        "round 2",
        "client mean",
        "client c",
        "the best so far",
        "test after round",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let log = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["start", "round", "eval", "checkpoint", "round", "eval", "checkpoint", "end", "eval"]);
    assert!(events[8]["clients"]["b"]["buy"]["logloss"].is_number() && events[8]["tasks"]["click"]["auc"].is_number());

    let refused = tandem(&["eval", &run_dir, "--data", &place.path("a/test").display().to_string()]);
    assert!(text_of(&refused).contains("clients/<name>"), "{}", text_of(&refused));
    for name in CLIENTS {
        let client = place.path(&format!("run/clients/{name}")).display().to_string();
        let data = place.path(&format!("{name}/test")).display().to_string();
        let report = tandem(&["eval", &client, "--data", &data, "--json"]);
        assert!(report.status.success(), "{}", text_of(&report));
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!(report["tasks"]["click"]["auc"], events[8]["clients"][name]["click"]["auc"], "its best round");
        let out = place.path(&format!("scored-{name}")).display().to_string();
        let scored = tandem(&["predict", &client, "--data", &data, "--out", &out]);
        assert!(scored.status.success(), "{}", text_of(&scored));
    }
    let dry = tandem(&["train", &job, "--dry-run", "--run-dir", &place.path("other").display().to_string()]);
    assert!(String::from_utf8_lossy(&dry.stdout).contains("share_lr: 0.1"), "{}", text_of(&dry));
}
