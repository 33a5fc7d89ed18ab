//! The commands, end to end: what they print and write, at one rank and at several.

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    StringDictionaryBuilder, TimestampMillisecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type};
use common::text_of;
use fixture::{Columns, Fixture, assert_refused, columns, names, read_parquet, tandem, tandem_on, with, without};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Rows with a column of every sort that predictions must carry along, whether the model reads it or not.
fn rich(rows: std::ops::Range<usize>) -> Columns {
    let some = |row: usize| !row.is_multiple_of(5);
    let history = rows.clone().map(|row| some(row).then(move || (0..row % 4).map(move |i| Some((row * 7 + i) as i64))));
    let mut device = StringDictionaryBuilder::<Int32Type>::new();
    rows.clone().for_each(|row| device.append_option(some(row).then(|| ["phone", "desk"][row % 2])));
    let scores = rows.clone().map(|row| Some((0..2).map(move |i| Some((row + i) as f32 / 9.0))));
    let extra: [(&'static str, ArrayRef); 6] = [
        ("age", Arc::new(rows.clone().map(|row| some(row).then_some(row as f64)).collect::<Float64Array>())),
        ("history", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(history))),
        ("device", Arc::new(device.finish())),
        ("note", Arc::new(rows.clone().map(|row| some(row).then(|| format!("row {row}"))).collect::<StringArray>())),
        (
            "at",
            Arc::new(
                rows.clone().map(|row| some(row).then_some(row as i64 * 1000)).collect::<TimestampMillisecondArray>(),
            ),
        ),
        ("scores", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(scores))),
    ];
    extra.into_iter().fold(columns(rows), |all, (name, array)| with(all, name, array))
}

/// A trained model that reads lists, dictionaries and vectors, and a log to score: files of 45, 1, 0 and 24 rows
/// in dated folders.
fn trained() -> Fixture {
    let fixture = Fixture::new();
    for file in 0..3 {
        fixture.write(&format!("train/{file}.parquet"), rich(40 * file..40 * file + 40));
    }
    fixture.write("valid/0.parquet", rich(1000..1040));
    for (file, rows) in LOG {
        fixture.write(file, rich(rows));
    }
    let features = "features=[{name: age, kind: numeric, transform: standardize}, {name: user, kind: categorical, dim: 4}, \
                    {name: city, kind: categorical, dim: 4}, {name: history, kind: sequence, table: user, max_len: 3}, \
                    {name: device, kind: categorical, dim: 2}, {name: scores, kind: vector, length: 2}]";
    let output = fixture.train(&["--set", features, "--set", "train.epochs=3", "--set", "optimizer.dense.lr=0.05"]);
    assert!(output.status.success(), "{}", text_of(&output));
    fixture
}

const LOG: [(&str, std::ops::Range<usize>); 4] = [
    ("log/dt=2024-01-01/a.parquet", 0..45),
    ("log/dt=2024-01-01/b.parquet", 45..46),
    ("log/dt=2024-01-02/a.parquet", 46..46),
    ("log/dt=2024-01-02/b.parquet", 46..70),
];

/// All parts of a folder of predictions, in the order of their names.
fn parts(folder: &Path) -> RecordBatch {
    let batches: Vec<RecordBatch> = names(folder).iter().flat_map(|name| read_parquet(&folder.join(name))).collect();
    concat_batches(&batches[0].schema(), &batches).expect("parts of one schema")
}

fn floats(batch: &RecordBatch, column: &str) -> Vec<f32> {
    batch.column_by_name(column).expect(column).as_primitive::<Float32Type>().values().to_vec()
}

fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (row, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= 1e-6, "row {row}: {x} and {y}");
    }
}

fn eval(fixture: &Fixture, ranks: usize, batch: &str) -> Option<Value> {
    let (run, log) = (fixture.arg("run"), fixture.arg("log"));
    let args = ["eval", &run, "--data", &log, "--json", "--global-batch", batch];
    let output = tandem_on(ranks, &args)?;
    assert!(output.status.success(), "{}", text_of(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text_of(&output))))
}

fn predict(fixture: &Fixture, ranks: usize, batch: &str) -> Option<RecordBatch> {
    let out = format!("out-{ranks}-{batch}");
    let (run, log, out_arg) = (fixture.arg("run"), fixture.arg("log"), fixture.arg(&out));
    let args = ["predict", &run, "--data", &log, "--out", &out_arg, "--global-batch", batch];
    let output = tandem_on(ranks, &args)?;
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("scored 70 rows"), "{}", text_of(&output));
    assert!(names(&fixture.path(&out)).iter().all(|name| name.ends_with(".parquet")), "nothing is left aside");
    Some(parts(&fixture.path(&out)))
}

