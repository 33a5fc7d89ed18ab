//! Files of a checkpoint: safetensors written with a checksum and synced, and read back against it.

use super::inside::inside;
use crate::error::{Error, Result};
use crate::pulse;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// One file of the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name inside the checkpoint folder.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// XXH3-64 of the content, as 16 hexadecimal digits.
    pub checksum: String,
    /// Buckets `[first, last]` for a table file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<(usize, usize)>,
    /// Rows of each table in it, in the order of [`super::Manifest::tables`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<u64>,
}

/// A named tensor to be written.
pub struct Named<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Data<'a>,
}

/// Elements of the types that a checkpoint holds.
pub enum Data<'a> {
    /// Parameters, rows, moments.
    F32(&'a [f32]),
    /// Counts and steps.
    U32(&'a [u32]),
    /// Ids.
    U64(&'a [u64]),
    /// Classes.
    U8(&'a [u8]),
}

impl Data<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(v) => bytemuck::cast_slice(v),
            Self::U32(v) => bytemuck::cast_slice(v),
            Self::U64(v) => bytemuck::cast_slice(v),
            Self::U8(v) => v,
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::U32(_) => Dtype::U32,
            Self::U64(_) => Dtype::U64,
            Self::U8(_) => Dtype::U8,
        }
    }
}

/// XXH3-64 as 16 hexadecimal digits.
pub fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes))
}

/// Writes `bytes` to `path` and syncs them to the disk.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("writing", path, &e))
}

/// Syncs a folder, so that the names in it survive a power cut.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("syncing", path, &e))
}

/// Writes `tensors` as `dir/name`; returns its manifest entry.
pub fn write_tensors(dir: &Path, name: &str, tensors: &[Named]) -> Result<FileEntry> {
    let views = tensors
        .iter()
        .map(|t| Ok((t.name.as_str(), TensorView::new(t.data.dtype(), t.shape.clone(), t.data.bytes())?)))
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|e| Error::internal(format!("checkpoint file {name} cannot be laid out: {e}")))?;
    let path = dir.join(name);
    let _touch = pulse::touch(&path.to_string_lossy(), None);
    write_synced(&path, &views)?;
    Ok(FileEntry {
        name: name.to_string(),
        bytes: views.len() as u64,
        checksum: checksum(&views),
        buckets: None,
        rows: Vec::new(),
    })
}

/// A safetensors file in memory, known to be what was written.
pub struct TensorFile {
    name: String,
    bytes: Vec<u8>,
}

impl TensorFile {
    /// Reads `dir/entry.name` and compares its length and checksum with the manifest's.
    pub fn read(dir: &Path, entry: &FileEntry) -> Result<Self> {
        let path = inside(dir, &entry.name)?;
        let _touch = pulse::touch(&path.to_string_lossy(), None);
        let damaged = |what: String| {
            Error::checkpoint(what).at("file", path.display()).fix(format!(
                "the file was changed after it was saved: restore it, or move {} away to go on from the checkpoint \
                     before it",
                dir.display()
            ))
        };
        let unreadable = |e| damaged(format!("a checkpoint file cannot be read: {e}"));
        let length = std::fs::metadata(&path).map_err(unreadable)?.len();
        if length != entry.bytes {
            return Err(damaged(format!("a checkpoint file has {length} bytes instead of {}", entry.bytes)));
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        let found = checksum(&bytes);
        if found != entry.checksum {
            return Err(damaged(format!("a checkpoint file has checksum {found} instead of {}", entry.checksum)));
        }
        Ok(Self { name: entry.name.clone(), bytes })
    }

    /// The tensors of the file.
    pub fn tensors(&self) -> Result<Tensors<'_>> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|e| {
            Error::checkpoint(format!("a checkpoint file is not safetensors: {e}")).at("file", &self.name)
        })?;
        Ok(Tensors { file: &self.name, tensors })
    }
}

/// Typed access to the tensors of one file.
pub struct Tensors<'a> {
    file: &'a str,
    tensors: SafeTensors<'a>,
}

impl Tensors<'_> {
    /// Whether there is a tensor of this name and shape.
    pub fn has(&self, name: &str, shape: &[usize]) -> bool {
        self.tensors.tensor(name).is_ok_and(|tensor| tensor.shape() == shape)
    }

    /// The elements of tensor `name`.
    pub fn get<T: bytemuck::Pod>(&self, name: &str) -> Result<Vec<T>> {
        let missing = |what: &str| {
            Error::checkpoint(format!("tensor `{name}` {what}"))
                .at("file", self.file)
                .fix("this checkpoint belongs to another job, or to another version of it")
        };
        let tensor = self.tensors.tensor(name).map_err(|_| missing("is missing"))?;
        if !tensor.data().len().is_multiple_of(size_of::<T>()) {
            return Err(missing("has another element type"));
        }
        Ok(bytemuck::pod_collect_to_vec(tensor.data()))
    }
}
