//! Addresses, taken apart, and how they stand in messages.

use crate::error::{Error, Result};
use object_store::path::Path as Key;

/// An address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `s3`, `gs`, `az`, `http` or `https`.
    pub scheme: String,
    /// Bucket, container, or host.
    pub bucket: String,
    /// What stands behind it, without the slash.
    pub key: String,
}

impl Place {
    /// Takes `url` apart.
    ///
    /// # Errors
    /// No bucket; a password or a query, which may be a signature, since addresses stand in logs and checkpoints.
    pub fn of(url: &str) -> Result<Self> {
        let wrong = |what: &str, fix: &str| Error::job(format!("`{}` {what}", shown(url))).fix(fix);
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let place = Self { scheme: scheme.to_string(), bucket: bucket.to_string(), key: key.to_string() };
        if bucket.is_empty() {
            return Err(wrong("names no bucket", "write `s3://bucket/folder/*.parquet`"));
        }
        if bucket.contains(['@', '?', '#']) || place.is_web() && key.contains(['?', '#']) {
            let what = "holds credentials or a query, and it would stand in logs and checkpoints";
            return Err(wrong(what, "give credentials in the environment: docs/object-stores.md"));
        }
        Ok(place)
    }

    /// `s3://bucket`.
    pub fn root(&self) -> String {
        format!("{}://{}", self.scheme, self.bucket)
    }

    /// The address of `key`.
    pub fn url(&self, key: &Key) -> String {
        format!("{}/{key}", self.root())
    }

    /// Whether it is on a web server, which lists nothing and is only read.
    pub fn is_web(&self) -> bool {
        self.scheme.starts_with("http")
    }

    /// What stands behind the bucket, as the store takes it.
    pub fn parsed(&self) -> Result<Key> {
        Key::parse(self.key.trim_end_matches('/')).map_err(|e| {
            let url = format!("{}/{}", self.root(), self.key);
            Error::job(format!("`{}` is no path in a store: {e}", shown(&url)))
                .fix("leave out empty, `.` and `..` parts")
        })
    }
}

/// An address for messages: without what may be a password or a signature.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('@') {
            Some((user, rest)) if !user.contains('/') => format!("{scheme}://…@{rest}"),
            _ => url.to_string(),
        },
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let place = Place::of("s3://shop/logs/dt=*/a?.parquet").unwrap();
        assert_eq!((place.root().as_str(), place.key.as_str()), ("s3://shop", "logs/dt=*/a?.parquet"));
        assert_eq!(Place::of("https://host:8080").unwrap().root(), "https://host:8080");
        assert_eq!(Place::of("gs://b/folder/").unwrap().parsed().unwrap().as_ref(), "folder");
        assert!(Place::of("s3://").unwrap_err().to_string().contains("names no bucket"));
        assert!(Place::of("az://c/a/../b").unwrap().parsed().is_err());
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for url in ["http://user:hunter2@host/x", "https://host/x?sig=hunter2", "s3://key:hunter2@shop/x"] {
            let error = Place::of(url).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            assert!(error.contains("credentials") && !error.contains("hunter2"), "{error}");
        }
    }
}
