//! `tandem export` and `tandem verify` by themselves.

use super::*;
use serde_json::Value;

const MODEL: &str = "{kind: shared_bottom, bottom: [16], tower: [8], activation: tanh}";

fn trained() -> Trained {
    Trained::new(log::FEATURES, log::TASKS, MODEL)
}

#[test]
fn a_bundle_has_what_serving_needs_and_verifies() {
    let trained = trained();
    let said: Value = serde_json::from_slice(&trained.export("bundle", &["--json"]).stdout).unwrap();
    // 51 rows of each of the file's row groups, whose last one has 20, and one of nulls.
    assert_eq!(said["verified"]["rows"], 4 * 51 + 20 + 1, "{said}");
    let bundle = trained.path("bundle");
    assert_eq!(names(Path::new(&bundle)), ["golden.parquet", "manifest.json", "model.onnx", "schema.json", "tables"]);
    assert_eq!(names(trained.folder.path()), ["bundle", "job.yaml", "run", "test", "train"], "nothing stays aside");
    let verified: Value = serde_json::from_slice(&tandem(&["verify", &bundle, "--json"]).stdout).unwrap();
    let tasks = verified["tasks"].as_object().unwrap();
    assert_eq!(tasks.keys().collect::<Vec<_>>(), ["click", "buy", "stars", "color"]);
    assert!(tasks.values().all(|worst| worst.as_f64().unwrap() <= 1e-5), "{verified}");
    // An existing bundle is not written over.
    let (code, error) = refused(&["export", &trained.path("run"), "--out", &bundle]);
    assert!(code == Some(2) && error.contains("not empty"), "{error}");
}

#[test]
fn the_schema_says_what_became_of_every_feature() {
    let trained = trained();
    trained.export("bundle", &["--tables", "redis,safetensors,keyvalue"]);
    let schema: Value = serde_json::from_slice(&std::fs::read(trained.path("bundle/schema.json")).unwrap()).unwrap();
    let names = |part: &str, key: &str| -> Vec<String> {
        schema[part].as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names("ids", "name"), ["income", "user", "item", "city", "tags", "recent", "history", "user_city"]);
    assert_eq!(names("pooled", "feature"), ["income", "user", "item", "city", "tags", "recent", "user_city"]);
    assert_eq!(names("sequences", "feature"), ["history"]);
    assert_eq!(names("dense", "name"), ["price", "age", "spent", "score", "image"]);
    assert_eq!(names("tasks", "activation"), ["sigmoid", "sigmoid", "identity", "softmax"]);
    let item = schema["tables"].as_array().unwrap().iter().find(|table| table["name"] == "item").unwrap();
    for format in ["parquet", "redis", "safetensors", "keyvalue"] {
        let path = Path::new(&trained.path("bundle")).join(item["files"][format].as_str().unwrap());
        assert!(path.exists(), "{format}: {item}");
    }
}

#[test]
fn what_was_changed_does_not_verify() {
    let trained = trained();
    trained.export("bundle", &[]);
    let bundle = trained.path("bundle");
    let schema = trained.path("bundle/schema.json");
    let good = std::fs::read_to_string(&schema).unwrap();
    std::fs::write(&schema, good.replace("\"std\"", "\"std\" ")).unwrap();
    let (code, error) = refused(&["verify", &bundle]);
    assert!(code == Some(1) && error.contains("`schema.json` was changed"), "{error}");
}

#[test]
fn a_bundle_whose_rules_are_wrong_differs() {
    let trained = trained();
    trained.export("bundle", &[]);
    let bundle = Path::new(&trained.path("bundle")).to_path_buf();
    let path = bundle.join("schema.json");
    let good = std::fs::read_to_string(&path).unwrap();
    let mut wrong: Value = serde_json::from_str(&good).unwrap();
    wrong["dense"][1]["transform"]["mean"] = 0.0.into();
    reseal(&bundle, "schema.json", wrong.to_string().as_bytes());
    let (code, error) = refused(&["verify", &trained.path("bundle")]);
    assert!(code == Some(1) && error.contains("`dense` differs by"), "{error}");
}

