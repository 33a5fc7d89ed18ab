//! The folder of a bundle: written aside, checked, and renamed last.
//!
//! ```text
//! bundle/
//!   manifest.json      every other file with its length and checksum; its own checksum first
//!   schema.json        from rows to the model's inputs
//!   model.onnx         the dense part
//!   golden.parquet     some rows with what they give
//!   tables/…           the embedding tables
//! ```

use crate::checkpoint::{checksum, inside};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";

/// Version of the layout described here.
pub const FORMAT: u32 = 1;

/// Bytes of a file that are read at a time.
const CHUNK: usize = 1 << 20;

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of tandem that wrote it.
    pub tandem: String,
    /// Name of the job.
    pub job: String,
    /// Steps that the model was trained for.
    pub step: u64,
    /// Checksum of the checkpoint's own manifest: names what was exported.
    pub checkpoint: String,
    /// Of a delta: the checkpoint that it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Every other file.
    pub files: Vec<FileEntry>,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path inside the bundle, with `/`.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// XXH3-64 of its content, as 16 hexadecimal digits.
    pub checksum: String,
}

/// A bundle that is being written next to its final place.
pub struct Draft {
    partial: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Begins the bundle `target`, which must not exist yet or be an empty folder.
    pub fn begin(target: &Path) -> Result<Self> {
        let is_free = match std::fs::read_dir(target) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
            Err(e) => return Err(Error::io("looking into the output folder", target, &e)),
        };
        if !is_free {
            return Err(Error::job("the folder for the bundle is not empty")
                .at("path", target.display())
                .fix("name another folder with --out, or remove this one"));
        }
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let partial = target.with_file_name(name);
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(|e| Error::io("clearing", &partial, &e))?;
        }
        std::fs::create_dir_all(&partial).map_err(|e| {
            Error::io("creating the output folder", &partial, &e).fix("choose a folder to write to with --out")
        })?;
        Ok(Self { partial, target: target.to_path_buf() })
    }

    /// Where the files are written.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Writes one file below the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("creating", folder, &e))?;
        }
        std::fs::write(&path, bytes).map_err(|e| Error::io("writing", &path, &e))
    }

    /// Writes the manifest over all files that are there.
    pub fn seal(&self, mut manifest: Manifest) -> Result<()> {
        let mut names = Vec::new();
        list(&self.partial, "", &mut names)?;
        names.sort();
        manifest.files = names.iter().map(|name| entry(&self.partial, name)).collect::<Result<_>>()?;
        let text = serde_json::to_string_pretty(&manifest)
            .map_err(|e| Error::internal(format!("the manifest cannot be written: {e}")))?;
        self.write(MANIFEST, seal_text(&text).as_bytes())
    }

    /// Syncs all files and gives the folder its name.
    pub fn publish(self) -> Result<()> {
        let mut names = Vec::new();
        list(&self.partial, "", &mut names)?;
        for name in names {
            let path = self.partial.join(name);
            File::open(&path).and_then(|file| file.sync_all()).map_err(|e| Error::io("syncing", &path, &e))?;
        }
        if self.target.exists() {
            std::fs::remove_dir(&self.target).map_err(|e| Error::io("replacing", &self.target, &e))?;
        }
        std::fs::rename(&self.partial, &self.target).map_err(|e| Error::io("finishing", &self.target, &e))
    }

    /// Removes what was written.
    pub fn discard(self) {
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}

/// Puts the checksum of the rest at the head of the text.
fn seal_text(text: &str) -> String {
    let rest = format!("\",{}", text.strip_prefix('{').unwrap_or_default());
    format!("{HEAD}{}{rest}", checksum(rest.as_bytes()))
}

const HEAD: &str = "{\n  \"checksum\": \"";

/// Names of the files below `folder`, with `/`.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("listing", folder, &e);
    for found in std::fs::read_dir(folder).map_err(failed)? {
        let found = found.map_err(failed)?;
        let name = format!("{prefix}{}", found.file_name().to_string_lossy());
        let kind = found.file_type().map_err(failed)?;
        // `tandem export` makes none, and one could lead anywhere.
        if kind.is_symlink() {
            return Err(Error::checkpoint(format!("`{name}` is a symbolic link"))
                .at("path", folder.display())
                .fix("copy what it leads to in its place, if you trust who made this bundle"));
        }
        match kind.is_dir() {
            true => list(&found.path(), &format!("{name}/"), names)?,
            false if name != MANIFEST => names.push(name),
            false => {}
        }
    }
    Ok(())
}

