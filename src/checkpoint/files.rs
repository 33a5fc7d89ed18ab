//! Files of a checkpoint: safetensors written with a checksum and synced, and read back against it.

use super::disk::Disk;
use super::inside::inside;
use crate::error::{Error, Result};
use crate::pulse;
use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// One file of the checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name inside the checkpoint folder.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// XXH3-64 as 16 hexadecimal digits: of the content, or of a table file of its head
    /// (`table_file.rs`).
    pub checksum: String,
    /// Buckets `[first, last]` for a table file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<(usize, usize)>,
    /// Checksum of the content of each of `buckets`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bucket_checksums: Vec<String>,
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
    F32(Cow<'a, [f32]>),
    /// Counts and steps.
    U32(Cow<'a, [u32]>),
    /// Ids.
    U64(Cow<'a, [u64]>),
    /// Classes.
    U8(Cow<'a, [u8]>),
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

    /// Name of the type, and bytes of an element.
    fn dtype(&self) -> (&'static str, usize) {
        match self {
            Self::F32(_) => ("F32", 4),
            Self::U32(_) => ("U32", 4),
            Self::U64(_) => ("U64", 8),
            Self::U8(_) => ("U8", 1),
        }
    }
}

/// XXH3-64 as 16 hexadecimal digits.
pub fn checksum(bytes: &[u8]) -> String {
    checksum_of(&[bytes])
}

/// The same of parts, one behind the other.
pub(super) fn checksum_of(parts: &[&[u8]]) -> String {
    let mut hash = Xxh3::new();
    parts.iter().for_each(|part| hash.update(part));
    format!("{:016x}", hash.digest())
}

/// The parts of a safetensors file, one behind the other: its header, then the tensors as they are, widest elements first,
/// so that all lie at multiples of their size.
pub(super) fn layout<'a>(header: &'a mut Vec<u8>, tensors: &'a [Named]) -> Result<Vec<&'a [u8]>> {
    let mut tensors: Vec<&Named> = tensors.iter().collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.data.dtype().1));
    let mut places = serde_json::Map::new();
    let mut start = 0;
    for tensor in &tensors {
        let (bytes, (dtype, size)) = (tensor.data.bytes().len(), tensor.data.dtype());
        if tensor.shape.iter().product::<usize>() * size != bytes {
            let what = format!("tensor `{}` has {bytes} bytes for the shape {:?}", tensor.name, tensor.shape);
            return Err(Error::internal(what));
        }
        let place = serde_json::json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, start + bytes]});
        places.insert(tensor.name.clone(), place);
        start += bytes;
    }
    let text = serde_json::to_vec(&places).map_err(|e| Error::internal(format!("the header of a file: {e}")))?;
    let padded = text.len().next_multiple_of(8);
    header.extend((padded as u64).to_le_bytes());
    header.extend(text);
    header.resize(8 + padded, b' ');
    Ok(std::iter::once(header.as_slice()).chain(tensors.into_iter().map(|tensor| tensor.data.bytes())).collect())
}

/// Writes `tensors` as `dir/name`; returns its manifest entry.
pub fn write_tensors(disk: &Disk, dir: &Path, name: &str, tensors: &[Named]) -> Result<FileEntry> {
    let mut header = Vec::new();
    let parts = layout(&mut header, tensors)?;
    disk.write(&dir.join(name), &parts)?;
    let bytes = parts.iter().map(|part| part.len() as u64).sum();
    Ok(FileEntry { name: name.to_string(), bytes, checksum: checksum_of(&parts), ..FileEntry::default() })
}

/// What is wrong with the file `path` of the checkpoint `dir`.
pub(super) fn damaged(dir: &Path, path: &Path, what: String) -> Error {
    Error::checkpoint(what).at("file", path.display()).fix(format!(
        "the file was changed after it was saved: restore it, or move {} away to go on from the checkpoint before it",
        dir.display()
    ))
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
        let damaged = |what: String| damaged(dir, &path, what);
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
