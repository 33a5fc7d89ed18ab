//! Files and rows that cannot be used.

use crate::common::text_of;
use crate::fixture::{
    Columns, Fixture, assert_refused, columns, names, shell, tandem, tandem_on, with, without, write_parquet,
};
use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field};
use std::sync::Arc;

/// `age` with one odd value, in row 25: row group 1, row 5.
fn odd_age(value: f64) -> ArrayRef {
    Arc::new((0..40).map(|row| if row == 25 { value } else { row as f64 }).collect::<Float64Array>())
}

/// Labels with one odd value, in row 25: row group 1, row 5.
fn odd_label(value: i64) -> ArrayRef {
    Arc::new((0..40).map(|row| if row == 25 { value } else { row % 2 }).collect::<Int64Array>())
}

/// Every mistake in one training file, and what the message must say of it.
fn mistakes() -> Vec<(Columns, Vec<&'static str>)> {
    let good = || columns(40..80);
    let place = ["train/1.parquet", "row group 1", "row 5"];
    let at = |parts: &[&'static str]| [&place[..], parts].concat();
    vec![
        (without(good(), "age"), vec!["train/1.parquet", "no column `age`", "features[0] `age`"]),
        (without(good(), "buy"), vec!["train/1.parquet", "no column `buy`", "tasks[1] `buy`.label"]),
        (
            with(good(), "age", good()[2].1.clone()),
            vec!["train/1.parquet", "column `age` has type Utf8", "categorical"],
        ),
        (with(good(), "user", odd_age(0.5)), vec!["train/1.parquet", "column `user` has type Float64", "integers"]),
        (
            with(good(), "click", Arc::new(StringArray::from(vec!["yes"; 40]))),
            vec!["train/1.parquet", "column `click` has type Utf8", "write the label as a number"],
        ),
        ([good(), vec![good()[1].clone()]].concat(), vec!["train/1.parquet", "two columns are named `user`"]),
        (with(good(), "age", odd_age(f64::NAN)), at(&["the value is NaN", "column age"])),
        (with(good(), "age", odd_age(f64::NEG_INFINITY)), at(&["the value is -inf", "column age"])),
        (with(good(), "click", odd_label(2)), at(&["task `click` is neither 0 nor 1", "column click", "value 2"])),
        (with(good(), "click", odd_label(-1)), at(&["task `click` is neither 0 nor 1", "value -1"])),
    ]
}

#[test]
fn a_mistake_in_a_file_names_its_place() {
    for (columns, parts) in mistakes() {
        let fixture = Fixture::new();
        fixture.write("train/1.parquet", columns);
        assert_refused(&fixture.train(&[]), 1, &parts);
        assert!(fixture.checkpoints().is_empty());
    }
}

/// Also where every rank has its own bad file: one message, not one from each.
#[test]
fn mistakes_on_several_ranks_are_said_once_under_mpi() {
    let bad_label: fn(std::ops::Range<usize>) -> Columns = |rows| with(columns(rows), "buy", odd_label(7));
    let bad_number: fn(std::ops::Range<usize>) -> Columns = |rows| with(columns(rows), "age", odd_age(f64::INFINITY));
    let bad_column: fn(std::ops::Range<usize>) -> Columns = |rows| without(columns(rows), "age");
    for (bad, part) in
        [(bad_label, "neither 0 nor 1"), (bad_number, "the value is inf"), (bad_column, "no column `age`")]
    {
        let fixture = Fixture::new();
        for file in 0..3 {
            fixture.write(&format!("train/{file}.parquet"), bad(0..40));
        }
        let Some(output) = fixture.train_on(2, &[]) else { return };
        assert_refused(&output, 1, &[part, ".parquet"]);
    }
}

#[test]
fn a_mistake_in_one_file_ends_all_ranks_under_mpi() {
    for (columns, parts) in mistakes().into_iter().skip(7) {
        let fixture = Fixture::new();
        fixture.write("train/1.parquet", columns);
        let Some(output) = fixture.train_on(2, &[]) else { return };
        assert_refused(&output, 1, &parts);
    }
}

#[test]
fn a_vector_is_checked_element_by_element() {
    let vector = |odd: f32| -> ArrayRef {
        let values = (0..80).map(|i| if i == 51 { odd } else { 0.5 }).collect::<Float32Array>();
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        Arc::new(FixedSizeListArray::try_new(item, 2, Arc::new(values), None).unwrap())
    };
    let fixture = Fixture::new();
    for file in ["train/0", "train/1", "train/2", "valid/0"] {
        let odd = if file == "train/2" { f32::NAN } else { 1.0 };
        fixture.write(&format!("{file}.parquet"), with(columns(0..40), "image", vector(odd)));
    }
    let image = "features.0={name: image, kind: vector, length: 2}";
    let place = ["train/2.parquet", "row group 1", "row 5", "column image", "NaN"];
    assert_refused(&fixture.train(&["--set", image]), 1, &place);
    let long = "features.0={name: image, kind: vector, length: 3}";
    assert_refused(&fixture.train(&["--set", long]), 1, &["column image", "2 numbers where `length` is 3"]);
}

/// Checkpoints of the steps before the bad row are whole. Rows are decoded about 4096 at a time, and the seed says
/// when the turn of the bad one comes.
#[test]
fn what_was_saved_before_a_bad_row_can_be_used() {
    let mut saved = 0;
    for seed in 1..=4 {
        let fixture = Fixture::new();
        fixture.write("train/0.parquet", columns(0..12_000));
        fixture.write("train/1.parquet", with(columns(0..40), "click", odd_label(3)));
        let sets = ["checkpoint.every=1 steps", "train.global_batch=1000", "data.lanes=1", &format!("seed={seed}")];
        let output = fixture.train(&sets.map(|set| ["--set", set]).concat());
        assert_refused(&output, 1, &["train/1.parquet", "row group 1, row 5", "neither 0 nor 1"]);
        if !fixture.checkpoints().is_empty() {
            fixture.assert_evaluates();
            saved += 1;
        }
    }
    assert!(saved > 0);
}

#[test]
fn a_file_cut_short_is_named_also_under_mpi() {
    for ranks in [1, 2] {
        for kept in [0, 4, 300] {
            let fixture = Fixture::new();
            let path = fixture.path("train/2.parquet");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..kept]).unwrap();
            let Some(output) = fixture.train_on(ranks, &[]) else { return };
            assert_refused(&output, 1, &["not a whole Parquet file", "train/2.parquet", "write the file again"]);
        }
    }
}

