//! A server that breaks, is busy, cuts bodies short, or falls silent.

use crate::common::job::EVERY_FEATURE;
use crate::common::log;
use crate::server::{Fault, Server};
use std::path::Path;
use std::sync::Arc;
use tandem::comm::solo::Solo;
use tandem::config;
use tandem::data::plan::Plan;
use tandem::data::remote::{Limits, Remote};
use tandem::data::sample::Sample;
use tandem::data::schema::{Purpose, Schema};
use tandem::data::store::{Store, read_whole};

/// So short that a silent server is found out in no time.
fn remote() -> Remote {
    let limits = Limits { retries: 3, retry_s: 20.0, connect_s: 2.0, read_s: 0.5, request_s: 5.0, backoff_s: 0.01 };
    Remote::new(limits).unwrap_or_else(|error| panic!("{error}"))
}

/// A server with a log of 400 rows at `log.parquet`.
fn served() -> (Server, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.parquet");
    log::write(&path, log::columns(0..400), 150);
    let bytes = std::fs::read(path).unwrap();
    let server = Server::start();
    server.put("log.parquet", bytes.clone());
    (server, bytes)
}

#[test]
fn what_passes_is_tried_again() {
    let (server, bytes) = served();
    let (remote, url) = (remote(), server.url("log.parquet"));
    use Fault::{Broken, Busy, Silent, Truncated};
    for faults in [&[][..], &[Broken], &[Busy, Busy], &[Broken, Busy, Broken], &[Truncated], &[Silent, Broken]] {
        server.fail(faults);
        let read = read_whole(&remote, &url).unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        assert!(read == bytes, "{faults:?}");
    }
}

#[test]
fn what_does_not_pass_is_an_error_that_says_where() {
    let (server, _) = served();
    let (remote, url) = (remote(), server.url("log.parquet"));
    for fault in [Fault::Broken, Fault::Busy, Fault::Truncated, Fault::Silent] {
        server.fail(&[fault; 40]);
        let error = read_whole(&remote, &url).expect_err("it never answers").to_string();
        assert!(error.contains("log.parquet") && error.contains("fix:"), "{fault:?}: {error}");
    }
    server.fail(&[]);
    let error = read_whole(&remote, &server.url("nothing.parquet")).unwrap_err().to_string();
    assert!(error.contains("nothing.parquet") && error.contains("check the path"), "{error}");
}

/// No server listens there.
#[test]
fn a_server_that_is_not_there_is_an_error() {
    let url = {
        let server = Server::start();
        server.url("log.parquet")
    };
    let error = remote().list(&url).unwrap_err().to_string();
    assert!(error.contains("log.parquet") && error.contains("can be reached"), "{error}");
}

#[test]
fn rows_are_read_in_few_requests() {
    let (server, _) = served();
    let remote: Arc<dyn Store> = Arc::new(remote());
    let job =
        config::from_text(EVERY_FEATURE, Path::new("job.yaml"), &[]).unwrap_or_else(|error| panic!("{error}")).job;
    let schema = Arc::new(Schema::new(&job.into_job(), Purpose::Train).unwrap());
    let plan = Arc::new(Plan::read(&Solo, remote.as_ref(), &[server.url("log.parquet")], &schema).unwrap());
    assert_eq!((plan.rows, plan.row_groups.len()), (400, 3));
    server.requests();
    server.fail(&[Fault::Busy, Fault::None, Fault::Truncated]);
    let sample = Sample::take(remote, plan, schema, 10_000).unwrap();
    assert!(sample.errors.is_empty(), "{:?}", sample.errors);
    assert_eq!(sample.decoded, 400);
    let requests = server.requests();
    // One to open, one a row group, and those that failed.
    assert!(requests.len() <= 2 * 3 + 2 + 2, "{requests:#?}");
}

#[test]
fn secrets_in_addresses_are_refused_and_not_repeated() {
    let remote = remote();
    for url in ["http://user:hunter2@host/x.parquet", "https://host/x.parquet?sig=hunter2"] {
        let error = remote.list(url).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains("credentials") && !error.contains("hunter2"), "{error}");
    }
    let error = remote.list("https://host/*.parquet").unwrap_err().to_string();
    assert!(error.contains("lists no files"), "{error}");
    let error = remote.list("s3://").unwrap_err().to_string();
    assert!(error.contains("names no bucket"), "{error}");
}

#[test]
fn files_are_put_whole() {
    let server = Server::start();
    let remote = remote();
    server.fail(&[Fault::Broken, Fault::Busy]);
    remote.put(&server.url("run/manifest.json"), vec![7u8; 100_000].into()).unwrap();
    assert_eq!(server.get("run/manifest.json").unwrap(), vec![7u8; 100_000]);
}
