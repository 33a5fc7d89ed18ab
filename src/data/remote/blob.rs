//! A file in a store, read by range.

use super::super::store::{Blob, NOT_FETCHED};
use super::build::{Limits, Tries};
use super::failure::{broke_off, reason};
use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{
    Error as Refusal, GetOptions, GetRange, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt,
};
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Read of the end of a file when it is opened: most footers fit.
const TAIL: u64 = 64 << 10;

/// An open file.
pub struct RemoteBlob {
    object: Object,
    runtime: Arc<Runtime>,
    size: u64,
    /// The last bytes of the file.
    tail: Bytes,
}

impl RemoteBlob {
    /// Asks for the size and the end of a file.
    pub fn open(
        runtime: Arc<Runtime>,
        limits: Limits,
        store: Arc<dyn ObjectStore>,
        key: Key,
    ) -> object_store::Result<Self> {
        let mut object = Object { store, key, limits, tag: None };
        let (size, tail) = runtime.block_on(object.open())?;
        Ok(Self { object, runtime, size, tail })
    }

    /// What lies in the end of the file, which was read when it was opened.
    fn held(&self, range: &Range<u64>) -> Option<Bytes> {
        let start = self.size - self.tail.len() as u64;
        let at = |position: u64| usize::try_from(position - start).ok();
        (range.start >= start).then(|| Some(self.tail.slice(at(range.start)?..at(range.end)?)))?
    }
}

impl Blob for RemoteBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_range(&self, start: u64, length: usize) -> std::io::Result<Bytes> {
        let range = start..start.saturating_add(length as u64);
        Ok(self.read_ranges(&[range])?.pop().unwrap_or_default())
    }

    fn read_ranges(&self, ranges: &[Range<u64>]) -> std::io::Result<Vec<Bytes>> {
        // A damaged footer says any number.
        let ranges = ranges.iter().map(|range| range.start.min(self.size)..range.end.min(self.size));
        let ranges: Vec<Range<u64>> = ranges.collect();
        if let Some(held) = ranges.iter().map(|range| self.held(range)).collect() {
            return Ok(held);
        }
        // No range is asked for that is empty: stores refuse it.
        let asked: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let get = |range| async { Ok(self.object.get(GetRange::Bounded(range)).await?.1) };
        let joined = object_store::coalesce_ranges(&asked, get, OBJECT_STORE_COALESCE_DEFAULT);
        let failed = |e: Refusal| std::io::Error::other(format!("{NOT_FETCHED}{}", reason(&e)));
        let read: Vec<Bytes> = self.runtime.block_on(joined).map_err(failed)?;
        let mut read = read.into_iter();
        let bytes = |range: &Range<u64>| if range.is_empty() { Some(Bytes::new()) } else { read.next() };
        Ok(ranges.iter().filter_map(bytes).collect())
    }

    fn is_far(&self) -> bool {
        true
    }
}

/// An object, and how long is waited for it.
struct Object {
    store: Arc<dyn ObjectStore>,
    key: Key,
    limits: Limits,
    /// Names its content: bytes of another are refused.
    tag: Option<String>,
}

impl Object {
    /// The size of the object, and its end.
    async fn open(&mut self) -> object_store::Result<(u64, Bytes)> {
        let (meta, tail) = match self.get(GetRange::Suffix(TAIL)).await {
            // Azure has no ranges from the end, and an empty object has no range at all.
            Err(e) if matches!(e, Refusal::NotSupported { .. }) || reason(&e).contains(" 416 ") => {
                let meta = self.store.head(&self.key).await?;
                let range = meta.size.saturating_sub(TAIL)..meta.size;
                let tail = if range.is_empty() { Bytes::new() } else { self.get(GetRange::Bounded(range)).await?.1 };
                (meta, tail)
            }
            other => other?,
        };
        // A weak tag does not name bytes.
        self.tag = meta.e_tag.filter(|tag| !tag.starts_with("W/"));
        Ok((meta.size, tail))
    }

    /// The bytes of a range, all of them. A body that broke off is asked for again: by `object_store`, where the server
    /// names a tag, else here.
    async fn get(&self, range: GetRange) -> object_store::Result<(ObjectMeta, Bytes)> {
        let mut tries = Tries::begin(self.limits);
        loop {
            let options =
                GetOptions { range: Some(range.clone()), if_match: self.tag.clone(), ..GetOptions::default() };
            let found = self.store.get_opts(&self.key, options).await?;
            let (meta, length) = (found.meta.clone(), found.range.end - found.range.start);
            let broken = match found.bytes().await {
                Ok(bytes) if bytes.len() as u64 == length => return Ok((meta, bytes)),
                Ok(bytes) => format!("{} of {length} bytes came", bytes.len()),
                Err(e) => reason(&e),
            };
            match meta.e_tag {
                Some(_) => return Err(broke_off(self.limits.retries + 1, &broken)),
                None => tries.again(&broken).await?,
            }
        }
    }
}
