//! Saving and loading, whole and damaged.

use super::disk::Operation;
use super::files::TensorFile;
use super::manifest::MANIFEST;
use super::save::DENSE_FILE;
use super::*;
use crate::comm::solo::Solo;
use crate::comm::{Communicator, threads};
use crate::config::{Component, job};
use crate::data::batch::IdColumn;
use crate::data::lanes::Cursor;
use crate::embedding::{BagKind, BagSpec, BatchGradient, Embeddings, Mode, Pool, TableRows, TableSpec};
use crate::error::{Error, Result};
use crate::nn::{Init, ParamStore};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

mod faults;

const BUCKETS: usize = 4;
const RANKS: usize = 2;

/// What is saved and restored on one rank: a parameter with one moment, a buffer, a table.
struct Parts {
    store: ParamStore,
    dense: DenseState,
    embeddings: Embeddings,
}

/// What a load must bring back.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    dense: Vec<Vec<f32>>,
    rows: TableRows,
}

impl Parts {
    /// Fresh ones, as before training.
    fn new(comm: &dyn Communicator) -> Self {
        let mut store = ParamStore::new(3);
        store.builder().param("weight", &[2, 3], Init::Zeros).unwrap();
        store.builder().buffer("mean", vec![0.0; 4]).unwrap();
        let mut table = job::Table { dim: Some(3), ..job::Table::default() };
        let table = TableSpec::from_job("item", &mut table, &mut Component::named("adam"), BUCKETS).unwrap();
        let bag = BagSpec { name: "item".to_string(), table: 0, kind: BagKind::Pooled(Pool::Sum) };
        let embeddings = Embeddings::new(vec![table], vec![bag], BUCKETS, 7, comm.rank(), comm.size()).unwrap();
        Self { store, dense: DenseState::default(), embeddings }
    }

    /// Others at each step.
    fn trained(comm: &dyn Communicator, step: u64) -> Self {
        let mut parts = Self::new(comm);
        parts.train(comm, step);
        parts
    }

