//! Checkpoints: manifests, and the headers of their tensors.

use crate::bounded;
use crate::common::job::{How, Workplace, newest, train};
use crate::draw::{changed, changes, damaged, damages, each, sealed};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tandem::checkpoint::{Manifest, checksum};
use tandem::comm::Comm;
use tandem::comm::solo::Solo;
use tandem::train::trained::Trained;
use tempfile::TempDir;

/// Bytes that loading may hold, for a checkpoint of some 100 KiB.
const LIMIT: usize = 256 << 20;

struct Saved {
    _place: Workplace,
    _copy: TempDir,
    folder: PathBuf,
    manifest: Value,
}

fn saved() -> Saved {
    let place = Workplace::with_log(48);
    let run_dir = place.path("run");
    let job = place.job(&["train.max_steps=1", "checkpoint.buckets=4"]);
    train(&job, 1, &run_dir, How::default());
    let copy = tempfile::tempdir().expect("a folder");
    let folder = copy.path().join("step-00000001");
    fs::create_dir(&folder).expect("a folder");
    for file in fs::read_dir(newest(&run_dir)).expect("a checkpoint") {
        let path = file.expect("a file").path();
        fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
    }
    let manifest = serde_json::from_slice(&fs::read(folder.join("manifest.json")).expect("a manifest")).expect("JSON");
    Saved { _place: place, _copy: copy, folder, manifest }
}

fn load(folder: &Path) -> tandem::Result<()> {
    bounded::within(LIMIT, "a checkpoint", || {
        // What `inspect` shows needs the manifest alone.
        if let Ok(manifest) = Manifest::read(folder) {
            let _ = (manifest.bytes(), manifest.dense_floats());
        }
        Trained::load(&(Rc::new(Solo) as Comm), folder).map(|_| ())
    })
}

#[test]
fn changed_manifests_are_read_or_refused() {
    let saved = saved();
    load(&saved.folder).unwrap_or_else(|error| panic!("{error}"));
    let path = saved.folder.join("manifest.json");
    each(120, changes(), |changes| {
        fs::write(&path, sealed(&changed(&saved.manifest, &changes))).expect("written");
        let _ = load(&saved.folder);
    });
    for (name, bytes) in crate::corpus("manifest") {
        fs::write(&path, sealed(&serde_json::from_slice(&bytes).expect("JSON"))).expect("written");
        load(&saved.folder).expect_err(&name);
    }
}

#[test]
fn damaged_manifests_are_refused() {
    let saved = saved();
    let path = saved.folder.join("manifest.json");
    let good = fs::read(&path).expect("a manifest");
    each(100, damages(), |damages| {
        let bad = damaged(&good, &damages);
        fs::write(&path, &bad).expect("written");
        assert!(bad == good || load(&saved.folder).is_err());
    });
    fs::write(&path, "[".repeat(1 << 20)).expect("written");
    load(&saved.folder).unwrap_err();
}

/// Files that the manifest vouches for, with damage in their headers.
#[test]
fn damaged_tensors_are_read_or_refused() {
    let saved = saved();
    let files = saved.manifest["files"].as_array().expect("files").clone();
    each(100, (0..files.len(), damages()), |(file, damages)| {
        let name = files[file]["name"].as_str().expect("a name");
        let path = saved.folder.join(name);
        let good = fs::read(&path).expect("readable");
        let header = 8 + u64::from_le_bytes(good[..8].try_into().expect("8 bytes")) as usize;
        let bad = [&damaged(&good[..header], &damages), &good[header..]].concat();
        fs::write(&path, &bad).expect("written");
        let mut manifest = saved.manifest.clone();
        manifest["files"][file]["bytes"] = bad.len().into();
        manifest["files"][file]["checksum"] = checksum(&bad).into();
        fs::write(saved.folder.join("manifest.json"), sealed(&manifest)).expect("written");
        let _ = load(&saved.folder);
        fs::write(&path, &good).expect("written");
    });
}

#[test]
fn files_outside_of_the_checkpoint_are_not_read() {
    let saved = saved();
    let outside = saved.folder.with_file_name("outside.safetensors");
    let inside = saved.folder.join("dense.safetensors");
    fs::rename(&inside, &outside).expect("moved");
    symlink(&outside, &inside).expect("linked");
    let error = load(&saved.folder).unwrap_err().to_string();
    assert!(error.contains("leads out of its folder"), "{error}");
    for name in ["../outside.safetensors".to_string(), outside.display().to_string()] {
        let mut manifest = saved.manifest.clone();
        let files = manifest["files"].as_array_mut().expect("files");
        let dense = files.iter_mut().find(|file| file["name"] == "dense.safetensors").expect("the dense file");
        dense["name"] = name.as_str().into();
        fs::write(saved.folder.join("manifest.json"), sealed(&manifest)).expect("written");
        let error = load(&saved.folder).unwrap_err().to_string();
        assert!(error.contains("outside its folder") || error.contains("leads out"), "{name}: {error}");
    }
}