/// Checks that `scored` holds the log's rows in order, all columns as they were, and the folders' dates.
fn assert_carries_the_log(scored: &RecordBatch) {
    let expected: Columns = rich(0..70);
    for (name, array) in &expected {
        let found = scored.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        assert_eq!(found.as_ref(), array.as_ref(), "{name}");
    }
    let dates: Vec<Option<&str>> = scored.column_by_name("dt").expect("dt").as_string::<i32>().iter().collect();
    let date = |row| Some(if row < 46 { "2024-01-01" } else { "2024-01-02" });
    assert_eq!(dates, (0..70).map(date).collect::<Vec<_>>());
    let written: Vec<&str> = expected.iter().map(|(name, _)| *name).chain(["dt", "pred_click", "pred_buy"]).collect();
    let schema = scored.schema();
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), written);
}

#[test]
fn predictions_keep_rows_and_order_and_do_not_know_the_ranks_under_mpi() {
    let fixture = trained();
    let alone = predict(&fixture, 1, "16").expect("one rank needs no mpirun");
    assert_carries_the_log(&alone);
    // They say something: not all rows are alike.
    let click = floats(&alone, "pred_click");
    assert!(click.iter().any(|p| (p - click[0]).abs() > 0.01), "{click:?}");
    for (ranks, batch) in [(1, "8192"), (1, "1"), (2, "16"), (3, "16"), (3, "8192")] {
        let Some(scored) = predict(&fixture, ranks, batch) else { return };
        assert_carries_the_log(&scored);
        for column in ["pred_click", "pred_buy"] {
            assert_close(&floats(&alone, column), &floats(&scored, column));
        }
    }
}

/// −Σ (y ln p + (1 − y) ln(1 − p)) / n.
fn logloss(probabilities: &[f32], labels: &[i64]) -> f64 {
    let losses = probabilities.iter().zip(labels).map(|(&p, &label)| {
        let p = f64::from(p);
        -if label == 1 { p.ln() } else { (1.0 - p).ln() }
    });
    losses.sum::<f64>() / labels.len() as f64
}

#[test]
fn predictions_are_what_eval_scored() {
    let fixture = trained();
    let scored = predict(&fixture, 1, "16").expect("one rank needs no mpirun");
    let report = eval(&fixture, 1, "16").expect("one rank needs no mpirun");
    assert_eq!(report["rows"], 70);
    for task in ["click", "buy"] {
        let labels = scored.column_by_name(task).expect(task).as_primitive::<Int64Type>();
        let mine = logloss(&floats(&scored, &format!("pred_{task}")), labels.values());
        let theirs = report["tasks"][task]["logloss"].as_f64().expect("a number");
        assert!((mine - theirs).abs() < 1e-6, "{task}: {mine} and {theirs}");
    }
}

#[test]
fn evaluation_does_not_know_the_ranks_under_mpi() {
    let fixture = trained();
    let alone = eval(&fixture, 1, "16").expect("one rank needs no mpirun");
    for (ranks, batch) in [(1, "8192"), (2, "16"), (3, "16"), (3, "8192")] {
        let Some(report) = eval(&fixture, ranks, batch) else { return };
        for field in ["checkpoint", "step", "rows"] {
            assert_eq!(report[field], alone[field]);
        }
        for task in ["click", "buy"] {
            for (name, value) in alone["tasks"][task].as_object().expect("metrics") {
                let (a, b) = (value.as_f64(), report["tasks"][task][name].as_f64());
                let same = a.zip(b).map_or(a == b, |(a, b)| (a - b).abs() <= 1e-6 * (1.0 + a.abs()));
                assert!(same, "{ranks} ranks: {task} {name}: {a:?} and {b:?}");
            }
        }
    }
}