/// Whatever bytes a data page has, the decoder's failure or panic is an error that names the file, and whatever
/// still decodes is trained on.
#[test]
fn damaged_pages_are_named() {
    let mut named = 0;
    for seed in 0..12u64 {
        let fixture = Fixture::new();
        let path = fixture.path("train/1.parquet");
        let mut bytes = std::fs::read(&path).unwrap();
        // The footer is behind the data, and damage there is another test's.
        let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
        let end = bytes.len() - 8 - footer;
        for i in 0..40 {
            let at = 4 + (seed * 7919 + i * 104_729) as usize % (end - 4);
            bytes[at] = (seed * 31 + i * 17) as u8;
        }
        std::fs::write(&path, bytes).unwrap();
        let output = fixture.train(&[]);
        if !output.status.success() {
            assert_refused(&output, 1, &["train/1.parquet"]);
            named += 1;
        }
    }
    assert!(named > 6, "{named}");
}

#[test]
fn nothing_to_read_is_said_with_the_pattern_also_under_mpi() {
    let fixture = Fixture::new();
    for pattern in ["none/*.parquet", "train/*.csv", "train/9.parquet"] {
        let set = format!("data.train={pattern}");
        assert_refused(&fixture.train(&["--set", &set]), 1, &["no file matches", pattern, "data.root"]);
    }
    let Some(output) = fixture.train_on(2, &["--set", "data.train=none/*.parquet"]) else { return };
    assert_refused(&output, 1, &["no file matches", "none/*.parquet"]);
}

#[test]
fn files_without_rows_are_no_data_also_under_mpi() {
    let fixture = Fixture::new();
    fixture.write("valid/0.parquet", columns(0..0));
    assert_refused(&fixture.train(&[]), 1, &["none of the 1 files has a row", "valid"]);
    let Some(output) = fixture.train_on(2, &[]) else { return };
    assert_refused(&output, 1, &["none of the 1 files has a row", "valid"]);
}

/// Small is not wrong.
#[test]
fn little_data_trains_also_under_mpi() {
    let fixture = Fixture::new();
    // One step takes more rows than there are.
    let output = fixture.train(&["--set", "train.global_batch=4096"]);
    assert!(output.status.success(), "{}", text_of(&output));
    // One row, and with it a constant feature, one class, and a lane for one rank only.
    let fixture = Fixture::new();
    fixture.write("one/0.parquet", columns(0..1));
    let one = ["--set", "data.train=one", "--set", "data.valid=one", "--set", "model.norm=batch"];
    let output = fixture.train(&one);
    assert!(output.status.success(), "{}", text_of(&output));
    fixture.assert_evaluates();
    let more = ["--run-dir", &fixture.arg("more")];
    let Some(output) = fixture.train_on(2, &[&one[..], &more].concat()) else { return };
    assert_refused(&output, 2, &["2 ranks cannot share 1 lanes", "data.lanes", "start at most 1 ranks"]);
}

