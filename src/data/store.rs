//! Where files live: listed by pattern, read by range.
//!
//! [`Local`] is the file system. An object store implements [`Store`] and [`Blob`] and nothing else
//! changes: all reading goes through [`BlobReader`].

use crate::error::{Error, Result};
use crate::pulse;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::collections::HashSet;
use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One file of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The path as [`Store::open`] takes it.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// A place that holds files.
pub trait Store: Send + Sync {
    /// The files that a glob, a folder (all `*.parquet` below it) or a file name stands for, sorted by
    /// path. Names that start with `.` or `_` are skipped in folders and globs. No match is an error.
    fn list(&self, pattern: &str) -> Result<Vec<FileInfo>>;

    /// Opens a file for reading by range.
    fn open(&self, path: &str) -> Result<Arc<dyn Blob>>;
}

/// An open file, read by range from any thread.
pub trait Blob: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// `length` bytes from `start`; fewer only where the file ends.
    fn read_range(&self, start: u64, length: usize) -> std::io::Result<Bytes>;
}

/// Lists several patterns in order; a file that more than one matches is taken once.
pub fn list_all(store: &dyn Store, patterns: &[String]) -> Result<Vec<FileInfo>> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for pattern in patterns {
        files.extend(store.list(pattern)?.into_iter().filter(|file| seen.insert(file.path.clone())));
    }
    Ok(files)
}

/// The `key=value` folders of a path, outermost first. Values are as written, percent-decoded.
pub fn partitions(path: &str) -> Vec<(String, String)> {
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    folders
        .split('/')
        .filter_map(|folder| folder.split_once('='))
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_string(), percent_decoded(value)))
        .collect()
}

/// Hive and Spark write `%3A` for `:` in partition folders.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = bytes.get(i + 1..i + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[i], code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The file system of this machine, or one mounted on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

/// A folder nested deeper than this is a loop of symbolic links.
const DEPTH_LIMIT: usize = 32;

impl Store for Local {
    fn list(&self, pattern: &str) -> Result<Vec<FileInfo>> {
        let mut paths = Vec::new();
        if pattern.contains(['*', '?', '[']) && !Path::new(pattern).exists() {
            let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
            let matches = glob::glob_with(pattern, options)
                .map_err(|e| Error::job(format!("`{pattern}` is not a glob: {e}")).fix("see `data:` in the job"))?;
            for path in matches.filter_map(|entry| entry.ok()).filter(|path| !matches_hidden(pattern, path)) {
                collect(&path, 0, &mut paths)?;
            }
        } else if Path::new(pattern).exists() {
            collect(Path::new(pattern), 0, &mut paths)?;
        }
        if paths.is_empty() {
            return Err(nothing_found(pattern));
        }
        paths.sort();
        paths.into_iter().map(info).collect()
    }

    fn open(&self, path: &str) -> Result<Arc<dyn Blob>> {
        let _touch = pulse::touch(path, None);
        let path = Path::new(path);
        let open = || -> std::io::Result<LocalBlob> {
            let file = fs::File::open(path)?;
            let size = file.metadata()?.len();
            Ok(LocalBlob { file, size })
        };
        Ok(Arc::new(open().map_err(|e| Error::io("opening", path, &e))?))
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']))
}

/// Whether a wildcard of `pattern` stands for a hidden name in `path`, as `*` for `_temporary`.
fn matches_hidden(pattern: &str, path: &Path) -> bool {
    let first = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let (folder, rest) = pattern.split_at(pattern[..first].rfind('/').map_or(0, |slash| slash + 1));
    let asked_for = rest.split('/').any(|name| name.starts_with(['.', '_']));
    let found = path.strip_prefix(folder).unwrap_or(path);
    !asked_for && found.components().any(|name| name.as_os_str().to_string_lossy().starts_with(['.', '_']))
}

/// Adds `path` if it is a file, else the Parquet files below it.
fn collect(path: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        out.push(path.to_path_buf());
        return Ok(());
    }
    if depth > DEPTH_LIMIT {
        return Err(
            Error::data("folders are nested too deeply; is there a loop of links?").at("folder", path.display())
        );
    }
    let listing = |e: std::io::Error| Error::io("listing the folder", path, &e);
    for entry in fs::read_dir(path).map_err(listing)? {
        let child = entry.map_err(listing)?.path();
        let wanted = child.is_dir() || child.extension().is_some_and(|extension| extension == "parquet");
        if wanted && !is_hidden(&child) {
            collect(&child, depth + 1, out)?;
        }
    }
    Ok(())
}

fn info(path: PathBuf) -> Result<FileInfo> {
    let bytes = fs::metadata(&path).map_err(|e| Error::io("reading the size", &path, &e))?.len();
    match path.into_os_string().into_string() {
        Ok(path) => Ok(FileInfo { path, bytes }),
        Err(path) => Err(Error::data("the file name is not UTF-8").at("file", path.display()).fix("rename it")),
    }
}

