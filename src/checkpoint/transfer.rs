//! Checkpoints and bundles, copied to a store and back. A store has no rename: the manifest, which names all other files,
//! goes there last and is dropped first, so that a folder with one is whole.

use super::manifest::MANIFEST;
use crate::data::store::{Blob, Depot, Local, at, read_whole};
use crate::error::{Error, Result};
use crate::pulse;
use serde::Deserialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a file that are fetched at a time.
const WINDOW: usize = 32 << 20;

/// What the manifests of checkpoints and bundles have in common.
#[derive(Deserialize)]
struct Listed {
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
}

/// Copies the files `names` of the local folder `from` into the folder `to`, one after another.
pub fn send(store: &dyn Depot, from: &Path, to: &str, names: &[String]) -> Result<()> {
    names.iter().try_for_each(|name| {
        let to = at(to, name);
        let _touch = pulse::touch(&to, None);
        store.put(&from.join(name), &to)
    })
}

/// Copies the whole local folder `from` to `to`.
pub fn send_folder(store: &dyn Depot, from: &Path, to: &str) -> Result<()> {
    let root = format!("{}/", from.display());
    let files = Local.below(&from.display().to_string())?;
    let mut names: Vec<String> = files.iter().filter_map(|f| Some(f.path.strip_prefix(&root)?.to_string())).collect();
    names.sort_by_key(|name| name == MANIFEST);
    send(store, from, to, &names)
}

/// Copies the folder `from` of `store` to `to`, which is there only when all of it is.
///
/// # Errors
/// A folder without a manifest, or with fewer bytes than that says.
pub fn fetch(store: &dyn Depot, from: &str, to: &Path) -> Result<()> {
    let manifest = read_whole(store, &at(from, MANIFEST))?;
    let damaged =
        |what: String| Error::checkpoint(what).at("path", from).fix("use another one, or copy it there again");
    let listed: Listed =
        serde_json::from_slice(&manifest).map_err(|e| damaged(format!("the manifest is damaged: {e}")))?;
    // Ranks may be processes or threads.
    static FETCHES: AtomicU64 = AtomicU64::new(0);
    let number = FETCHES.fetch_add(1, Ordering::Relaxed);
    let partial = to.with_extension(format!("{}-{number}.partial", std::process::id()));
    let fetched = listed.files.iter().try_for_each(|Entry { name, bytes }| {
        // The names are the store's: none may lead out of the folder.
        if name.contains(['\\', '\0']) || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(damaged(format!("`{name}` leads out of its folder")));
        }
        let blob = store.open(&at(from, name))?;
        if blob.size() != *bytes {
            return Err(damaged(format!("`{name}` has {} bytes, and the manifest says {bytes}", blob.size())));
        }
        fetch_file(blob.as_ref(), &at(from, name), &partial.join(name))
    });
    let finished = fetched.and_then(|()| write(&partial.join(MANIFEST), |file| file.write_all(&manifest)));
    let named = finished.and_then(|()| match std::fs::rename(&partial, to) {
        // Another process of this machine was faster.
        Err(_) if to.join(MANIFEST).is_file() => Ok(()),
        renamed => renamed.map_err(|e| Error::io("finishing", to, &e)),
    });
    let _ = std::fs::remove_dir_all(&partial);
    named
}

fn fetch_file(blob: &dyn Blob, from: &str, path: &Path) -> Result<()> {
    write(path, |file| {
        let mut next = 0;
        while next < blob.size() {
            let _touch = pulse::touch(from, None);
            let bytes = blob.read_range(next, WINDOW)?;
            file.write_all(&bytes)?;
            next += bytes.len() as u64;
        }
        Ok(())
    })
    .map_err(|error| error.at("from", from))
}

fn write(path: &Path, content: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let write = || {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let mut file = File::create(path)?;
        content(&mut file)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("writing", path, &e))
}