#[test]
fn regressions_and_classes_are_predicted_as_such() {
    let fixture = Fixture::new();
    for file in ["train/0", "train/1", "train/2", "valid/0"] {
        let shop: ArrayRef = Arc::new((0..40).map(|row| row % 3).collect::<Int64Array>());
        let spent: ArrayRef = Arc::new((0..40).map(|row| row as f32 / 10.0).collect::<Float32Array>());
        fixture.write(&format!("{file}.parquet"), with(with(columns(0..40), "shop", shop), "spent", spent));
    }
    let tasks = "tasks=[{name: shop, label: shop, kind: multiclass, classes: 3}, {name: spent, label: spent, kind: regression}]";
    let output = fixture.train(&["--set", tasks]);
    assert!(output.status.success(), "{}", text_of(&output));
    let args = ["predict", &fixture.arg("run"), "--data", &fixture.arg("valid"), "--out", &fixture.arg("out")];
    let output = tandem(&args);
    assert!(output.status.success(), "{}", text_of(&output));
    let scored = parts(&fixture.path("out"));
    let shops = scored.column_by_name("pred_shop").expect("pred_shop").as_fixed_size_list();
    assert_eq!((shops.len(), shops.value_length()), (40, 3));
    let values = shops.values().as_primitive::<Float32Type>().values();
    assert!(values.chunks(3).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6), "{values:?}");
    assert_eq!(floats(&scored, "pred_spent").len(), 40);
}

#[test]
fn inspect_shows_what_a_checkpoint_holds_also_under_mpi() {
    let fixture = Fixture::new();
    assert!(fixture.train(&[]).status.success());
    let run = fixture.arg("run");
    let table = tandem(&["inspect", &run]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for part in ["step-00000006", "6 steps, 1 epochs", "user ", "city ", "accumulator"] {
        assert!(table.contains(part), "no {part:?} in {table}");
    }
    let json = tandem(&["inspect", &run, "--json"]);
    let report: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&report["step"], &report["epoch"]), (&Value::from(6), &Value::from(1)));
    let rows = |name: &str| {
        let tables = report["tables"].as_array().expect("tables");
        tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("{name}"))["rows"].clone()
    };
    assert_eq!((rows("user"), rows("city")), (Value::from(31), Value::from(3)));
    let job = tandem(&["inspect", &run, "--job"]);
    let job: Value = serde_yaml::from_slice(&job.stdout).expect("YAML");
    assert_eq!(job["name"], "small");
    // Started on several ranks it still speaks once.
    let Some(both) = tandem_on(2, &["inspect", &run, "--json"]) else { return };
    assert_eq!(both.stdout, json.stdout, "{}", text_of(&both));
}

