//! Files in object stores and on web servers: `s3://`, `gs://`, `az://`, `http://`, `https://`.
//!
//! Credentials come from the environment that the stores' own tools read (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
//! `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, …), or from the machine's role; never from the job, and
//! they are in no message. A request that fails is tried again a limited number of times, and has a limit of time.

mod blob;
mod build;
mod failure;
mod place;

use super::store::{Blob, Depot, FileInfo, Store, nothing_found};
use crate::error::{Error, Result};
use crate::pulse;
use blob::RemoteBlob;
pub use build::Limits;
use build::Tries;
use bytes::Bytes;
use failure::{failed, reason};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{Error as Refusal, ObjectMeta, ObjectStore, ObjectStoreExt, WriteMultipart};
use place::{Place, shown};
use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// Larger files are uploaded in parts of this size.
const PART: usize = 16 << 20;

/// Parts that are uploaded at the same time.
const AT_ONCE: usize = 4;

/// A store for each bucket or host that was named, opened when it is first needed.
pub struct Remote {
    limits: Limits,
    runtime: Arc<Runtime>,
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Remote {
    /// Nothing is reached for before it is needed.
    pub fn new(limits: Limits) -> Result<Self> {
        // The provider of a process can be set once; that it is set already is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("store").enable_all().build();
        let runtime =
            runtime.map_err(|e| Error::internal(format!("no threads for object stores can be started: {e}")))?;
        Ok(Self { limits, runtime: Arc::new(runtime), stores: Mutex::default() })
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The store of an address, and what it has there.
    fn at(&self, url: &str) -> Result<(Arc<dyn ObjectStore>, Place, Key)> {
        let place = Place::of(url)?;
        let key = place.parsed()?;
        Ok((self.store(&place)?, place, key))
    }

    fn store(&self, place: &Place) -> Result<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&place.root()) {
            return Ok(store.clone());
        }
        let store = build::build(place, self.limits).map_err(|e| failed("opening the store", &place.root(), &e))?;
        stores.insert(place.root(), store.clone());
        Ok(store)
    }
}

/// All objects below `folder`.
async fn list_all(store: &dyn ObjectStore, folder: &Key, limits: Limits) -> object_store::Result<Vec<ObjectMeta>> {
    let mut tries = Tries::begin(limits);
    loop {
        match store.list(Some(folder)).try_collect().await {
            Err(e) if reason(&e).contains("response body") => tries.again(&reason(&e)).await?,
            listed => return listed,
        }
    }
}

/// Writes a file of this machine as `to`; a large one in parts, of which a few are on their way. Nothing is there before
/// all is.
async fn put(store: &dyn ObjectStore, key: &Key, from: &Path, to: &str) -> Result<()> {
    let refused = |e: Refusal| failed("writing", to, &e);
    let unread = |e: std::io::Error| Error::io("reading", from, &e);
    let mut file = File::open(from).map_err(unread)?;
    let mut part = next_part(&mut file).map_err(unread)?;
    if part.len() < PART {
        return store.put(key, part.into()).await.map(|_| ()).map_err(refused);
    }
    let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(key).await.map_err(refused)?, PART);
    let send = async {
        while !part.is_empty() {
            upload.wait_for_capacity(AT_ONCE).await.map_err(refused)?;
            let _beat = pulse::touch(to, None);
            upload.put(std::mem::take(&mut part));
            part = next_part(&mut file).map_err(unread)?;
        }
        Ok(())
    };
    match send.await {
        Ok(()) => upload.finish().await.map(|_| ()).map_err(refused),
        Err(error) => {
            // Parts that no file is made of would be kept, and paid for.
            let _ = upload.abort().await;
            Err(error)
        }
    }
}

fn next_part(file: &mut File) -> std::io::Result<Bytes> {
    let mut part = Vec::new();
    file.take(PART as u64).read_to_end(&mut part)?;
    Ok(part.into())
}