    fn train(&mut self, comm: &dyn Communicator, step: u64) {
        let x = step as f32;
        self.store.load(0, &[x, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        self.store.buffers()[0].set(&[x, 0.5, 0.25, 0.0]).unwrap();
        self.dense = DenseState { names: vec!["m".to_string()], moments: vec![vec![vec![0.1 * x; 6]]] };
        self.train_rows(comm, step);
    }

    /// A step of the table alone.
    fn train_rows(&mut self, comm: &dyn Communicator, step: u64) {
        // One row that has ids, whatever the number of ranks.
        let ids: Vec<u64> = (0..40).filter(|_| comm.rank() == 0).map(|i| i * 7 + step).collect();
        let ids = IdColumn::lists(vec![0, ids.len() as u32], ids);
        let lookup = self.embeddings.lookup(comm, &[ids], 1, Mode::Train { step }).unwrap();
        let gradient = BatchGradient { pooled: &[0.3, -0.2, 0.1], sequences: &[] };
        self.embeddings.update(comm, lookup, gradient, 1.0).unwrap();
    }

    fn content(&self) -> Content {
        let mut weight = vec![0.0; 6];
        self.store.read(0, &mut weight).unwrap();
        let dense = vec![weight, self.store.buffers()[0].get(), self.dense.moments[0][0].clone()];
        Content { dense, rows: self.embeddings.export(0, 0..BUCKETS) }
    }

    fn save(&mut self, comm: &dyn Communicator, dir: &CheckpointDir, step: u64) -> Result<()> {
        self.begin(comm, dir, step)?.finish(comm)
    }

    fn begin(&mut self, comm: &dyn Communicator, dir: &CheckpointDir, step: u64) -> Result<Saving> {
        let manifest = Manifest {
            format: FORMAT,
            tandem: "0".to_string(),
            step,
            cursor: Cursor::default(),
            progress: Progress::default(),
            buckets: BUCKETS,
            job: "name: test\n".to_string(),
            data: "rows".to_string(),
            statistics: serde_json::json!({"age": 0.1}),
            balance: vec![0.5],
            parameters: vec![ParameterEntry { name: "weight".to_string(), shape: vec![2, 3], frozen: false }],
            optimizer: (step, self.dense.names.clone()),
            tables: vec![TableEntry {
                name: "item".to_string(),
                dim: 3,
                state: self.embeddings.slots(0).iter().map(|slot| (slot.name.to_string(), slot.width)).collect(),
                rows: 0,
                frozen: false,
            }],
            files: Vec::new(),
        };
        let Self { store, dense, embeddings } = self;
        let dense = dense.clone();
        begin(comm, dir, Snapshot { manifest, store, dense, embeddings, only: None, row_classes: None })
    }

    /// Loads over whatever is there.
    fn load(&mut self, path: &Path) -> Result<()> {
        let manifest = Manifest::read(path)?;
        self.dense = load_dense(path, &manifest, &self.store)?;
        load_tables(path, &manifest, &mut self.embeddings)
    }
}

struct Fixture {
    run: TempDir,
    dir: CheckpointDir,
}

impl Fixture {
    fn new() -> Self {
        let run = tempfile::tempdir().unwrap();
        let dir = CheckpointDir::of_run(run.path());
        Self { run, dir }
    }

    /// With the checkpoint of step 10.
    fn saved() -> Self {
        let fixture = Self::new();
        fixture.save(10, 10);
        fixture
    }

    /// Saves what training gives at step `content` as the checkpoint of `step`.
    fn save(&self, step: u64, content: u64) {
        threads::ranks(RANKS, |comm| Parts::trained(comm, content).save(comm, &self.dir, step).unwrap());
    }

    /// Asserts that the checkpoint of `step` is the newest and holds what training gives at step `content`.
    fn assert_newest(&self, step: u64, content: u64) {
        assert_eq!(self.dir.newest().unwrap(), Some(self.dir.step(step)));
        threads::ranks(RANKS, |comm| {
            let mut parts = Parts::new(comm);
            parts.load(&self.dir.step(step)).unwrap();
            assert_eq!(parts.content(), Parts::trained(comm, content).content());
        });
    }

    /// The error of loading, which must be the same kind on all ranks that read the damaged file.
    fn load_errors(&self) -> Vec<Error> {
        let load = |comm: &dyn Communicator| Parts::new(comm).load(&self.dir.step(10)).err();
        threads::ranks(RANKS, load).into_iter().flatten().collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.step(10)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn what_was_saved_comes_back() {
    let fixture = Fixture::saved();
    fixture.assert_newest(10, 10);
    assert_eq!(fixture.files().len(), 2 + BUCKETS);
}

#[test]
fn a_flipped_byte_anywhere_is_found_and_its_file_named() {
    let fixture = Fixture::saved();
    let dir = fixture.dir.step(10);
    for path in fixture.files() {
        let original = std::fs::read(&path).unwrap();
        let is_manifest = name_of(&path) == MANIFEST;
        // Every byte of the manifest; a sample of the others, with both ends.
        let stride = if is_manifest { 1 } else { original.len() / 10 };
        for at in (0..original.len()).step_by(stride).chain([original.len() - 1]) {
            let mut damaged = original.clone();
            damaged[at] ^= if at % 2 == 0 { 1 } else { 0x40 };
            std::fs::write(&path, &damaged).unwrap();
            let loaded = if is_manifest { Manifest::read(&dir).map(drop) } else { Parts::new(&Solo).load(&dir) };
            match loaded {
                Ok(()) => panic!("byte {at} of {} is not noticed", path.display()),
                Err(error) => assert!(error.to_string().contains(name_of(&path)), "byte {at}: {error}"),
            }
        }
        std::fs::write(&path, &original).unwrap();
    }
    fixture.assert_newest(10, 10);
}

#[test]
fn a_cut_or_missing_file_is_named() {
    for damage in [
        |path: &Path| std::fs::remove_file(path).unwrap(),
        |path: &Path| std::fs::write(path, []).unwrap(),
        |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        },
    ] {
        let fixture = Fixture::saved();
        for path in fixture.files() {
            let original = std::fs::read(&path).unwrap();
            damage(&path);
            let errors = fixture.load_errors();
            assert!(!errors.is_empty(), "{} is needed", path.display());
            for error in errors {
                let text = error.to_string();
                assert!(text.contains(name_of(&path)) && text.contains("fix:"), "{text}");
            }
            std::fs::write(&path, original).unwrap();
        }
    }
}

#[test]
fn totals_that_do_not_add_up_are_found() {
    type Change = fn(&mut Manifest);
    let changes: [(Change, &str); 6] = [
        (|m| m.tables[0].rows += 1, "rows, its files hold"),
        (|m| drop(m.files.pop()), "have no file"),
        (|m| drop(m.files.remove(1)), "have no file"),
        (|m| m.files.swap(1, 2), "have no file"),
        (|m| drop(m.files.remove(0)), "does not name `dense.safetensors`"),
        (|m| m.files[0].name = "../dense.safetensors".to_string(), "outside its folder"),
    ];
    for (change, words) in changes {
        let fixture = Fixture::saved();
        let path = fixture.dir.step(10);
        let mut manifest = Manifest::read(&path).unwrap();
        change(&mut manifest);
        if words == "have no file" {
            manifest.tables[0].rows = manifest.files.iter().flat_map(|f| &f.rows).sum();
        }
        std::fs::write(path.join(MANIFEST), manifest.to_text().unwrap()).unwrap();
        let errors = fixture.load_errors();
        assert_eq!(errors.len(), RANKS);
        assert!(errors.iter().all(|error| error.to_string().contains(words)), "{words}: {errors:?}");
    }
}

#[test]
fn the_manifest_of_another_format_says_so() {
    let fixture = Fixture::saved();
    let path = fixture.dir.step(10).join(MANIFEST);
    std::fs::write(&path, "{\"format\": 99}").unwrap();
    let text = Manifest::read(&fixture.dir.step(10)).unwrap_err().to_string();
    assert!(text.contains("format 99") && text.contains("version of tandem"), "{text}");
}

#[test]
fn a_save_that_fails_leaves_what_was_saved_before() {
    let fixture = Fixture::saved();
    let errors = threads::ranks(RANKS, |comm| {
        let mut parts = Parts::trained(comm, 20);
        if comm.rank() == 0 {
            // Of another length than its parameter: rank 0 fails after rank 1 has begun to write.
            parts.dense.moments[0][0].truncate(1);
        }
        parts.save(comm, &fixture.dir, 20).expect_err("the save was broken").to_string()
    });
    assert_eq!(errors[0], errors[1], "one error for all");
    assert!(errors[0].contains("optimizer.m.weight"), "{}", errors[0]);
    fixture.assert_newest(10, 10);
    assert!(!fixture.dir.partial(20).exists());
}

#[test]
fn what_is_trained_meanwhile_is_not_saved() {
    let fixture = Fixture::new();
    threads::ranks(RANKS, |comm| {
        // The disk takes nothing until the tables have changed.
        let (open, opened) = std::sync::mpsc::channel::<()>();
        let opened = std::sync::Mutex::new(opened);
        let wait = move |operation, path: &Path| {
            if operation == Operation::Create && name_of(path) != MANIFEST {
                // The other end is dropped when the door opens.
                let _ = opened.lock().unwrap().recv();
            }
            Ok(())
        };
        let mut dir = fixture.dir.clone();
        dir.disk.faults = Some(std::sync::Arc::new(wait));
        let mut parts = Parts::trained(comm, 10);
        let saving = parts.begin(comm, &dir, 10).unwrap();
        assert!(!saving.is_written());
        for step in 11..14 {
            parts.train_rows(comm, step);
        }
        parts.store.load(0, &[0.0; 6]).unwrap();
        assert_ne!(parts.content(), Parts::trained(comm, 10).content());
        drop(open);
        saving.finish(comm).unwrap();
    });
    fixture.assert_newest(10, 10);
}

#[test]
fn without_room_for_a_copy_of_the_tables_training_waits() {
    let fixture = Fixture::new();
    let mut parts = Parts::new(&Solo);
    // A page of rows and one of what is known of them, each of 256 KiB, and an index.
    parts.embeddings = parts.embeddings.with_memory_limit(600 << 10);
    parts.train(&Solo, 10);
    let saving = parts.begin(&Solo, &fixture.dir, 10).unwrap();
    assert!(saving.is_written());
    saving.finish(&Solo).unwrap();
    fixture.assert_newest(10, 10);
}

#[test]
fn other_ranks_read_the_rows_that_they_own() {
    for writers in 1..=3 {
        let fixture = Fixture::new();
        threads::ranks(writers, |comm| Parts::trained(comm, 10).save(comm, &fixture.dir, 10).unwrap());
        for readers in 1..=BUCKETS {
            threads::ranks(readers, |comm| {
                let mut parts = Parts::new(comm);
                parts.load(&fixture.dir.step(10)).unwrap();
                assert_eq!(parts.content(), Parts::trained(comm, 10).content(), "{writers} → {readers} ranks");
            });
        }
    }
}

#[test]
fn a_run_folder_that_is_a_file_is_an_error_on_all_ranks() {
    let fixture = Fixture::new();
    std::fs::write(fixture.run.path().join("checkpoints"), "in the way").unwrap();
    let errors = threads::ranks(3, |comm| Parts::trained(comm, 1).save(comm, &fixture.dir, 1).unwrap_err().to_string());
    assert!(errors.iter().all(|error| error.contains("checkpoints") && *error == errors[0]), "{errors:?}");
}

#[test]
fn the_last_save_of_a_step_counts() {
    let fixture = Fixture::saved();
    for content in [11, 12, 13] {
        fixture.save(10, content);
        fixture.assert_newest(10, content);
    }
    fixture.dir.prune(1, None).unwrap();
    assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 1);
    fixture.assert_newest(10, 13);
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let fixture = Fixture::saved();
    let path = fixture.dir.step(10);
    let manifest = Manifest::read(&path).unwrap();
    let text = |store: &ParamStore| load_dense(&path, &manifest, store).unwrap_err().to_string();
    let mut store = ParamStore::new(3);
    assert!(text(&store).contains("a parameter `weight` that this job's model lacks"));
    store.builder().param("weight", &[3, 2], Init::Zeros).unwrap();
    assert!(text(&store).contains("shape [2, 3] in the checkpoint, [3, 2] in the job"));
    let file = manifest.files.iter().find(|file| file.name == DENSE_FILE).unwrap();
    let file = TensorFile::read(&path, file).unwrap();
    let missing = file.tensors().unwrap().get::<f32>("parameters.bias").unwrap_err().to_string();
    assert!(missing.contains("`parameters.bias` is missing") && missing.contains(DENSE_FILE), "{missing}");
}
