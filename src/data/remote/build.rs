//! The client of a bucket or host.

use super::failure::broke_off;
use super::place::Place;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a request is waited for, and how often it is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// A request is tried so many times more.
    pub retries: usize,
    /// No retry begins later than this after the first try.
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

impl Limits {
    fn retry(&self) -> RetryConfig {
        let seconds = Duration::from_secs_f64;
        let backoff = BackoffConfig { init_backoff: seconds(self.backoff_s), ..BackoffConfig::default() };
        RetryConfig { backoff, max_retries: self.retries, retry_timeout: seconds(self.retry_s) }
    }

    /// What is set over the environment's own settings. `http` is only spoken with endpoints that were written so.
    fn client(&self) -> [(ClientConfigKey, String); 4] {
        let seconds = |seconds: f64| format!("{} ms", (seconds * 1e3) as u64);
        [
            (ClientConfigKey::AllowHttp, true.to_string()),
            (ClientConfigKey::ConnectTimeout, seconds(self.connect_s)),
            (ClientConfigKey::ReadTimeout, seconds(self.read_s)),
            (ClientConfigKey::Timeout, seconds(self.request_s)),
        ]
    }
}

/// Tries of a request whose answers break off, which `object_store` does not all make itself.
pub struct Tries {
    limits: Limits,
    began: Instant,
    made: usize,
}

impl Tries {
    /// The first one begins.
    pub fn begin(limits: Limits) -> Self {
        Self { limits, began: Instant::now(), made: 1 }
    }

    /// Waits for the next one, or gives up: `broken` is what came of the last.
    pub async fn again(&mut self, broken: &str) -> object_store::Result<()> {
        let Limits { retries, retry_s, backoff_s, .. } = self.limits;
        if self.made > retries || self.began.elapsed().as_secs_f64() > retry_s {
            return Err(broke_off(self.made, broken));
        }
        tokio::time::sleep(Duration::from_secs_f64(backoff_s * self.made as f64)).await;
        self.made += 1;
        Ok(())
    }
}

/// The client of `place`, with what its store reads of the environment.
pub fn build(place: &Place, limits: Limits) -> object_store::Result<Arc<dyn ObjectStore>> {
    let (client, retry) = (limits.client().into_iter(), limits.retry());
    Ok(match place.scheme.as_str() {
        "s3" => {
            let store = AmazonS3Builder::from_env().with_bucket_name(&place.bucket).with_retry(retry);
            let set = |store: AmazonS3Builder, (key, value)| store.with_config(AmazonS3ConfigKey::Client(key), value);
            Arc::new(client.fold(store, set).build()?)
        }
        "gs" => {
            let store = GoogleCloudStorageBuilder::from_env().with_bucket_name(&place.bucket).with_retry(retry);
            let set =
                |store: GoogleCloudStorageBuilder, (key, value)| store.with_config(GoogleConfigKey::Client(key), value);
            Arc::new(client.fold(store, set).build()?)
        }
        "az" => {
            let store = MicrosoftAzureBuilder::from_env().with_container_name(&place.bucket).with_retry(retry);
            let set =
                |store: MicrosoftAzureBuilder, (key, value)| store.with_config(AzureConfigKey::Client(key), value);
            Arc::new(client.fold(store, set).build()?)
        }
        _ => {
            let store = HttpBuilder::new().with_url(place.root()).with_retry(retry);
            Arc::new(client.fold(store, |store: HttpBuilder, (key, value)| store.with_config(key, value)).build()?)
        }
    })
}