impl Store for Remote {
    fn list(&self, pattern: &str) -> Result<Vec<FileInfo>> {
        let place = Place::of(pattern)?;
        let is_glob = place.key.contains(['*', '?', '[']);
        if place.is_web() {
            return match is_glob {
                true => Err(Error::job("a web server lists no files")
                    .at("pattern", shown(pattern))
                    .fix("name each file: `train: [https://host/a.parquet, https://host/b.parquet]`")),
                false => self.stat(pattern)?.map(|file| vec![file]).ok_or_else(|| nothing_found(pattern)),
            };
        }
        let is_wild = |part: &&str| part.contains(['*', '?', '[']);
        let fixed: Vec<&str> = place.key.split('/').take_while(|part| !is_wild(part)).collect();
        let root = format!("{}/{}", place.root(), fixed.join("/"));
        let mut files = self.below(&root)?;
        if is_glob {
            let glob = glob::Pattern::new(&place.key)
                .map_err(|e| Error::job(format!("`{pattern}` is not a glob: {e}")).fix("see `data:` in docs/job.md"))?;
            files.retain(|file| matches(&glob, file.path.get(place.root().len() + 1..).unwrap_or_default()));
        }
        let is_hidden = |path: &str| path.split('/').any(|name| name.starts_with(['.', '_']));
        let asked_for = place.key.split('/').skip(fixed.len()).any(is_hidden);
        let below_root = |file: &FileInfo| file.path.get(root.len()..).is_some_and(is_hidden);
        files.retain(|file| file.path.ends_with(".parquet") && (asked_for || !below_root(file)));
        if files.is_empty() && !is_glob {
            files.extend(self.stat(pattern)?);
        }
        if files.is_empty() { Err(nothing_found(pattern)) } else { Ok(files) }
    }

    fn open(&self, path: &str) -> Result<Arc<dyn Blob>> {
        let (store, _, key) = self.at(path)?;
        let blob = RemoteBlob::open(self.runtime.clone(), self.limits, store, key);
        Ok(Arc::new(blob.map_err(|e| failed("opening", path, &e))?))
    }
}

impl Depot for Remote {
    fn stat(&self, path: &str) -> Result<Option<FileInfo>> {
        let (store, place, key) = self.at(path)?;
        match self.wait(store.head(&key)) {
            Ok(meta) => Ok(Some(FileInfo { path: place.url(&key), bytes: meta.size })),
            Err(Refusal::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed("looking for the file", path, &e)),
        }
    }

    fn below(&self, folder: &str) -> Result<Vec<FileInfo>> {
        let (store, place, key) = self.at(folder)?;
        if place.is_web() {
            return Err(Error::job("a web server lists no files")
                .at("path", shown(folder))
                .fix("name the folder of one checkpoint or bundle, or one file"));
        }
        let listed = self.wait(list_all(store.as_ref(), &key, self.limits));
        let listed = listed.map_err(|e| failed("listing", folder, &e))?;
        let mut files: Vec<FileInfo> =
            listed.into_iter().map(|meta| FileInfo { path: place.url(&meta.location), bytes: meta.size }).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn put(&self, from: &Path, to: &str) -> Result<()> {
        let (store, place, key) = self.at(to)?;
        if place.is_web() {
            return Err(Error::job("a web server is only read")
                .at("path", shown(to))
                .fix("name a bucket: s3://, gs://, az://"));
        }
        self.wait(put(store.as_ref(), &key, from, to))
    }

    fn remove(&self, paths: &[String]) -> Result<()> {
        let Some(first) = paths.first() else { return Ok(()) };
        let (store, ..) = self.at(first)?;
        let keys = paths.iter().map(|path| Place::of(path)?.parsed()).collect::<Result<Vec<Key>>>()?;
        let removed = store.delete_stream(stream::iter(keys).map(Ok).boxed());
        let refused = self.wait(removed.collect::<Vec<_>>()).into_iter().find_map(|removed| match removed {
            // A retry of a request that had been heard.
            Ok(_) | Err(Refusal::NotFound { .. }) => None,
            Err(e) => Some(failed("removing", first, &e)),
        });
        refused.map_or(Ok(()), Err)
    }
}

/// Whether a glob over whole keys fits one file, or a folder that it is in.
fn matches(glob: &glob::Pattern, key: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let mut ends = key.match_indices('/').map(|(end, _)| end).chain([key.len()]);
    ends.any(|end| glob.matches_with(&key[..end], options))
}
