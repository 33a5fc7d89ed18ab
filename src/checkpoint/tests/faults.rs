//! A disk that fails, a process that dies and a power cut at every operation of a save.

use super::*;
use crate::checkpoint::disk::Operation;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Error as IoError, ErrorKind};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// One operation is refused, later ones are not.
    Refusal,
    /// Nothing is done from this operation on.
    Death,
    /// The same, and files that were not synced lose their end.
    PowerCut,
}

/// What a faulty disk has seen.
#[derive(Default)]
struct Seen {
    operations: usize,
    unsynced: BTreeSet<PathBuf>,
    /// Folders with names that were not synced.
    unsynced_dirs: BTreeSet<PathBuf>,
}

impl Seen {
    fn note(&mut self, operation: Operation, path: &Path) {
        let above = path.parent().unwrap().to_path_buf();
        match operation {
            Operation::Create => {
                self.unsynced.insert(path.to_path_buf());
                self.unsynced_dirs.insert(above);
            }
            Operation::Sync => drop(self.unsynced.remove(path)),
            Operation::SyncDir => drop(self.unsynced_dirs.remove(path)),
            Operation::Rename => {
                let unsynced = self.unsynced.iter().chain(&self.unsynced_dirs).find(|file| file.starts_with(path));
                assert_eq!(unsynced, None, "gets its name before it is on the disk");
            }
            Operation::CreateDir | Operation::Write | Operation::Remove => {}
        }
    }
}

/// The folder of `fixture` on a disk whose operation number `at` fails.
fn faulty(fixture: &Fixture, fault: Fault, at: usize) -> (CheckpointDir, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let noted = seen.clone();
    let ask = move |operation, path: &Path| {
        let mut seen = noted.lock().unwrap();
        let number = seen.operations;
        seen.operations += 1;
        let is_broken = if fault == Fault::Refusal { number == at } else { number >= at };
        if is_broken {
            return Err(IoError::from(ErrorKind::StorageFull));
        }
        seen.note(operation, path);
        Ok(())
    };
    let mut dir = fixture.dir.clone();
    dir.disk.faults = Some(Arc::new(ask));
    (dir, seen)
}

/// Saves what training gives at step `content` as the checkpoint of `step`, and drops older ones, as a run does.
fn save_and_prune(dir: &CheckpointDir, step: u64, content: u64) -> Result<()> {
    let saved = threads::ranks(RANKS, |comm| Parts::trained(comm, content).save(comm, dir, step));
    saved.into_iter().collect::<Result<Vec<()>>>()?;
    dir.prune(1, None)
}

/// Goes through every operation of a save of `step`, in a folder with the checkpoint of step 10.
fn walk(fault: Fault, step: u64) {
    let saved = Fixture::saved();
    for at in 0.. {
        let fixture = Fixture::new();
        std::fs::create_dir_all(fixture.dir.step(10)).unwrap();
        for file in saved.files() {
            std::fs::copy(&file, fixture.dir.step(10).join(name_of(&file))).unwrap();
        }
        let (dir, seen) = faulty(&fixture, fault, at);
        let result = save_and_prune(&dir, step, 20);
        let seen = seen.lock().unwrap();
        if seen.operations <= at {
            result.unwrap();
            assert!(at > 30, "{at} operations are too few");
            fixture.assert_newest(step, 20);
            return;
        }
        let what = format!("{fault:?} at operation {at} of a save of step {step}");
        // What is only cleared away may stay.
        if let Err(error) = result {
            assert!(error.to_string().contains("no storage space"), "{what}: {error}");
        }
        if fault == Fault::PowerCut {
            for file in seen.unsynced.iter().filter(|file| file.exists()) {
                let file = OpenOptions::new().write(true).open(file).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
        }
        // Another process.
        fixture.dir.recover().unwrap();
        let newest = fixture.dir.newest().unwrap().unwrap_or_else(|| panic!("{what}: no checkpoint is left"));
        let step_of = |content| if content == 20 { step } else { 10 };
        let found = [20, 10].into_iter().find(|&content| holds(&newest, content));
        assert!(found.is_some_and(|content| newest == fixture.dir.step(step_of(content))), "{what}: {found:?}");
        save_and_prune(&fixture.dir, 30, 30).unwrap();
        fixture.assert_newest(30, 30);
        assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 1, "{what}: nothing is left over");
    }
}

/// Whether the checkpoint `path` holds what training gives at step `content`.
fn holds(path: &Path, content: u64) -> bool {
    let mut parts = Parts::new(&Solo);
    parts.load(path).unwrap();
    parts.content() == Parts::trained(&Solo, content).content()
}

#[test]
fn a_refused_operation_costs_no_checkpoint() {
    walk(Fault::Refusal, 20);
    walk(Fault::Refusal, 10);
}

#[test]
fn a_process_that_dies_at_any_operation_costs_no_checkpoint() {
    walk(Fault::Death, 20);
    walk(Fault::Death, 10);
}

#[test]
fn a_power_cut_at_any_operation_costs_no_checkpoint() {
    walk(Fault::PowerCut, 20);
    walk(Fault::PowerCut, 10);
}