/// What `tandem balance --json` says of a file.
fn balanced(file: &Path, kind: &str) -> Value {
    let output = tandem(&["balance", "--kind", kind, "--gradients", &file.display().to_string(), "--json"]);
    assert!(output.status.success(), "{}", text_of(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn balance_shows_all_methods_side_by_side_from_json_and_parquet() {
    let fixture = Fixture::new();
    let json = fixture.path("gradients.json");
    std::fs::write(&json, r#"{"gradients": [[1, 0], [-1, 1]], "tasks": ["click", "buy"]}"#).unwrap();
    let all = balanced(&json, "all");
    let of = |kind: &str| {
        let list = all.as_array().expect("a list");
        list.iter().find(|entry| entry["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {all}")).clone()
    };
    assert_eq!(of("pcgrad")["weights"], serde_json::json!([2.0, 1.5]));
    assert!((of("pcgrad")["update_norm"].as_f64().unwrap() - 2.5f64.sqrt()).abs() < 1e-12);
    assert!(of("db_mtl").is_object() && of("graddrop").is_object(), "methods of the gradients themselves answer too");
    let table = tandem(&["balance", "--gradients", &json.display().to_string()]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("click and buy: in conflict, cosine -0.7071"), "{table}");

    // The same gradients as columns, and as rows of one list column.
    let columns: Columns = vec![
        ("click", Arc::new(Float32Array::from(vec![1.0, 0.0]))),
        ("buy", Arc::new(Float32Array::from(vec![-1.0, 1.0]))),
    ];
    common::log::write(&fixture.path("columns.parquet"), columns, 10);
    let rows = [[1.0, 0.0], [-1.0, 1.0]].map(|row| Some(row.map(Some).to_vec()));
    let lists: Columns = vec![("gradient", Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(rows)))];
    common::log::write(&fixture.path("lists.parquet"), lists, 10);
    for file in ["columns.parquet", "lists.parquet"] {
        assert_eq!(balanced(&fixture.path(file), "all"), all, "{file}");
    }
    let gram = fixture.path("gram.json");
    std::fs::write(&gram, r#"{"gram": [[1, -1], [-1, 2]]}"#).unwrap();
    assert_eq!(balanced(&gram, "mgda"), balanced(&json, "mgda"));
}

#[test]
fn balance_refuses_what_are_no_gradients() {
    let fixture = Fixture::new();
    let file = fixture.path("wrong.json");
    for (text, part) in [
        ("{}", "either \"gradients\" or \"gram\""),
        ("nonsense", "not JSON with gradients"),
        (r#"{"gradients": [[1, 2], [3]]}"#, "gradient 1 has 1 numbers"),
        (r#"{"gradients": []}"#, "no gradient"),
        (r#"{"gram": [[1, 2], [3, 4]]}"#, "not symmetric"),
        (r#"{"gram": [[-1]]}"#, "negative square"),
        (r#"{"gradients": [[1], [2]], "losses": [1]}"#, "1 losses for 2 tasks"),
        (r#"{"gram": [[1, 2]]}"#, "no square matrix"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = tandem(&["balance", "--kind", "mgda", "--gradients", &file.display().to_string()]);
        let said = text_of(&output);
        assert!(output.status.code() == Some(2) && said.contains(part) && said.contains("wrong.json"), "{said}");
    }
    std::fs::write(&file, r#"{"gram": [[1, 0], [0, 1]]}"#).unwrap();
    let output = tandem(&["balance", "--kind", "moco", "--gradients", &file.display().to_string()]);
    assert!(text_of(&output).contains("the gradients themselves"), "{}", text_of(&output));
}

#[test]
fn a_synthetic_log_is_written_once_under_mpi() {
    let fixture = Fixture::new();
    let (alone, both) = (fixture.arg("alone"), fixture.arg("both"));
    let args = |out| ["synth", out, "--rows", "900", "--files", "3", "--json"];
    let first = tandem(&args(&alone));
    assert!(first.status.success(), "{}", text_of(&first));
    let Some(second) = tandem_on(2, &args(&both)) else { return };
    assert!(second.status.success(), "{}", text_of(&second));
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(names(&fixture.path("alone")), names(&fixture.path("both")));
    let file = "train/part-00000.parquet";
    assert_eq!(
        std::fs::read(fixture.path("alone").join(file)).unwrap(),
        std::fs::read(fixture.path("both").join(file)).unwrap()
    );
}

#[test]
fn a_dry_run_prints_the_job_and_leaves_nothing() {
    let fixture = Fixture::new();
    for more in [&["--dry-run"][..], &["--dry-run", "--quiet"]] {
        let output = fixture.train(more);
        assert!(output.status.success(), "{}", text_of(&output));
        let job: Value = serde_yaml::from_slice(&output.stdout).expect("YAML and nothing else");
        assert_eq!((&job["name"], &job["train"]["epochs"]), (&Value::from("small"), &Value::from(1)));
        assert!(job["data"]["lanes"].is_u64(), "what was left to tandem is filled in: {job}");
        assert!(!fixture.path("run").exists());
    }
    // What it prints is a job: the same one.
    let printed = fixture.train(&["--dry-run", "--quiet"]).stdout;
    std::fs::write(fixture.path("resolved.yaml"), &printed).unwrap();
    let again = tandem(&["train", &fixture.arg("resolved.yaml"), "--dry-run", "--quiet"]);
    assert_eq!(again.stdout, printed, "{}", text_of(&again));
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "train",
        "doctor",
        "eval",
        "predict",
        "replay",
        "export",
        "verify",
        "apply",
        "inspect",
        "synth",
        "balance",
        "knowledge",
        "report",
        "new",
        "ingest",
        "schema",
        "completions",
        "man",
    ] {
        let output = tandem(&[command, "--help"]);
        assert!(output.status.success(), "{}", text_of(&output));
        let help = String::from_utf8_lossy(&output.stdout);
        for part in
            ["Usage: tandem", "Example", &format!("tandem {command} "), "Exit codes: 0 done, 1 failed, 2 bad usage"]
        {
            assert!(help.contains(part), "no {part:?} in {help}");
        }
        // Every option says what it is for.
        let options = help.split("Example").next().unwrap_or_default();
        // A line `- value: …` explains one value of an option.
        let is_option = |line: &&str| line.trim_start().starts_with('-') && !line.trim_start().starts_with("- ");
        for line in options.lines().filter(is_option) {
            let explained = line.trim_start().contains("  ") || options.contains(&format!("{line}\n          "));
            assert!(explained, "{command}: {line}");
        }
    }
    let version = tandem(&["--version"]);
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("tandem "));
    let all = tandem(&["--help"]);
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    assert!(all.contains("Exit codes") && all.contains("75 stopped by a signal"), "{all}");
}

#[test]
fn a_killed_prediction_goes_on_behind_its_finished_parts_under_mpi() {
    let fixture = trained();
    let whole = predict(&fixture, 1, "16").expect("one rank needs no mpirun");
    let (run, log, out) = (fixture.arg("run"), fixture.arg("log"), fixture.path("killed"));
    let args = ["predict", &run, "--data", &log, "--out", &fixture.arg("killed"), "--resume"];
    for ranks in [1, 3, 2] {
        let Some(output) = tandem_on(ranks, &args) else { return };
        assert!(output.status.success(), "{}", text_of(&output));
        assert!(parts(&out).columns() == whole.columns(), "{ranks} ranks");
        // Nothing is left to do.
        let output = tandem(&args);
        assert!(text_of(&output).contains("scored 0 rows") && text_of(&output).contains("70 were there"), "{output:?}");
        // As if the run had been killed: a part of the middle is not there, and one is half written.
        let all = names(&out);
        let gone = out.join(&all[all.len() / 2]);
        let rows: usize = read_parquet(&gone).iter().map(RecordBatch::num_rows).sum();
        std::fs::rename(&gone, gone.with_extension("parquet.partial")).unwrap();
        let output = tandem(&args);
        assert!(text_of(&output).contains(&format!("scored {rows} rows")), "{rows}: {}", text_of(&output));
        assert!(parts(&out).columns() == whole.columns(), "{ranks} ranks, resumed");
        assert!(names(&out).iter().all(|name| name.ends_with(".parquet")), "nothing is left aside");
        for name in names(&out).iter().skip(1).step_by(2) {
            std::fs::remove_file(out.join(name)).unwrap();
        }
    }
}

#[test]
fn parts_of_another_prediction_are_not_gone_on_with() {
    let fixture = trained();
    let checkpoint = |name: &String| fixture.arg(&format!("run/checkpoints/{name}"));
    let (run, other) = (checkpoint(&fixture.checkpoints()[0]), checkpoint(&fixture.checkpoints()[1]));
    let (log, valid) = (fixture.arg("log"), fixture.arg("valid"));
    let predict =
        |data: &str, run: &str| tandem(&["predict", run, "--data", data, "--out", &fixture.arg("out"), "--resume"]);
    assert!(predict(&log, &run).status.success());
    assert_refused(&predict(&valid, &run), 2, &["was scored from other rows", "out/part-"]);
    assert_refused(&predict(&log, &other), 2, &["was scored with another checkpoint"]);
    std::fs::copy(fixture.path("valid/0.parquet"), fixture.path("out/part-00000-00000-0000000000.parquet")).unwrap();
    assert_refused(&predict(&log, &run), 2, &["is no part of a prediction"]);
}

#[test]
fn a_missing_column_is_an_error_or_one_of_nulls() {
    let fixture = trained();
    let (mut nulls, mut missing) = (rich(0..30), rich(0..30));
    for name in ["user", "city", "age", "history", "scores"] {
        let kind = nulls.iter().find(|(known, _)| *known == name).expect(name).1.data_type().clone();
        nulls = with(nulls, name, arrow::array::new_null_array(&kind, 30));
        missing = without(missing, name);
    }
    fixture.write("nulls/0.parquet", nulls);
    fixture.write("missing/0.parquet", missing);
    let predict = |folder: &str, more: &[&str]| {
        let (run, data, out) = (fixture.arg("run"), fixture.arg(folder), fixture.arg(&format!("out-{folder}")));
        tandem(&[&["predict", &run, "--data", &data, "--out", &out], more].concat())
    };
    assert_refused(&predict("missing", &[]), 1, &["no column `age`", "--missing null"]);
    for folder in ["nulls", "missing"] {
        let output = predict(folder, &["--missing", "null"]);
        assert!(output.status.success(), "{}", text_of(&output));
    }
    let scored = |folder: &str| parts(&fixture.path(&format!("out-{folder}")));
    assert_eq!(floats(&scored("missing"), "pred_click"), floats(&scored("nulls"), "pred_click"));
    assert!(scored("missing").column_by_name("user").is_none(), "what was not there is not made up");
}
