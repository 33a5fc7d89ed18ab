//! Files in object stores and on web servers: `s3://`, `gs://`, `az://`, `http://`, `https://`.
//!
//! Credentials come from the environment that the stores' own tools read (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
//! `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, …), or from the machine's role; never from the job, and they are in
//! no message. A request that fails is tried again a limited number of times, and has a limit of time.

use super::store::{Blob, FileInfo, Store, nothing_found};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart,
};
use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long a request is waited for, and how often it is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// A request is tried so many times more.
    pub retries: usize,
    /// No retry begins later than this.
    pub retry_s: f64,
    /// Until a connection is there,
    pub connect_s: f64,
    /// until the next bytes come,
    pub read_s: f64,
    /// and until the answer is whole.
    pub request_s: f64,
    /// Pause before the first retry; later ones are longer.
    pub backoff_s: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { retries: 4, retry_s: 60.0, connect_s: 10.0, read_s: 20.0, request_s: 180.0, backoff_s: 0.2 }
    }
}

/// Read of the end of a file when it is opened: most footers fit.
const TAIL: u64 = 64 << 10;

/// Larger files are uploaded in parts of this size.
const PART: usize = 16 << 20;

/// Requests at the same time.
const AT_ONCE: usize = 8;

/// A store for each bucket or host that was named, opened when it is first needed.
pub struct Remote {
    limits: Limits,
    runtime: Runtime,
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

/// A URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    scheme: String,
    /// Bucket, container, or host.
    bucket: String,
    /// What stands behind it, without the slash.
    key: String,
}

impl Place {
    fn of(url: &str) -> Result<Self> {
        let parts = url.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('/').unwrap_or((rest, ""))));
        let wrong =
            |what: &str| Error::job(format!("`{}` {what}", shown(url))).fix("write `s3://bucket/folder/*.parquet`");
        let Some((scheme, (bucket, key))) = parts.filter(|(_, (bucket, _))| !bucket.is_empty()) else {
            return Err(wrong("names no bucket"));
        };
        if bucket.contains('@') || key.contains(['?', '#']) && scheme.starts_with("http") {
            return Err(wrong("holds credentials or a query: they would stand in logs and checkpoints")
                .fix("give credentials in the environment"));
        }
        Ok(Self { scheme: scheme.to_string(), bucket: bucket.to_string(), key: key.to_string() })
    }

    fn root(&self) -> String {
        format!("{}://{}", self.scheme, self.bucket)
    }

    fn url(&self, key: &Key) -> String {
        format!("{}/{key}", self.root())
    }

    fn is_web(&self) -> bool {
        self.scheme.starts_with("http")
    }
}

/// A URL for messages: without what may be a password or a signature.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('@') {
            Some((user, rest)) if !user.contains('/') => format!("{scheme}://…@{rest}"),
            _ => url.to_string(),
        },
        None => url.to_string(),
    }
}

impl Remote {
    /// Nothing is reached for before it is needed.
    pub fn new(limits: Limits) -> Result<Self> {
        // The provider of a process can be set once; that it is set already is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("remote").enable_all().build();
        let runtime =
            runtime.map_err(|e| Error::internal(format!("threads for object stores cannot be started: {e}")))?;
        Ok(Self { limits, runtime, stores: Mutex::default() })
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The store of a bucket.
    fn store(&self, place: &Place) -> Result<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&place.root()) {
            return Ok(store.clone());
        }
        let store = build(place, self.limits).map_err(|e| failed("opening the store", &place.root(), &e))?;
        stores.insert(place.root(), store.clone());
        Ok(store)
    }

    fn objects(&self, place: &Place, folder: &Key) -> Result<Vec<FileInfo>> {
        let store = self.store(place)?;
        let listed = self.wait(store.list(Some(folder)).try_collect::<Vec<_>>());
        let listed = listed.map_err(|e| failed("listing", &place.url(folder), &e))?;
        let mut files: Vec<FileInfo> =
            listed.into_iter().map(|meta| FileInfo { path: place.url(&meta.location), bytes: meta.size }).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn head(&self, place: &Place, key: &Key) -> Result<Option<FileInfo>> {
        match self.wait(self.store(place)?.head(key)) {
            Ok(meta) => Ok(Some(FileInfo { path: place.url(key), bytes: meta.size })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed("looking for", &place.url(key), &e)),
        }
    }
}

