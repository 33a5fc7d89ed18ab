//! Whether all ranks run the same program on the same job. A node with yesterday's copy of either would send messages
//! of other lengths, or train something else.

use super::{Communicator, collectives};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3Default;

/// Refuses to go on where this program is not the same file content on every rank. Collective.
pub fn check_program(comm: &dyn Communicator) -> Result<()> {
    if comm.size() == 1 {
        return Ok(());
    }
    // A program that was replaced since it was started cannot be read: then nothing is known, and the hash is 0.
    let hash = std::env::current_exe().and_then(|path| hash_of(&path)).unwrap_or_default();
    check_hash(
        comm,
        hash,
        "the ranks run different builds of tandem",
        "start one file that all nodes share, or copy it to all of them",
    )
}

/// Refuses to go on where `content` differs between ranks, with `what` as the message. Collective.
pub fn check(comm: &dyn Communicator, content: &str, what: &str, fix: &str) -> Result<()> {
    check_hash(comm, xxhash_rust::xxh3::xxh3_64(content.as_bytes()), what, fix)
}

fn check_hash(comm: &dyn Communicator, hash: u64, what: &str, fix: &str) -> Result<()> {
    let mut all = vec![0u64; comm.size()];
    collectives::all_gather_into(comm, &[hash], &mut all)?;
    match all.iter().position(|&other| other != all[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::job(what).at("ranks", format!("0 and {rank}")).fix(fix).agreed()),
    }
}

fn hash_of(path: &Path) -> std::io::Result<u64> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut chunk) = (Xxh3Default::new(), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hash.digest()),
            length => hash.update(&chunk[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;

    #[test]
    fn the_first_rank_that_differs_is_named() {
        let results = threads::run(4, threads::Options::default(), |comm| {
            check(comm.as_ref(), "lr: 1", "other jobs", "")?;
            check_program(comm.as_ref())?;
            check(comm.as_ref(), if comm.rank() == 2 { "lr: 2" } else { "lr: 1" }, "other jobs", "copy it")
        });
        for result in results {
            let error = result.unwrap_err();
            assert!(error.is_agreed());
            assert_eq!(error.to_string(), "other jobs (ranks 0 and 2)\n  fix: copy it");
        }
    }

    #[test]
    fn a_file_is_hashed_whole() {
        let folder = tempfile::tempdir().unwrap();
        let hash = |bytes: &[u8]| {
            let path = folder.path().join("program");
            std::fs::write(&path, bytes).unwrap();
            hash_of(&path).unwrap()
        };
        let mut long = vec![7u8; (1 << 20) + 1];
        let before = hash(&long);
        assert_eq!(before, xxhash_rust::xxh3::xxh3_64(&long));
        long[1 << 20] = 8;
        assert_ne!(hash(&long), before);
    }
}
