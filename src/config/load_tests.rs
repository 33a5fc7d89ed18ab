//! Error messages of [`super`], overrides end to end, and that no text makes it panic.

use super::super::to_yaml;
use super::*;
use proptest::prelude::*;

const JOB: &str = "\
name: small
data:
  train: logs/train/*.parquet
  valid: logs/valid/*.parquet
  lanes: auto
features:
  - {name: age, kind: numeric, transform: quantile, dim: 4}
  - {name: item, kind: categorical, dim: 16}
  - name: history
    kind: sequence
    table: item
    pooling: attention
    target: item
tables:
  item:
    init: {kind: normal, std: 0.01}
    admission: {min_count: 2}
tasks:
  - {name: click, label: label_click}
  - name: buy
    label: label_buy
    where: label_click
model:
  kind: mmoe
  experts: 4
  expert: [256, 128]
train:
  global_batch: 512
  eval: {every: 1 epoch, stop: {task: mean, patience: 2}}
";

fn read(text: &str, overrides: &[&str]) -> Result<Loaded> {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    from_text(text, Path::new("jobs/small.yaml"), &overrides)
}

fn message(text: &str, overrides: &[&str]) -> String {
    match read(text, overrides) {
        Ok(_) => panic!("no error for {overrides:?} and\n{text}"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        }
    }
}

#[test]
fn a_right_job_is_read_whole() {
    let job = read(JOB, &[]).unwrap().job;
    assert_eq!(job.name, "small");
    assert_eq!(job.data.lanes, None);
    assert_eq!(job.tasks[1].where_column.as_deref(), Some("label_click"));
    assert_eq!(job.tables["item"].admission.unwrap().min_count, Some(2));
    assert_eq!(job.model.options["experts"], 4);
    assert_eq!(job.table_dims().iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>(), [("age", 4), ("item", 16)]);
    // Defaults of the features are filled in.
    assert_eq!(job.features[0].buckets, Some(32));
    assert_eq!(job.features[2].max_len, Some(50));
    assert_eq!(job.features[2].dim, Some(16));
}

/// Each case replaces one piece of the job; the message must have every part.
#[test]
fn messages_name_file_line_key_and_remedy() {
    for (from, to, parts) in [
        (
            "    where: label_click",
            "    wheer: label_click",
            &["unknown key `wheer`", "(file jobs/small.yaml, line 22, key tasks[1].wheer)", "did you mean `where`?"][..],
        ),
        (
            "name: small",
            "name: small\nfeature: 3",
            &[
                "unknown key `feature`",
                "line 2, key feature)",
                "did you mean `features`?",
                "checkpoint, federated, run_dir, threads",
            ],
        ),
        (
            "    label: label_buy\n",
            "",
            &["the key `label` is missing", "line 20, key tasks[1].label)", "add `label: …` to `tasks[1]`"],
        ),
        ("model:\n  kind: mmoe\n", "model:\n", &["the key `kind` is missing", "line 23, key model.kind)"]),
        ("name: small\n", "", &["the key `name` is missing", "(file jobs/small.yaml, key name)", "to the job"]),
        (
            "global_batch: 512",
            "global_batch: many",
            &["expected a whole number, 0 or more, found the text \"many\"", "line 28, key train.global_batch)"],
        ),
        (
            "{min_count: 2}",
            "{min_count: -2}",
            &["found the number `-2`", "line 17, key tables.item.admission.min_count)"],
        ),
        (
            "every: 1 epoch",
            "every: 1000",
            &["expected a period: `1 epoch`", "`1000`", "line 29, key train.eval.every)"],
        ),
        ("every: 1 epoch", "every: 2 days", &["`2 days` is not a period", "line 29, key train.eval.every)"]),
        ("lanes: auto", "lanes: many", &["expected `auto` or a whole number", "line 5, key data.lanes)"]),
        ("lanes: auto", "lanes: -4", &["expected `auto` or a whole number", "`-4`", "line 5"]),
        (
            "  train: logs/train/*.parquet",
            "  train: 5",
            &["expected a path or a list of paths, found the number `5`", "line 3, key data.train)"],
        ),
        (
            "  train: logs/train/*.parquet",
            "  train: [a, 5]",
            &["expected text", "line 3, key data.train[1])", "in quotes"],
        ),
        (
            "kind: categorical",
            "kind: categorial",
            &["unknown value `categorial`", "line 8, key features[1].kind)", "did you mean `categorical`?"],
        ),
        ("  kind: mmoe\n", "  kind: mmoe\n  kind: ple\n", &["`kind` is given twice", "line 25, key kind)"]),
        ("name: small", "name: small\nname: other", &["`name` is given twice", "line 2, key name)"]),
        ("name: small", "name: small\n1: x", &["the key `1` is not text"]),
        ("name: small", "name: !special small", &["the tag `!special` means nothing", "line 1, key name)"]),
        ("name: small", "name: [small", &["this is not YAML", "file jobs/small.yaml, line 2, column "]),
        ("name: small", "name: small\n\ttab: 1", &["this is not YAML", "line "]),
        ("name: small", "name: small\n---\nname: b", &["more than one YAML document"]),
        ("lanes: auto", "lanes: 5", &["5 lanes cannot share", "line 5, key data.lanes)", "`lanes: 4`"]),
        (
            "target: item",
            "target: itme",
            &["`itme`, which is not a feature", "line 13, key features[2].target)", "did you mean `item`?"],
        ),
    ] {
        assert!(JOB.contains(from), "{from}");
        let message = message(&JOB.replacen(from, to, 1), &[]);
        for part in parts {
            assert!(message.contains(part), "{from} → {to}: no {part:?} in\n{message}");
        }
    }
}

#[test]
fn files_that_are_no_jobs() {
    for (text, part) in [
        ("", "the job file is empty"),
        ("# only a comment\n", "the job file is empty"),
        ("just text", "a job is a mapping of keys"),
        ("[1, 2]", "a job is a mapping of keys"),
        ("\u{0}", "this is not YAML"),
    ] {
        let message = message(text, &[]);
        assert!(message.contains(part) && message.contains("file jobs/small.yaml"), "{text:?}: {message}");
    }
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("latin1.yaml"), b"name: x\ndata: caf\xe9\n").unwrap();
    std::fs::write(at("data.parquet"), vec![b'x'; MAX_JOB_BYTES as usize + 1]).unwrap();
    for (path, parts) in [
        (at("latin1.yaml"), ["not UTF-8", "line 2"]),
        (at("data.parquet"), ["longer than 4 MiB", "not the data"]),
        (at("missing.yaml"), ["cannot be read", "check the path"]),
        (folder.path().to_path_buf(), ["cannot be read", "not its folder"]),
    ] {
        let error = load(&path, &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        for part in parts.iter().copied().chain([&*path.display().to_string()]) {
            assert!(message.contains(part), "{part:?} not in {message}");
        }
    }
    std::fs::write(at("job.yaml"), JOB).unwrap();
    assert_eq!(load(&at("job.yaml"), &["seed=3".to_string()]).unwrap().job.seed, 3);
}

#[test]
fn overrides_change_the_job() {
    let job = read(
        JOB,
        &[
            "train.epochs=7",
            "tasks.buy.weight=2.5",
            "tasks.0.weight=0.5",
            "model={kind: ple, levels: 2}",
            "data.root=/d",
            "checkpoint.every=10 steps",
            "train.epochs=8",
            "features.age.dim=2",
        ],
    )
    .unwrap()
    .job;
    assert_eq!(job.train.epochs, 8);
    assert_eq!(job.train.global_batch, 512);
    assert_eq!((job.tasks[0].weight, job.tasks[1].weight), (0.5, 2.5));
    assert_eq!(job.model.kind, "ple");
    assert!(!job.model.options.contains_key("experts"));
    assert_eq!(job.data.resolve(&job.data.train), ["/d/logs/train/*.parquet"]);
    assert_eq!(job.checkpoint.every, super::super::Every::Steps(10));
    assert_eq!(job.table_dims()["age"], 2);
}

#[test]
fn messages_about_overrides_cite_them() {
    for (text, parts) in [
        (
            "train.epoch=2",
            &["unknown key `epoch`", "(--set train.epoch=2, key train.epoch)", "did you mean `epochs`?"][..],
        ),
        ("trian.epochs=2", &["unknown key `trian`", "--set trian.epochs=2", "did you mean `train`?"]),
        ("train.epochs=many", &["expected a whole number", "--set train.epochs=many", "key train.epochs)"]),
        ("train.epochs=0", &["expected 1 or more", "--set train.epochs=0", "key train.epochs)"]),
        ("tasks.buy.weigth=2", &["unknown key `weigth`", "key tasks[1].weigth)", "did you mean `weight`?"]),
        ("tasks.bui.weight=2", &["no entry named `bui`", "--set tasks.bui.weight=2", "did you mean `buy`?"]),
        ("model={experts: 2}", &["the key `kind` is missing", "--set model={experts: 2}", "key model.kind)"]),
        ("model=mmoe", &["expected a mapping such as `{kind: …}`, found the text \"mmoe\"", "--set model=mmoe"]),
        ("tables.itme.dim=8", &["no feature reads the table `itme`", "--set tables.itme.dim=8", "`item`"]),
        ("name=", &["expected text, found nothing", "--set name="]),
        ("model.gates={1: 2}", &["the key `1` is not text", "--set model.gates={1: 2}"]),
    ] {
        let message = message(JOB, &[text]);
        for part in parts {
            assert!(message.contains(part), "{text}: no {part:?} in\n{message}");
        }
    }
}

#[test]
fn an_error_in_the_file_keeps_its_line_beside_overrides() {
    let text = JOB.replace("    where:", "    wheer:");
    let message = message(&text, &["train.epochs=2", "tasks.0.weight=3"]);
    assert!(message.contains("file jobs/small.yaml, line 22, key tasks[1].wheer"), "{message}");
}

#[test]
fn later_errors_are_located() {
    let source = read(JOB, &["model.experts=0"]).unwrap().source;
    let at = |key: &str| source.locate(Error::job("wrong").at("key", key)).to_string();
    assert_eq!(at("model.expert"), "wrong (file jobs/small.yaml, line 26, key model.expert)");
    assert_eq!(at("model.experts"), "wrong (--set model.experts=0, key model.experts)");
    assert_eq!(at("balance.kind"), "wrong (file jobs/small.yaml, key balance.kind)");
    // Errors of another kind, without a key, or that have their place stay as they are.
    assert_eq!(source.locate(Error::data("bad").at("key", "name")).to_string(), "bad (key name)");
    assert_eq!(source.locate(Error::job("bad")).to_string(), "bad");
    let placed = Error::job("bad").at("key", "name").at("file", "other.yaml");
    assert_eq!(source.locate(placed.clone()).to_string(), placed.to_string());
}

#[test]
fn a_job_survives_being_written() {
    let written = to_yaml(&read(JOB, &["train.max_steps=5", "data.train=[a, b]"]).unwrap().job).unwrap();
    let again = read(&written, &[]).unwrap().job;
    assert_eq!(to_yaml(&again).unwrap(), written);
    assert_eq!(again.train.max_steps, Some(5));
    assert_eq!(again.data.train.patterns(), ["a", "b"]);
    assert_eq!(again.features[2].target.as_deref(), Some("item"));
    assert_eq!(again.tasks[1].where_column.as_deref(), Some("label_click"));
    assert_eq!(again.model.options, read(JOB, &[]).unwrap().job.model.options);
}

#[test]
fn merge_keys_are_applied() {
    let text = JOB.replace(
        "  - {name: click, label: label_click}",
        "  - &first {name: click, label: label_click, weight: 3}\n  - {<<: *first, name: again}",
    );
    let job = read(&text, &[]).unwrap().job;
    assert_eq!((job.tasks[1].name.as_str(), job.tasks[1].weight), ("again", 3.0));
}

/// Text made of the pieces of jobs and of YAML's syntax.
fn yaml_like() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "name",
        "tasks",
        "data",
        "tables",
        "item",
        ":",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a ",
        "*a",
        "<<: ",
        "!t ",
        "\"",
        "'",
        "|",
        ">",
        "? ",
        "---\n",
        "...",
        "%YAML 1.2",
        "#",
        "~",
        "1",
        "-1.5e3",
        ".nan",
        "é",
        "\t",
        "\u{feff}",
    ]);
    prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: prop::test_runner::RngSeed::Fixed(17),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_text_panics(text in prop_oneof![any::<String>(), yaml_like()]) {
        let _ = read(&text, &[]);
        let _ = read(JOB, &[&text]);
        let _ = read(JOB, &[&format!("tasks.{text}")]);
    }

    #[test]
    fn no_damage_to_a_job_panics(start in 0..JOB.len(), length in 0..20usize, piece in yaml_like()) {
        let end = (start + length).min(JOB.len());
        let _ = read(&format!("{}{piece}{}", &JOB[..start], &JOB[end..]), &[]);
    }
}