/// Replaces a file, and its checksums in the manifest: what a mistake in export would look like.
fn reseal(bundle: &Path, name: &str, bytes: &[u8]) {
    let checksum = tandem::checkpoint::checksum;
    std::fs::write(bundle.join(name), bytes).unwrap();
    let path = bundle.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for file in manifest["files"].as_array_mut().unwrap().iter_mut().filter(|file| file["name"] == name) {
        file["bytes"] = bytes.len().into();
        file["checksum"] = checksum(bytes).into();
    }
    manifest.as_object_mut().unwrap().shift_remove("checksum");
    let text = serde_json::to_string_pretty(&manifest).unwrap();
    let rest = format!("\",{}", text.strip_prefix('{').unwrap());
    std::fs::write(&path, format!("{{\n  \"checksum\": \"{}{rest}", checksum(rest.as_bytes()))).unwrap();
}

#[test]
fn triton_gets_a_model_repository() {
    let trained = trained();
    trained.export("bundle", &["--layout", "triton"]);
    let config = std::fs::read_to_string(trained.path("bundle/model_repository/shop/config.pbtxt")).unwrap();
    assert!(config.contains("platform: \"onnxruntime_onnx\""), "{config}");
    for name in ["pooled", "dense", "sequence.history", "mask.history", "pred_color", "logits_click"] {
        assert!(config.contains(&format!("name: \"{name}\"")), "{name}: {config}");
    }
    assert!(Path::new(&trained.path("bundle/model_repository/shop/1/model.onnx")).is_file());
    tandem(&["verify", &trained.path("bundle")]);
}

#[test]
fn a_model_with_its_tables_inside_gives_the_same() {
    let trained = trained();
    trained.export("bundle", &["--self-contained"]);
    let verified: Value =
        serde_json::from_slice(&tandem(&["verify", &trained.path("bundle"), "--json"]).stdout).unwrap();
    let tasks = verified["self_contained"].as_object().unwrap();
    assert_eq!(tasks.len(), 4);
    assert!(tasks.values().all(|worst| worst.as_f64().unwrap() <= 1e-5), "{verified}");
}

#[test]
fn tables_of_each_task_are_served() {
    for model in
        ["{kind: single_task, embeddings: own, bottom: [8], tower: []}", "{kind: stem, expert: [8], tower: []}"]
    {
        let trained = Trained::new(log::FEATURES, log::TASKS, model);
        trained.export("bundle", &["--self-contained"]);
        let schema: Value =
            serde_json::from_slice(&std::fs::read(trained.path("bundle/schema.json")).unwrap()).unwrap();
        let pooled = schema["pooled"].as_array().unwrap().iter().filter(|part| part["feature"] == "city.buy").count();
        assert_eq!(pooled, 1, "{schema}");
    }
}

#[test]
fn quantized_vectors_verify_and_say_what_they_cost() {
    let trained = trained();
    for dtype in ["int8", "fp16"] {
        let output = trained.export(dtype, &["--quantize", dtype, "--json", "--tables", "redis,safetensors"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let effects = said["quantized"].as_array().unwrap();
        let metrics: Vec<&str> = effects.iter().map(|effect| effect["metric"].as_str().unwrap()).collect();
        assert_eq!(metrics, ["auc", "auc", "loss", "loss"]);
        for effect in effects {
            let (before, after) = (effect["trained"].as_f64().unwrap(), effect["stored"].as_f64().unwrap());
            assert!((before - after).abs() < 0.02 * before, "{effect}");
            assert!(before != after || dtype == "fp16" || effect["metric"] == "auc", "{effect}");
        }
        tandem(&["verify", &trained.path(dtype)]);
    }
    let (code, error) = refused(&[
        "export",
        &trained.path("run"),
        "--out",
        &trained.path("x"),
        "--quantize",
        "int8",
        "--tables",
        "keyvalue",
    ]);
    assert!(code == Some(2) && error.contains("float32 only"), "{error}");
}