fn build(place: &Place, limits: Limits) -> object_store::Result<Arc<dyn ObjectStore>> {
    let seconds = Duration::from_secs_f64;
    let backoff = BackoffConfig { init_backoff: seconds(limits.backoff_s), ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: limits.retries, retry_timeout: seconds(limits.retry_s) };
    let client = || {
        ClientOptions::new()
            .with_connect_timeout(seconds(limits.connect_s))
            .with_read_timeout(seconds(limits.read_s))
            .with_timeout(seconds(limits.request_s))
    };
    let bucket = &place.bucket;
    let allows_http = |name: &str| std::env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(match place.scheme.as_str() {
        "s3" => {
            let client = client().with_allow_http(allows_http("AWS_ALLOW_HTTP"));
            let store = AmazonS3Builder::from_env().with_bucket_name(bucket);
            Arc::new(store.with_retry(retry).with_client_options(client).build()?)
        }
        "gs" => {
            let store = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            Arc::new(store.with_retry(retry).with_client_options(client()).build()?)
        }
        "az" => {
            let store = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            let client = client().with_allow_http(allows_http("AZURE_ALLOW_HTTP"));
            Arc::new(store.with_retry(retry).with_client_options(client).build()?)
        }
        _ => {
            let client = client().with_allow_http(place.scheme == "http");
            Arc::new(HttpBuilder::new().with_url(place.root()).with_retry(retry).with_client_options(client).build()?)
        }
    })
}

fn key_of(place: &Place, url: &str) -> Result<Key> {
    Key::parse(place.key.trim_end_matches('/')).map_err(|e| {
        Error::job(format!("`{}` is no path in a store: {e}", shown(url))).fix("remove empty and `..` parts")
    })
}

/// A body that ended early is no body.
fn whole(bytes: Bytes, size: u64) -> object_store::Result<Bytes> {
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(object_store::Error::Generic {
            store: "response",
            source: format!("{} bytes came, and {size} should have", bytes.len()).into(),
        }),
    }
}

fn failed(doing: &str, url: &str, error: &object_store::Error) -> Error {
    use object_store::Error as E;
    let what = Error::data(format!("{doing} failed: {}", reason(error))).at("url", shown(url));
    match error {
        E::NotFound { .. } => what.fix("check the path and the name of the bucket"),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            what.fix("give credentials in the environment, as the store's own tools read them, and see what they allow")
        }
        _ => what.fix("see that the store can be reached from here (for S3 servers of your own: AWS_ENDPOINT_URL), and run it again"),
    }
}

/// The causes of an error, without the URLs in them: a signed one holds a secret.
fn reason(error: &object_store::Error) -> String {
    let mut causes = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
        cause = inner.source();
    }
    let words = causes.join(": ");
    let is_url = |word: &str| word.contains("://");
    let words = words
        .split_whitespace()
        .map(|word| if is_url(word) { shown(word.trim_matches(['"', '(', ')', ','])) } else { word.to_string() });
    words.collect::<Vec<_>>().join(" ")
}

impl Store for Remote {
    fn list(&self, pattern: &str) -> Result<Vec<FileInfo>> {
        let place = Place::of(pattern)?;
        let wild = |part: &&str| part.contains(['*', '?', '[']);
        let is_glob = place.key.contains(['*', '[']) || (place.key.contains('?') && !place.is_web());
        let parts = place.key.split('/');
        let fixed: Vec<&str> = if is_glob { parts.take_while(|part| !wild(part)).collect() } else { parts.collect() };
        let folder = key_of(&Place { key: fixed.join("/"), ..place.clone() }, pattern)?;
        if place.is_web() {
            if is_glob {
                return Err(Error::job("a web server lists no files")
                    .at("pattern", shown(pattern))
                    .fix("name each file: `train: [https://host/a.parquet, https://host/b.parquet]`"));
            }
            return self.head(&place, &folder)?.map(|file| vec![file]).ok_or_else(|| nothing_found(pattern));
        }
        let mut files = self.objects(&place, &folder)?;
        if is_glob {
            let glob = glob::Pattern::new(&place.key)
                .map_err(|e| Error::job(format!("`{pattern}` is not a glob: {e}")).fix("see `data:` in the job"))?;
            files.retain(|file| matches(&glob, &place, &file.path));
        }
        let root = place.url(&folder);
        let hidden =
            |path: &str| path[root.len().min(path.len())..].split('/').any(|name| name.starts_with(['.', '_']));
        files.retain(|file| file.path.ends_with(".parquet") && !hidden(&file.path));
        if files.is_empty() {
            files.extend(self.head(&place, &folder)?.filter(|_| !is_glob));
        }
        if files.is_empty() { Err(nothing_found(pattern)) } else { Ok(files) }
    }

    fn below(&self, folder: &str) -> Result<Vec<FileInfo>> {
        let place = Place::of(folder)?;
        self.objects(&place, &key_of(&place, folder)?)
    }

    fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        let place = Place::of(path)?;
        let (store, key) = (self.store(&place)?, key_of(&place, path)?);
        let put = async {
            // A web server knows no parts.
            if bytes.len() <= PART || place.is_web() {
                return store.put(&key, bytes.into()).await.map(|_| ());
            }
            let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(&key).await?, PART);
            for part in (0..bytes.len()).step_by(PART).map(|start| bytes.slice(start..bytes.len().min(start + PART))) {
                upload.wait_for_capacity(AT_ONCE).await?;
                upload.put(part);
            }
            upload.finish().await.map(|_| ())
        };
        self.wait(put).map_err(|e| failed("writing", path, &e))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let place = Place::of(path)?;
        let (store, key) = (self.store(&place)?, key_of(&place, path)?);
        self.wait(store.delete(&key)).map_err(|e| failed("removing", path, &e))
    }

    fn open(&self, path: &str) -> Result<Arc<dyn Blob>> {
        let place = Place::of(path)?;
        let (store, key) = (self.store(&place)?, key_of(&place, path)?);
        let handle = self.runtime.handle().clone();
        let opened = self.wait(tail(&store, &key)).map_err(|e| failed("opening", path, &e))?;
        let (size, tail) = opened;
        Ok(Arc::new(RemoteBlob { store, key, handle, size, tail }))
    }
}

/// Whether a glob over whole keys fits one file, or a folder that it is in.
fn matches(glob: &glob::Pattern, place: &Place, path: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let key = path.strip_prefix(&place.root()).map_or(path, |key| key.trim_start_matches('/'));
    let mut ends = key.match_indices('/').map(|(end, _)| end).chain([key.len()]);
    ends.any(|end| glob.matches_with(&key[..end], options))
}

/// The size of an object, and its end.
async fn tail(store: &Arc<dyn ObjectStore>, key: &Key) -> object_store::Result<(u64, Bytes)> {
    let options = GetOptions { range: Some(GetRange::Suffix(TAIL)), ..GetOptions::default() };
    match store.get_opts(key, options).await {
        Ok(found) => {
            let (size, range) = (found.meta.size, found.range.clone());
            Ok((size, whole(found.bytes().await?, range.end - range.start)?))
        }
        // Azure has no ranges from the end, and some servers no ranges beyond the start of a short file.
        Err(object_store::Error::NotFound { path, source }) => Err(object_store::Error::NotFound { path, source }),
        Err(_) => {
            let size = store.head(key).await?.size;
            let start = size.saturating_sub(TAIL);
            let bytes = if size == 0 { Bytes::new() } else { store.get_range(key, start..size).await? };
            Ok((size, whole(bytes, size - start)?))
        }
    }
}

struct RemoteBlob {
    store: Arc<dyn ObjectStore>,
    key: Key,
    handle: tokio::runtime::Handle,
    size: u64,
    /// The last bytes of the file.
    tail: Bytes,
}

impl RemoteBlob {
    fn held(&self, range: &Range<u64>) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let start = self.size - self.tail.len() as u64;
        (range.start >= start).then(|| self.tail.slice((range.start - start) as usize..(range.end - start) as usize))
    }

    fn clamped(&self, start: u64, length: usize) -> Range<u64> {
        start.min(self.size)..start.saturating_add(length as u64).min(self.size)
    }
}

impl Blob for RemoteBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_range(&self, start: u64, length: usize) -> std::io::Result<Bytes> {
        let range = self.clamped(start, length);
        let mut bytes = self.read_ranges(&[range])?;
        Ok(bytes.pop().unwrap_or_default())
    }

    fn read_ranges(&self, ranges: &[Range<u64>]) -> std::io::Result<Vec<Bytes>> {
        if let Some(held) = ranges.iter().map(|range| self.held(range)).collect::<Option<Vec<Bytes>>>() {
            return Ok(held);
        }
        let other = |e: object_store::Error| std::io::Error::other(reason(&e));
        let asked: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        let bytes = self.handle.block_on(self.store.get_ranges(&self.key, &asked)).map_err(other)?;
        for (bytes, range) in bytes.iter().zip(&asked) {
            if bytes.len() as u64 != range.end - range.start {
                let what = format!("{} bytes came of {range:?}", bytes.len());
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what));
            }
        }
        let mut bytes = bytes.into_iter();
        Ok(ranges
            .iter()
            .map(|range| if range.is_empty() { Bytes::new() } else { bytes.next().unwrap_or_default() })
            .collect())
    }

    fn is_far(&self) -> bool {
        true
    }
}
