//! Seeing a run: the report, the log, what dashboards read, the shell's helpers, drafts of jobs, logs as text.

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use common::text_of;
use fixture::{Fixture, assert_refused, shell, tandem};
use serde_json::Value;

fn stdout(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", text_of(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_report_shows_a_run_and_compares_two() {
    let fixture = Fixture::new();
    let second = fixture.arg("second");
    stdout(&fixture.train(&["--set", "tasks.click.gauc=user", "--set", "train.epochs=2"]));
    stdout(&fixture.train(&["--set", "balance={kind: cagrad, c: 0.3}", "--run-dir", &second]));
    let written = stdout(&tandem(&["report", &fixture.arg("run")]));
    assert_eq!(written.trim(), fixture.arg("run/report.html"));
    let page = std::fs::read_to_string(written.trim()).unwrap();
    for part in ["click · ROC", "buy · auc on valid", "click · AUC of the groups", "uniform", "tandem", "decode wait"]
    {
        assert!(page.contains(part), "no {part:?}");
    }
    let out = fixture.arg("both.html");
    stdout(&tandem(&["report", &fixture.arg("run"), &second, "--out", &out]));
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.contains("<th>balance.kind</th>") && page.contains("<th>train.epochs</th>"), "{page}");
    assert_refused(&tandem(&["report", &fixture.arg("nowhere")]), 1, &["nowhere/metrics.jsonl"]);
}

#[test]
fn the_log_is_json_if_asked_and_nothing_if_quiet() {
    let fixture = Fixture::new();
    let output = fixture.train(&["--log", "json"]);
    assert!(output.status.success(), "{}", text_of(&output));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<Value> =
        stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    assert!(lines.iter().all(|line| line["time"].is_string() && line["rank"] == 0 && line["message"].is_string()));
    let progress = lines.iter().rfind(|line| line["message"] == "progress").expect("progress");
    assert_eq!((&progress["step"], &progress["steps"]), (&6.into(), &6.into()), "{progress}");
    assert!(progress["losses"]["click"].is_f64() && progress["memory_bytes"].as_u64() > Some(1 << 20), "{progress}");
    let failed = tandem(&["train", &fixture.arg("none.yaml"), "--log", "json"]);
    let error: Value = serde_json::from_slice(&failed.stderr).unwrap_or_else(|e| panic!("{e}: {}", text_of(&failed)));
    assert!(error["level"] == "ERROR" && error["message"].as_str().unwrap().contains("none.yaml"), "{error}");
    let quiet = fixture.train(&["--quiet", "--run-dir", &fixture.arg("quiet")]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", text_of(&quiet));
}

#[test]
fn plain_lines_have_no_colours_and_no_control_characters() {
    let fixture = Fixture::new();
    let output = fixture.train(&["-vv"]);
    assert!(output.status.success() && !output.stderr.contains(&0x1b), "{}", text_of(&output));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("epoch 1/1  step 6/6"), "the last step is said: {text}");
}

#[test]
fn the_file_for_prometheus_has_the_newest_values() {
    let fixture = Fixture::new();
    stdout(&fixture.train(&[]));
    let text = std::fs::read_to_string(fixture.path("run/metrics.prom")).unwrap();
    for part in [
        "tandem_steps{job=\"small\"} 6\n",
        "tandem_running{job=\"small\"} 0\n",
        "tandem_loss{job=\"small\",task=\"click\"} ",
        "tandem_metric{job=\"small\",split=\"valid\",task=\"buy\",metric=\"auc\"} ",
        "tandem_table_rows{job=\"small\",table=\"city\"} 3\n",
        "# TYPE tandem_stage_seconds_total counter\n",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("tandem_")), "{text}");
    assert!(!fixture.path("run/metrics.partial").exists());
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let fixture = Fixture::new();
    stdout(&fixture.train(&["--tensorboard"]));
    let text = std::fs::read_to_string(fixture.path("run/metrics.prom")).unwrap();
    let board = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana.json")).unwrap();
    serde_json::from_str::<Value>(&board).expect("JSON");
    let mut asked = 0;
    for (at, _) in board.match_indices("tandem_") {
        let name: String = board[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        assert!(text.contains(&format!("# TYPE {name} ")), "no metric {name}");
        asked += 1;
    }
    assert!(asked > 10, "{asked}");
}

#[test]
fn shells_and_readers_of_manuals_are_told_of_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = stdout(&tandem(&["completions", shell]));
        assert!(text.contains("inspect") && text.contains("run-dir"), "{shell}");
    }
    assert!(stdout(&tandem(&["man"])).contains(".TH tandem 1"));
    let folder = tempfile::tempdir().unwrap();
    stdout(&tandem(&["man", "--out", folder.path().to_str().unwrap()]));
    let train = std::fs::read_to_string(folder.path().join("tandem-train.1")).unwrap();
    assert!(train.contains("max_steps") || train.contains("\\-\\-set"), "{train}");
}