/// Length and checksum of a file, read in pieces.
fn entry(dir: &Path, name: &str) -> Result<FileEntry> {
    let path = inside(dir, name)?;
    let failed = |e: std::io::Error| Error::io("reading", &path, &e);
    let mut file = File::open(&path).map_err(failed)?;
    let (mut hash, mut bytes, mut buffer) = (Xxh3::new(), 0, vec![0; CHUNK]);
    loop {
        let n = file.read(&mut buffer).map_err(failed)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok(FileEntry { name: name.to_string(), bytes, checksum: format!("{:016x}", hash.digest()) })
}

impl Manifest {
    /// Reads the manifest of a bundle and compares every file with it.
    ///
    /// # Errors
    /// No manifest, or a file that is missing, was changed, or is not named in it.
    pub fn read_checked(dir: &Path) -> Result<Self> {
        let manifest = Self::read(dir)?;
        let mut names = Vec::new();
        list(dir, "", &mut names)?;
        if let Some(name) = names.iter().find(|name| manifest.files.iter().all(|file| file.name != **name)) {
            return Err(damaged(dir, name, "is not named in the manifest"));
        }
        for file in &manifest.files {
            if !names.contains(&file.name) {
                return Err(damaged(dir, &file.name, "is missing"));
            }
            if entry(dir, &file.name)? != *file {
                return Err(damaged(dir, &file.name, "was changed after it was written: its checksum is wrong"));
            }
        }
        Ok(manifest)
    }

    /// Reads the manifest of a bundle, and no other file.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = inside(dir, MANIFEST)?;
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Error::checkpoint(format!("this is no bundle: {e}"))
                .at("file", path.display())
                .fix("name a folder that `tandem export` wrote")
        })?;
        let sealed = text.strip_prefix(HEAD).and_then(|text| text.split_at_checked(16));
        if sealed.is_none_or(|(digits, rest)| checksum(rest.as_bytes()) != digits) {
            return Err(damaged(dir, MANIFEST, "was changed after it was written: its checksum is wrong"));
        }
        let manifest: Self =
            serde_json::from_str(&text).map_err(|e| damaged(dir, MANIFEST, &format!("cannot be read: {e}")))?;
        if manifest.format != FORMAT {
            let what = format!("the bundle has format {}, this tandem reads format {FORMAT}", manifest.format);
            return Err(Error::checkpoint(what).at("path", dir.display()).fix("use the tandem that wrote it"));
        }
        Ok(manifest)
    }
}

fn damaged(dir: &Path, name: &str, what: &str) -> Error {
    Error::checkpoint(format!("`{name}` {what}")).at("path", dir.display()).fix("export the bundle again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            tandem: "0".to_string(),
            job: "shop".to_string(),
            step: 7,
            checkpoint: "c".to_string(),
            since: None,
            files: Vec::new(),
        }
    }

    /// A bundle of two files.
    fn published() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("bundle");
        let draft = Draft::begin(&target).unwrap();
        draft.write("schema.json", b"{}").unwrap();
        draft.write("tables/user.parquet", b"rows").unwrap();
        draft.seal(manifest()).unwrap();
        assert!(!target.exists(), "nothing is there before all is");
        draft.publish().unwrap();
        (folder, target)
    }

    #[test]
    fn a_bundle_is_whole_or_not_there() {
        let (folder, target) = published();
        let read = Manifest::read_checked(&target).unwrap();
        assert_eq!(
            read.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            ["schema.json", "tables/user.parquet"]
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing stays aside");
        let error = Draft::begin(&target).err().unwrap().to_string();
        assert!(error.contains("not empty"), "{error}");
        let other = Draft::begin(&folder.path().join("other")).unwrap();
        other.discard();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_changed_byte_is_found_and_named() {
        let names = ["schema.json", "tables/user.parquet", MANIFEST];
        for name in names {
            let (_folder, target) = published();
            let path = target.join(name);
            let good = std::fs::read(&path).unwrap();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                std::fs::write(&path, &bad).unwrap();
                let error = Manifest::read_checked(&target).unwrap_err().to_string();
                assert!(error.contains(name) || error.contains("this is no bundle"), "byte {at}: {error}");
            }
        }
        let (_folder, target) = published();
        std::fs::remove_file(target.join("schema.json")).unwrap();
        assert!(Manifest::read_checked(&target).unwrap_err().to_string().contains("`schema.json` is missing"));
        let (_folder, target) = published();
        std::fs::write(target.join("more"), "").unwrap();
        assert!(Manifest::read_checked(&target).unwrap_err().to_string().contains("`more` is not named"));
    }
}
