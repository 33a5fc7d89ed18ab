//! Files wherever a path says they are: on this machine, or, with the feature `cloud`, in an object store.

use super::store::{Blob, Depot, FileInfo, Local, Store, is_far};
use crate::error::Result;
use std::path::Path;
use std::sync::Arc;

/// The file system, and the stores that addresses name.
#[derive(Default)]
pub struct Everywhere {
    #[cfg(feature = "cloud")]
    remote: std::sync::OnceLock<super::remote::Remote>,
}

impl Everywhere {
    /// The store that has `path`.
    #[cfg(feature = "cloud")]
    fn of(&self, path: &str) -> Result<&dyn Depot> {
        if !is_far(path) {
            return Ok(&Local);
        }
        // Its threads are started for those who need them.
        match self.remote.get() {
            Some(remote) => Ok(remote),
            None => {
                let new = super::remote::Remote::new(super::remote::Limits::default())?;
                Ok(self.remote.get_or_init(|| new))
            }
        }
    }

    /// The store that has `path`.
    #[cfg(not(feature = "cloud"))]
    #[allow(clippy::unused_self)] // with the feature it has an answer
    fn of(&self, path: &str) -> Result<&dyn Depot> {
        use crate::error::Error;
        match is_far(path) {
            false => Ok(&Local),
            true => Err(Error::job("this tandem was built without object stores")
                .at("path", path)
                .fix("build it with the feature `cloud` (`cargo build --release` has it), or copy the files here")),
        }
    }
}

impl Store for Everywhere {
    fn list(&self, pattern: &str) -> Result<Vec<FileInfo>> {
        self.of(pattern)?.list(pattern)
    }

    fn open(&self, path: &str) -> Result<Arc<dyn Blob>> {
        self.of(path)?.open(path)
    }
}

impl Depot for Everywhere {
    fn stat(&self, path: &str) -> Result<Option<FileInfo>> {
        self.of(path)?.stat(path)
    }

    fn below(&self, folder: &str) -> Result<Vec<FileInfo>> {
        self.of(folder)?.below(folder)
    }

    fn put(&self, from: &Path, to: &str) -> Result<()> {
        self.of(to)?.put(from, to)
    }

    fn remove(&self, paths: &[String]) -> Result<()> {
        paths.first().map_or(Ok(()), |first| self.of(first)?.remove(paths))
    }
}
