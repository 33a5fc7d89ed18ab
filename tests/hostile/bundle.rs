//! Bundles: schemas, manifests, golden rows, ONNX.

use crate::bounded;
use crate::common::job::{How, Workplace, train};
use crate::draw::{changed, changes, damaged, damages, each, sealed};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tandem::checkpoint::checksum;
use tandem::export::verify::verify;

/// Bytes that verifying may hold, for a bundle of some 100 KiB: golden rows, inputs and values of the model are limited to 1 GiB each.
const LIMIT: usize = 3 << 30;

struct Bundle {
    place: Workplace,
    folder: PathBuf,
}

impl Bundle {
    fn new() -> Self {
        let place = Workplace::with_log(48);
        train(&place.job(&["train.max_steps=1", "checkpoint.buckets=4"]), 1, &place.path("run"), How::default());
        let folder = place.path("bundle");
        let exported = Command::new(env!("CARGO_BIN_EXE_tandem"))
            .args(["export", &place.path("run").display().to_string(), "--out", &folder.display().to_string()])
            .args(["--data", &place.path("valid").display().to_string(), "--self-contained", "--quiet"])
            .output()
            .expect("tandem runs");
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
        Self { place, folder }
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.join(name)).expect("readable")
    }

    /// Replaces a file, and makes the manifest vouch for it.
    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.join(name), bytes).expect("written");
        let mut manifest: Value = serde_json::from_slice(&self.read("manifest.json")).expect("JSON");
        for file in manifest["files"].as_array_mut().expect("files").iter_mut().filter(|file| file["name"] == name) {
            file["bytes"] = bytes.len().into();
            file["checksum"] = checksum(bytes).into();
        }
        fs::write(self.folder.join("manifest.json"), sealed(&manifest)).expect("written");
    }

    fn verify(&self) -> Result<(), String> {
        check(&self.folder)
    }
}

fn check(folder: &Path) -> Result<(), String> {
    tandem::guard::install();
    let report = bounded::within(LIMIT, "a bundle", || verify(folder));
    report.and_then(|report| report.check()).map_err(|error| error.to_string())
}

#[test]
fn changed_schemas_are_read_or_refused() {
    let bundle = Bundle::new();
    bundle.verify().expect("a good bundle");
    let good: Value = serde_json::from_slice(&bundle.read("schema.json")).expect("JSON");
    each(60, changes(), |changes| {
        bundle.write("schema.json", changed(&good, &changes).to_string().as_bytes());
        let _ = bundle.verify();
    });
    for (pointer, value) in [
        ("/tables/0/dim", json!(0)),
        ("/tables/0/dim", json!(1u64 << 50)),
        ("/pooled/0/start", json!(1u64 << 60)),
        ("/pooled/0/width", json!(1u64 << 60)),
        ("/sequences/0/max_len", json!(1u64 << 60)),
        ("/dense/0/width", json!(u64::MAX)),
        ("/onnx/inputs/0/dims", json!([i64::MAX, i64::MAX])),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer} in {good}")) = value;
        bundle.write("schema.json", bad.to_string().as_bytes());
        let error = bundle.verify().expect_err(pointer);
        assert!(error.contains("schema"), "{pointer}: {error}");
    }
}

#[test]
fn damaged_models_and_rows_are_read_or_refused() {
    let bundle = Bundle::new();
    for name in ["model.onnx", "golden.parquet", "tables/user.parquet"] {
        let good = bundle.read(name);
        each(25, damages(), |damages| {
            bundle.write(name, &damaged(&good, &damages));
            let _ = bundle.verify();
        });
        bundle.write(name, &good);
    }
    bundle.verify().expect("it is whole again");
}

#[test]
fn files_outside_of_the_bundle_are_not_read() {
    let bundle = Bundle::new();
    let secret = bundle.place.path("secret.parquet");
    fs::copy(bundle.folder.join("tables/user.parquet"), &secret).expect("copied");
    let good: Value = serde_json::from_slice(&bundle.read("schema.json")).expect("JSON");
    for name in ["../secret.parquet".to_string(), secret.display().to_string()] {
        for pointer in ["/tables/0/files/parquet", "/onnx/file", "/onnx/self_contained/file"] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = name.as_str().into();
            bundle.write("schema.json", bad.to_string().as_bytes());
            let error = bundle.verify().expect_err(pointer);
            assert!(error.contains("leads out of its folder"), "{pointer} {name}: {error}");
        }
    }
    bundle.write("schema.json", good.to_string().as_bytes());
    bundle.verify().expect("it is whole again");
    fs::remove_file(bundle.folder.join("golden.parquet")).expect("removed");
    symlink("../secret.parquet", bundle.folder.join("golden.parquet")).expect("linked");
    assert!(bundle.verify().expect_err("a link").contains("is a symbolic link"));
}

/// Weights in another file, and operators that `tandem export` never writes: a model is arithmetic and nothing else.
#[test]
fn models_of_other_makers_are_refused() {
    use prost::Message;
    use tract_onnx::pb::{ModelProto, StringStringEntryProto};
    let bundle = Bundle::new();
    let good = ModelProto::decode(bundle.read("model.onnx").as_slice()).expect("ONNX");
    let mut elsewhere = good.clone();
    let tensor = &mut elsewhere.graph.as_mut().expect("a graph").initializer[0];
    tensor.external_data.push(StringStringEntryProto { key: "location".into(), value: "../secret.parquet".into() });
    let mut other = good.clone();
    other.graph.as_mut().expect("a graph").node[0].op_type = "Loop".into();
    let mut foreign = good;
    foreign.graph.as_mut().expect("a graph").node[0].domain = "com.example".into();
    for (model, what) in [(elsewhere, "in another file"), (other, "operator `Loop`"), (foreign, "never writes")] {
        bundle.write("model.onnx", &model.encode_to_vec());
        let error = bundle.verify().expect_err(what);
        assert!(error.contains(what), "{what}: {error}");
    }
}
