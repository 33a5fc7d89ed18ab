//! The file operations of a checkpoint, in one place, so that a test can let each of them fail.

use crate::error::{Error, Result};
use crate::pulse;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Small parts of a file are written together, up to this many bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// What is done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A folder is made, with those above it.
    CreateDir,
    /// A file is made.
    Create,
    /// A part of it is written.
    Write,
    /// Its content is brought to the disk.
    Sync,
    /// The names in a folder are brought to the disk.
    SyncDir,
    /// A folder is renamed.
    Rename,
    /// A file or folder is removed.
    Remove,
}

/// A file system. Every operation but reading goes through it.
#[derive(Clone, Default)]
pub struct Disk {
    #[cfg(test)]
    pub(super) faults: Option<std::sync::Arc<Fault>>,
}

/// Is asked before every operation; an error of it is the operation's.
#[cfg(test)]
pub(super) type Fault = dyn Fn(Operation, &Path) -> std::io::Result<()> + Send + Sync;

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // tests have an answer
    fn ask(&self, _: Operation, _: &Path) -> std::io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn ask(&self, operation: Operation, path: &Path) -> std::io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |fault| fault(operation, path))
    }

    /// Writes the file `path` of these parts, one behind the other, and syncs it.
    pub fn write(&self, path: &Path, parts: &[&[u8]]) -> Result<()> {
        let _touch = pulse::touch(&path.to_string_lossy(), None);
        let write = || -> std::io::Result<()> {
            self.ask(Operation::Create, path)?;
            let mut file = BufWriter::with_capacity(BLOCK_BYTES, File::create(path)?);
            for part in parts {
                self.ask(Operation::Write, path)?;
                file.write_all(part)?;
            }
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            self.ask(Operation::Sync, path)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io("writing", path, &e))
    }

    /// Makes a folder, with those above it.
    pub fn create_dir(&self, path: &Path) -> Result<()> {
        let created = self.ask(Operation::CreateDir, path).and_then(|()| std::fs::create_dir_all(path));
        created.map_err(|e| Error::io("creating", path, &e))
    }

    /// Syncs a folder, so that the names in it survive a power cut.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        let synced = self.ask(Operation::SyncDir, path).and_then(|()| File::open(path)?.sync_all());
        synced.map_err(|e| Error::io("syncing", path, &e))
    }

    /// Gives a folder another name. `doing` says why, for messages.
    pub fn rename(&self, doing: &str, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.ask(Operation::Rename, from).and_then(|()| std::fs::rename(from, to));
        renamed.map_err(|e| Error::io(doing, from, &e))
    }

    /// Removes a file, or a folder with all that is in it.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let remove = || match path.is_dir() {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
        self.ask(Operation::Remove, path).and_then(|()| remove()).map_err(|e| Error::io("dropping", path, &e))
    }
}