#[test]
fn a_new_job_says_what_it_guessed_and_trains() {
    let fixture = Fixture::new();
    let out = fixture.arg("new.yaml");
    stdout(&tandem(&["new", &fixture.arg("train"), "--out", &out]));
    let text = std::fs::read_to_string(&out).unwrap();
    for part in [
        "{name: age, kind: numeric, transform: standardize}  # numbers 20 … 69, mean ",
        "{name: user, kind: categorical, dim: 8}  # 31 distinct ids",
        "{name: city, kind: categorical, dim: 4}  # 3 distinct ids",
        "{name: click, label: click, kind: binary}  # 0 or 1, 1 in 35.00 % of the rows",
        "{name: buy, label: buy, kind: binary}",
        "kind: mmoe",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    stdout(&tandem(&["train", &out, "--run-dir", &fixture.arg("new"), "--set", "train.max_steps=2", "--quiet"]));
    assert_refused(&tandem(&["new", &fixture.arg("train"), "--out", &out]), 2, &["new.yaml", "already"]);
    let one = stdout(&tandem(&["new", &fixture.arg("train"), "--label", "buy", "--ignore", "age"]));
    assert!(one.contains("shared_bottom") && one.contains("# age: asked for"), "{one}");
    assert!(one.contains("{name: click, kind: categorical, dim: 4}"), "{one}");
    assert_refused(&tandem(&["new", &fixture.arg("train"), "--label", "bought"]), 2, &["`bought`", "click, buy"]);
    assert_refused(&tandem(&["new", &fixture.arg("train"), "--label", "city"]), 2, &["`city`", "no label"]);
}

#[test]
fn text_becomes_parquet_becomes_a_job_becomes_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String =
        (0..600).map(|row| format!("{},{},{}\n", row % 40, row * 7 % 90, i32::from(row % 3 == 0))).collect();
    std::fs::write(folder.path().join("clicks.csv"), format!("user_id,item_id,click\n{rows}")).unwrap();
    let script = format!(
        "cd {} && \"$TANDEM\" ingest clicks.csv --out logs --split 70,15,15 && \"$TANDEM\" new logs/train --out job.yaml \
         && \"$TANDEM\" train job.yaml --set data.valid=logs/valid --quiet && \"$TANDEM\" inspect logs/train",
        folder.path().display()
    );
    let said = stdout(&shell(&script));
    assert!(
        said.contains("train: ") && said.contains("item_id  whole number") && said.contains("next: tandem new"),
        "{said}"
    );
    assert!(said.contains("distinct") && said.contains("Int64"), "{said}");
}

#[test]
fn inspect_reads_tables_and_compares_checkpoints() {
    let fixture = Fixture::new();
    stdout(&fixture.train(&["--set", "checkpoint.every=3 steps"]));
    let steps = fixture.checkpoints();
    let path = |step: usize| fixture.arg(&format!("run/checkpoints/{}", steps[step]));
    let table = stdout(&tandem(&["inspect", &fixture.arg("run"), "--rows", "--top", "2"]));
    for part in ["shared_bottom, balanced by uniform", "click (binary), buy (binary)", "table user: 31 rows", "norms"] {
        assert!(table.contains(part), "no {part:?} in {table}");
    }
    let json: Value = serde_json::from_str(&stdout(&tandem(&["inspect", &path(1), "--rows", "--json"]))).unwrap();
    let city = json["rows"].as_array().unwrap().iter().find(|table| table["name"] == "city").unwrap();
    let rows: u64 = city["hottest"].as_array().unwrap().iter().map(|entry| entry[1].as_u64().unwrap()).sum();
    assert_eq!((city["hottest"].as_array().unwrap().len(), rows), (3, 120), "every row of training has a city: {city}");

    let diff: Value =
        serde_json::from_str(&stdout(&tandem(&["inspect", &path(0), "--diff", &path(1), "--json"]))).unwrap();
    assert_eq!((&diff["steps"], &diff["same_data"]), (&serde_json::json!([3, 6]), &true.into()));
    let user = diff["tables"].as_array().unwrap().iter().find(|table| table["name"] == "user").unwrap();
    assert_eq!(user["added"].as_u64().unwrap() + user["kept"].as_u64().unwrap(), 31, "{user}");
    assert!(user["changed"].as_u64() > Some(0) && user["mean_distance"].as_f64() > Some(0.0), "{user}");
    assert!(diff["parameters"][0][1].as_f64() > Some(0.0), "{diff}");
    let same = stdout(&tandem(&["inspect", &path(0), "--diff", &path(0)]));
    assert!(same.contains("  0.000000  ") && same.contains("step 3 → step 3, trained on the same rows"), "{same}");
    stdout(&fixture.train(&["--set", "checkpoint.buckets=8", "--run-dir", &fixture.arg("other")]));
    assert_refused(&tandem(&["inspect", &path(0), "--diff", &fixture.arg("other")]), 2, &["4 and 8 buckets"]);
}

#[test]
fn inspect_says_what_a_checkpoint_began_with() {
    let fixture = Fixture::new();
    stdout(&fixture.train(&[]));
    let init = format!("init_from={}", fixture.arg("run"));
    stdout(&fixture.train(&["--set", &init, "--run-dir", &fixture.arg("later")]));
    let said = stdout(&tandem(&["inspect", &fixture.arg("later")]));
    assert!(said.contains(&format!("began with  {}", fixture.arg("run"))), "{said}");
}

#[cfg(feature = "serving")]
#[test]
fn inspect_says_what_a_bundle_holds() {
    let fixture = Fixture::new();
    stdout(&fixture.train(&[]));
    stdout(&tandem(&["export", &fixture.arg("run"), "--out", &fixture.arg("bundle")]));
    let said = stdout(&tandem(&["inspect", &fixture.arg("bundle")]));
    for part in ["model       shared_bottom", "click, buy", "user", "model.onnx", "f32 in parquet"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let json: Value = serde_json::from_str(&stdout(&tandem(&["inspect", &fixture.arg("bundle"), "--json"]))).unwrap();
    assert_eq!((&json["job"], &json["step"]), (&"small".into(), &6.into()));
}