fn nothing_found(pattern: &str) -> Error {
    let here = std::env::current_dir().map_or_else(|_| "?".to_string(), |path| path.display().to_string());
    Error::data("no file matches")
        .at("pattern", format!("`{pattern}`"))
        .at("from folder", here)
        .fix("correct `data:` in the job, or move all its paths with `--set data.root=…`; folders need *.parquet files")
}

struct LocalBlob {
    file: fs::File,
    size: u64,
}

impl Blob for LocalBlob {
    fn size(&self) -> u64 {
        self.size
    }

    /// Reads at an offset, which leaves no shared cursor for threads to fight over.
    fn read_range(&self, start: u64, length: usize) -> std::io::Result<Bytes> {
        let length = length.min(self.size.saturating_sub(start).try_into().unwrap_or(usize::MAX));
        let mut buffer = vec![0; length];
        self.file.read_exact_at(&mut buffer, start)?;
        Ok(buffer.into())
    }
}

/// Lets the Parquet reader read a [`Blob`], and counts the bytes it takes.
#[derive(Clone)]
pub struct BlobReader {
    blob: Arc<dyn Blob>,
    read_bytes: Arc<AtomicU64>,
}

impl BlobReader {
    /// Reads `blob`, adding what is read to `read_bytes`.
    pub fn new(blob: Arc<dyn Blob>, read_bytes: Arc<AtomicU64>) -> Self {
        Self { blob, read_bytes }
    }

    fn take(&self, start: u64, length: usize) -> std::io::Result<Bytes> {
        let bytes = self.blob.read_range(start, length)?;
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

impl Length for BlobReader {
    fn len(&self) -> u64 {
        self.blob.size()
    }
}

impl ChunkReader for BlobReader {
    type T = BufReader<BlobCursor>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(BlobCursor { reader: self.clone(), position: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.take(start, length)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("expected {length} bytes at {start}, found {}", bytes.len())));
        }
        Ok(bytes)
    }
}

/// A position in a [`Blob`].
pub struct BlobCursor {
    reader: BlobReader,
    position: u64,
}

impl Read for BlobCursor {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.reader.take(self.position, buffer.len())?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, name: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }

    fn names(root: &Path, files: &[FileInfo]) -> Vec<String> {
        let strip = |file: &FileInfo| Path::new(&file.path).strip_prefix(root).unwrap().display().to_string();
        files.iter().map(strip).collect()
    }

    #[test]
    fn folders_globs_and_files_are_listed_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["dt=2/b.parquet", "dt=2/a.parquet", "dt=1/z.parquet", "dt=1/_tmp.parquet", "dt=1/.hid.parquet"] {
            touch(root, name);
        }
        for name in ["_temporary/x.parquet", "dt=1/_SUCCESS", "dt=1/notes.txt"] {
            touch(root, name);
        }
        let at = |pattern: &str| root.join(pattern).display().to_string();
        let all = ["dt=1/z.parquet", "dt=2/a.parquet", "dt=2/b.parquet"];
        assert_eq!(names(root, &Local.list(&at("")).unwrap()), all);
        assert_eq!(names(root, &Local.list(&at("*/*.parquet")).unwrap()), all);
        assert_eq!(names(root, &Local.list(&at("dt=*")).unwrap()), all);
        assert_eq!(names(root, &Local.list(&at("_*/*.parquet")).unwrap()), ["_temporary/x.parquet"]);
        let one = Local.list(&at("dt=2/b.parquet")).unwrap();
        assert_eq!((names(root, &one), one[0].bytes), (vec![all[2].to_string()], 14));
        let both = list_all(&Local, &[at("dt=2/b.parquet"), at("")]).unwrap();
        assert_eq!(names(root, &both), [all[2], all[0], all[1]]);
    }

    #[test]
    fn an_empty_pattern_is_named() {
        for pattern in ["/nowhere/*.parquet", "/nowhere/file.parquet"] {
            let message = Local.list(pattern).unwrap_err().to_string();
            assert!(message.contains(pattern) && message.contains("fix:"), "{message}");
        }
    }

    #[test]
    fn partitions_come_from_folders_only() {
        let found = partitions("logs/dt=2024-01-01/hour=3/user%3Dx/t=a%3Ab/part-a=b.parquet");
        let expected = [("dt", "2024-01-01"), ("hour", "3"), ("t", "a:b")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_string(), v.to_string())));
        assert_eq!(partitions("k=100%/f.parquet"), [("k".to_string(), "100%".to_string())]);
    }

    #[test]
    fn ranges_are_read_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), "0123456789");
        let counter = Arc::new(AtomicU64::new(0));
        let blob = Local.open(&folder.path().join("0123456789").display().to_string()).unwrap();
        let reader = BlobReader::new(blob, counter.clone());
        assert_eq!(reader.get_bytes(3, 4).unwrap(), "3456");
        assert!(reader.get_bytes(8, 4).is_err());
        let mut rest = String::new();
        reader.get_read(7).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), counter.load(Ordering::Relaxed)), ("789", 4 + 2 + 3));
    }
}
