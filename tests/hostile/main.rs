//! Files that somebody made to do harm, or that a disk has damaged: job files, Parquet, checkpoints, bundles. Whatever they say,
//! reading them ends in a result or an error: it does not panic, allocates no more than a stated bound, and touches no file outside
//! of the folder that was named.
//!
//! The cases are drawn from a fixed seed; `corpus/` holds those that are worth keeping, one file each.

mod bounded;
#[cfg(feature = "serving")]
mod bundle;
mod checkpoint;
mod draw;
mod job;
mod parquet;

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};

/// The files of one part of the corpus, sorted, with their names.
fn corpus(part: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/corpus").join(part);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("a corpus").map(|e| e.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{part} has no corpus");
    let file = |path: PathBuf| (path.display().to_string(), std::fs::read(&path).expect("readable"));
    paths.into_iter().map(file).collect()
}
