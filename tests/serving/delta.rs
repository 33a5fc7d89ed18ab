//! A delta folded into its base is the whole bundle.

use super::*;
use std::collections::BTreeMap;
use tandem::export::tables::read_rows;

/// Tables that drop rows, so that there are tombstones.
const EVICTION: [&str; 2] = ["--set", "tables={user_city: {eviction: {max_rows: 168, policy: lru}}}"];

type Rows = BTreeMap<u64, Vec<u32>>;

/// All rows of a bundle, with the bits of their numbers.
fn rows(bundle: &str) -> BTreeMap<String, Rows> {
    let schema: serde_json::Value =
        serde_json::from_slice(&std::fs::read(Path::new(bundle).join("schema.json")).unwrap()).unwrap();
    let mut all = BTreeMap::new();
    for table in schema["tables"].as_array().unwrap() {
        let dim = table["dim"].as_u64().unwrap() as usize;
        let mut rows = Rows::new();
        read_rows(&Path::new(bundle).join(table["files"]["parquet"].as_str().unwrap()), dim, |ids, vectors| {
            for (id, row) in ids.iter().zip(vectors.chunks(dim)) {
                assert!(rows.insert(*id, row.iter().map(|x| x.to_bits()).collect()).is_none(), "{id} is there twice");
            }
            Ok(())
        })
        .unwrap();
        all.insert(table["name"].as_str().unwrap().to_string(), rows);
    }
    all
}

fn bytes(trained: &Trained, name: &str) -> Vec<u8> {
    std::fs::read(trained.path(name)).unwrap()
}

fn ids_of(rows: &BTreeMap<String, Rows>) -> BTreeMap<String, Vec<u64>> {
    rows.iter().map(|(table, rows)| (table.clone(), rows.keys().copied().collect())).collect()
}

/// The ids of every table's safetensors file, ascending.
fn ids_in_safetensors(trained: &Trained, bundle: &str) -> BTreeMap<String, Vec<u64>> {
    let schema: serde_json::Value = serde_json::from_slice(&bytes(trained, &format!("{bundle}/schema.json"))).unwrap();
    let ids = |table: &serde_json::Value| {
        let content = bytes(trained, &format!("{bundle}/{}", table["files"]["safetensors"].as_str().unwrap()));
        let tensors = safetensors::SafeTensors::deserialize(&content).unwrap();
        let mut ids: Vec<u64> = bytemuck::pod_collect_to_vec(tensors.tensor("ids").unwrap().data());
        assert_eq!(tensors.tensor("vectors").unwrap().shape()[0], ids.len());
        ids.sort_unstable();
        (table["name"].as_str().unwrap().to_string(), ids)
    };
    schema["tables"].as_array().unwrap().iter().map(ids).collect()
}

#[test]
fn a_base_and_its_deltas_are_the_whole() {
    let trained = Trained { folder: tempfile::tempdir().unwrap() };
    log::write(trained.folder.path());
    let model = "{kind: shared_bottom, bottom: [8], tower: [4]}";
    std::fs::write(trained.path("job.yaml"), log::job(trained.folder.path(), log::FEATURES, log::TASKS, model))
        .unwrap();
    let often = ["--set", "checkpoint.every='3 steps'", "--set", "checkpoint.keep=9", "--quiet"];
    tandem(&[&["train", &trained.path("job.yaml"), "--run-dir", &trained.path("run")], &EVICTION[..], &often].concat());
    let step = |step: u64| trained.path(&format!("run/checkpoints/step-{step:08}"));
    let export = |step_: u64, name: &str, more: &[&str]| {
        tandem(&[&["export", &step(step_), "--out", &trained.path(name)], more].concat());
    };
    export(3, "whole-3", &[]);
    let mut tombstones = 0;
    for (from, to) in [(3, 6), (6, 12)] {
        let (base, delta, out) = (format!("whole-{from}"), format!("delta-{to}"), format!("applied-{to}"));
        export(to, &format!("whole-{to}"), &[]);
        export(to, &delta, &["--since", &step(from), "--tables", "safetensors"]);
        tandem(&["apply", &trained.path(&base), &trained.path(&delta), "--out", &trained.path(&out)]);
        let (applied, whole) = (rows(&trained.path(&out)), rows(&trained.path(&format!("whole-{to}"))));
        assert!(applied == whole, "the rows of {from} with the delta to {to}");
        assert!(applied != rows(&trained.path(&base)));
        for file in ["model.onnx", "golden.parquet"] {
            assert!(
                bytes(&trained, &format!("{out}/{file}")) == bytes(&trained, &format!("whole-{to}/{file}")),
                "{file}"
            );
        }
        let changed = rows(&trained.path(&delta));
        assert_eq!(ids_in_safetensors(&trained, &delta), ids_of(&changed));
        // The last six steps are an epoch, in which every id is seen.
        assert!(from == 6 || changed["user_city"].len() < whole["user_city"].len(), "a delta holds what changed");
        let gone = tandem::export::tables::read_tombstones(
            &Path::new(&trained.path(&delta)).join("tables/user_city.tombstones.parquet"),
        );
        tombstones += gone.unwrap().len();
    }
    assert!(tombstones > 0, "rows were evicted");
    let apply = |base: &str, delta: &str| {
        refused(&["apply", &trained.path(base), &trained.path(delta), "--out", &trained.path("x")])
    };
    let (code, error) = apply("whole-3", "delta-12");
    assert!(code == Some(1) && error.contains("since another checkpoint"), "{error}");
    let (code, error) = apply("whole-3", "whole-6");
    assert!(code == Some(2) && error.contains("not a delta"), "{error}");
    assert!(refused(&["verify", &trained.path("delta-6")]).1.contains("a delta cannot be verified alone"));
}