/// Removes the folder `of` of `store`, the manifest first.
pub fn remove(store: &dyn Depot, of: &str) -> Result<()> {
    let manifest = at(of, MANIFEST);
    let files = store.below(of)?.into_iter().map(|file| file.path);
    let (first, others): (Vec<String>, Vec<String>) = files.partition(|path| *path == manifest);
    store.remove(&first)?;
    store.remove(&others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::store::{FileInfo, Store};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    /// The file system, of which the writes from the n-th on fail.
    struct Failing {
        left: AtomicUsize,
    }

    impl Failing {
        fn after(writes: usize) -> Self {
            Self { left: AtomicUsize::new(writes) }
        }

        fn spend(&self) -> Result<()> {
            let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            spent.map(|_| ()).map_err(|_| Error::data("a planned fault"))
        }
    }

    impl Store for Failing {
        fn list(&self, pattern: &str) -> Result<Vec<FileInfo>> {
            Local.list(pattern)
        }

        fn open(&self, path: &str) -> Result<Arc<dyn Blob>> {
            Local.open(path)
        }
    }

    impl Depot for Failing {
        fn stat(&self, path: &str) -> Result<Option<FileInfo>> {
            Local.stat(path)
        }

        fn below(&self, folder: &str) -> Result<Vec<FileInfo>> {
            Local.below(folder)
        }

        fn put(&self, from: &Path, to: &str) -> Result<()> {
            self.spend().and_then(|()| Local.put(from, to))
        }

        fn remove(&self, paths: &[String]) -> Result<()> {
            self.spend().and_then(|()| Local.remove(paths))
        }
    }

    /// A whole folder of three files, and where it goes.
    fn folder() -> (tempfile::TempDir, PathBuf, String) {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        std::fs::create_dir_all(from.join("deep")).unwrap();
        let manifest = r#"{"files": [{"name": "a", "bytes": 1}, {"name": "deep/b", "bytes": 0}]}"#;
        for (name, text) in [("a", "x"), ("deep/b", ""), (MANIFEST, manifest)] {
            std::fs::write(from.join(name), text).unwrap();
        }
        let to = place.path().join("store").display().to_string();
        (place, from, to)
    }

    #[test]
    fn a_folder_comes_back_as_it_was() {
        let (place, from, to) = folder();
        send_folder(&Local, &from, &to).unwrap();
        let back = place.path().join("back");
        // What is there already stays.
        for _ in 0..2 {
            fetch(&Local, &to, &back).unwrap();
            for name in ["a", "deep/b", MANIFEST] {
                assert_eq!(std::fs::read(back.join(name)).unwrap(), std::fs::read(from.join(name)).unwrap());
            }
        }
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 3, "nothing stays aside");
        remove(&Local, &to).unwrap();
        assert_eq!(Local.below(&to).unwrap(), []);
    }

    #[test]
    fn a_copy_that_was_cut_short_is_none() {
        for writes in 0..3 {
            let (place, from, to) = folder();
            send_folder(&Failing::after(writes), &from, &to).unwrap_err();
            let back = place.path().join("back");
            fetch(&Local, &to, &back).unwrap_err();
            assert!(!back.exists());
            // The next one finishes it.
            send_folder(&Local, &from, &to).unwrap();
            fetch(&Local, &to, &back).unwrap();
            // Half removed is not whole either.
            remove(&Failing::after(1), &to).unwrap_err();
            assert!(fetch(&Local, &to, &place.path().join("again")).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_the_manifest_is_refused() {
        for (name, bytes, what) in [("a", 7, "1 bytes"), ("../a", 1, "leads out"), ("/etc/passwd", 1, "leads out")] {
            let (place, from, to) = folder();
            let manifest = serde_json::json!({"files": [{"name": name, "bytes": bytes}]}).to_string();
            std::fs::write(from.join(MANIFEST), manifest).unwrap();
            send_folder(&Local, &from, &to).unwrap();
            let error = fetch(&Local, &to, &place.path().join("back")).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "nothing stays aside");
        }
    }
}