#[test]
fn a_task_without_labels_is_pointed_out() {
    for balance in ["{kind: uniform}", "{kind: cagrad}", "{kind: uncertainty}"] {
        let fixture = Fixture::new();
        let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None; 40]));
        for file in ["train/0", "train/1", "train/2", "valid/0"] {
            fixture.write(&format!("{file}.parquet"), with(columns(0..40), "buy", nulls.clone()));
        }
        let output = fixture.train(&["--set", &format!("balance={balance}")]);
        assert!(output.status.success(), "{}", text_of(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("task `buy` had no labelled row in this epoch"), "{stderr}");
        assert!(!stderr.contains("task `click` had no"), "{stderr}");
        assert!(!stderr.contains("NaN"), "{stderr}");
    }
}

#[test]
fn booleans_are_labels() {
    let fixture = Fixture::new();
    let flags: ArrayRef = Arc::new((0..40).map(|row| Some(row % 3 == 0)).collect::<BooleanArray>());
    for file in ["train/0", "train/1", "train/2", "valid/0"] {
        fixture.write(&format!("{file}.parquet"), with(columns(0..40), "click", flags.clone()));
    }
    let output = fixture.train(&[]);
    assert!(output.status.success(), "{}", text_of(&output));
}

#[test]
fn other_commands_say_what_their_data_lacks_also_under_mpi() {
    let fixture = Fixture::new();
    assert!(fixture.train(&[]).status.success());
    let run = fixture.arg("run");
    write_parquet(&fixture.path("unlabelled/0.parquet"), without(without(columns(0..40), "click"), "buy"));
    write_parquet(&fixture.path("featureless/0.parquet"), without(columns(0..40), "user"));
    write_parquet(&fixture.path("scored/0.parquet"), with(columns(0..40), "pred_buy", columns(0..40)[0].1.clone()));
    let data = |name: &str| fixture.arg(name);

    let eval = |folder: &str| tandem(&["eval", &run, "--data", &data(folder)]);
    assert_refused(&eval("unlabelled"), 1, &["no column `click`", "unlabelled/0.parquet", "`tandem predict`"]);
    assert_refused(&eval("nowhere"), 1, &["no file matches", "nowhere", "correct --data"]);

    let predict = |ranks, folder: &str, out: &str| {
        tandem_on(ranks, &["predict", &run, "--data", &data(folder), "--out", &data(out)])
    };
    assert!(predict(1, "unlabelled", "out1").unwrap().status.success());
    assert_refused(&predict(1, "unlabelled", "out1").unwrap(), 2, &["is not empty", "out1", "--out"]);
    let taken = predict(1, "unlabelled", "job.yaml").unwrap();
    assert_refused(&taken, 1, &["creating the output folder failed", "job.yaml", "--out"]);
    assert_refused(&predict(1, "featureless", "out2").unwrap(), 1, &["no column `user`", "featureless/0.parquet"]);
    for (ranks, out) in [(1, "out3"), (2, "out4")] {
        let Some(output) = predict(ranks, "scored", out) else { return };
        assert_refused(&output, 1, &["already has a column `pred_buy`", "scored/0.parquet", "rename this column"]);
        assert!(names(&fixture.path(out)).is_empty());
    }
}

/// Standard output is a file like any other.
#[test]
fn a_result_that_cannot_be_printed_is_an_error() {
    let fixture = Fixture::new();
    assert!(fixture.train(&[]).status.success());
    let (run, valid) = (fixture.arg("run"), fixture.arg("valid"));
    for command in [format!("inspect {run}"), format!("eval {run} --data {valid} --json")] {
        let output = shell(&format!("exec \"$TANDEM\" {command} > /dev/full"));
        assert_refused(&output, 1, &["printing failed", "standard output", "free space"]);
        // A reader that leaves early has what it wanted.
        let output = shell(&format!("{{ \"$TANDEM\" {command}; echo \"code $?\" >&2; }} | true"));
        assert!(String::from_utf8_lossy(&output.stderr).contains("code 0"), "{}", text_of(&output));
    }
}
