//! Folders that are whole or not there, copied to a store and back: the file that vouches for the others comes last, and goes
//! first.

use super::store::{Local, Store, read_whole};
use crate::error::{Error, Result};
use std::path::Path;

/// Copies the files `names` of the local folder `from` into the folder `to` of `store`, one after another.
pub fn send(store: &dyn Store, from: &Path, to: &str, names: &[String]) -> Result<()> {
    for name in names {
        let path = from.join(name);
        let bytes = std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?;
        store.put(&at(to, name), bytes.into())?;
    }
    Ok(())
}

/// Copies the whole local folder `from` to `to`; `last` vouches for the others.
pub fn send_folder(store: &dyn Store, from: &Path, to: &str, last: &str) -> Result<()> {
    let root = format!("{}/", from.display());
    let files = Local.below(&from.display().to_string())?;
    let mut names: Vec<String> = files.iter().filter_map(|f| Some(f.path.strip_prefix(&root)?.to_string())).collect();
    names.sort_by_key(|name| name == last);
    send(store, from, to, &names)
}

/// Copies the folder `from` of `store` to `to`, which is there only when all of it is; `last` vouches for the others.
///
/// # Errors
/// A folder without `last`: it is not whole, or there is none.
pub fn fetch(store: &dyn Store, from: &str, to: &Path, last: &str) -> Result<()> {
    let prefix = format!("{}/", from.trim_end_matches('/'));
    let files = store.below(from)?;
    let names: Vec<&str> = files.iter().filter_map(|file| file.path.strip_prefix(&prefix)).collect();
    if !names.contains(&last) {
        return Err(Error::checkpoint(format!("there is no whole copy here: `{last}` is missing"))
            .at("path", from)
            .fix("check the address; a copy that was cut short is finished by the next one"));
    }
    let failed = |doing, path: &Path, e: std::io::Error| Error::io(doing, path, &e);
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    for name in names {
        // The names are the store's: none may lead out of the folder.
        let plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain || name.contains(['\\', '\0']) {
            return Err(Error::checkpoint(format!("`{name}` leads out of its folder")).at("path", from));
        }
        let path = partial.join(name);
        let folder = path.parent().unwrap_or(&partial);
        std::fs::create_dir_all(folder).map_err(|e| failed("creating", folder, e))?;
        std::fs::write(&path, read_whole(store, &at(from, name))?).map_err(|e| failed("writing", &path, e))?;
    }
    match std::fs::rename(&partial, to) {
        Ok(()) => Ok(()),
        // Another rank of this machine was faster.
        Err(_) if to.join(last).is_file() => {
            std::fs::remove_dir_all(&partial).map_err(|e| failed("clearing", &partial, e))
        }
        Err(e) => Err(failed("finishing", to, e)),
    }
}

/// Removes the folder `of` of `store`, `last` first, so that what is left by a crash is not taken for whole.
pub fn remove(store: &dyn Store, of: &str, last: &str) -> Result<()> {
    let mut files = store.below(of)?;
    let vouches = at(of, last);
    files.sort_by_key(|file| file.path != vouches);
    files.iter().try_for_each(|file| store.remove(&file.path))
}

/// The address of a file in a folder.
pub fn at(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::super::store::{Blob, FileInfo};
    use super::*;
    use bytes::Bytes;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

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

        fn below(&self, folder: &str) -> Result<Vec<FileInfo>> {
            Local.below(folder)
        }

        fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
            self.spend().and_then(|()| Local.put(path, bytes))
        }

        fn remove(&self, path: &str) -> Result<()> {
            self.spend().and_then(|()| Local.remove(path))
        }
    }

    const NAMES: [&str; 3] = ["a", "deep/b", "manifest"];

    fn names() -> Vec<String> {
        NAMES.map(str::to_string).to_vec()
    }

    fn folder() -> (tempfile::TempDir, PathBuf, String) {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        std::fs::create_dir_all(from.join("deep")).unwrap();
        NAMES.iter().for_each(|name| std::fs::write(from.join(name), name).unwrap());
        let to = place.path().join("store").display().to_string();
        (place, from, to)
    }

    #[test]
    fn a_folder_comes_back_as_it_was() {
        let (place, from, to) = folder();
        send(&Local, &from, &to, &names()).unwrap();
        let back = place.path().join("back");
        fetch(&Local, &to, &back, "manifest").unwrap();
        NAMES.iter().for_each(|name| assert_eq!(std::fs::read_to_string(back.join(name)).unwrap(), *name));
        // What is there already stays.
        fetch(&Local, &to, &back, "manifest").unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 3, "nothing stays aside");
        remove(&Local, &to, "manifest").unwrap();
        assert_eq!(Local.below(&to).unwrap(), []);
    }

    #[test]
    fn a_copy_that_was_cut_short_is_none() {
        for writes in 0..3 {
            let (place, from, to) = folder();
            send(&Failing::after(writes), &from, &to, &names()).unwrap_err();
            let back = place.path().join("back");
            let error = fetch(&Local, &to, &back, "manifest").unwrap_err().to_string();
            assert!(error.contains("no whole copy") && !back.exists(), "{error}");
            // The next one finishes it.
            send(&Local, &from, &to, &names()).unwrap();
            fetch(&Local, &to, &back, "manifest").unwrap();
            // Half removed is not whole either.
            remove(&Failing::after(1), &to, "manifest").unwrap_err();
            assert!(fetch(&Local, &to, &place.path().join("again"), "manifest").is_err());
        }
    }
}
