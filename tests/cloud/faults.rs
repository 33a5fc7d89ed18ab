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
use tandem::data::store::{Depot, Store, read_whole};

/// So short that a silent server is found out in no time.
const LIMITS: Limits =
    Limits { retries: 3, retry_s: 20.0, connect_s: 2.0, read_s: 0.3, request_s: 5.0, backoff_s: 0.01 };

fn remote() -> Remote {
    Remote::new(LIMITS).unwrap_or_else(|error| panic!("{error}"))
}

/// Gives the server a log of 400 rows at `log.parquet`.
fn with_log(server: Server) -> (Server, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.parquet");
    log::write(&path, log::columns(0..400), 150);
    let bytes = std::fs::read(path).unwrap();
    server.put("log.parquet", bytes.clone());
    (server, bytes)
}

#[test]
fn what_passes_is_tried_again() {
    use Fault::{Broken, Busy, Silent, Truncated};
    for server in [Server::start(), Server::without_tags()] {
        let (server, bytes) = with_log(server);
        let (remote, url) = (remote(), server.url("log.parquet"));
        let faults: [&[Fault]; 7] = [
            &[],
            &[Broken],
            &[Busy, Busy],
            &[Broken, Busy, Broken],
            &[Truncated],
            &[Truncated, Truncated],
            &[Silent, Broken],
        ];
        for faults in faults {
            server.fail(faults);
            let read = read_whole(&remote, &url).unwrap_or_else(|error| panic!("{faults:?}: {error}"));
            assert!(read == bytes, "{faults:?}");
        }
    }
}

#[test]
fn what_does_not_pass_is_an_error_that_says_where_and_how_often() {
    for server in [Server::start(), Server::without_tags()] {
        let (server, _) = with_log(server);
        let (remote, url) = (remote(), server.url("log.parquet"));
        for fault in [Fault::Broken, Fault::Busy, Fault::Truncated, Fault::Silent] {
            server.requests();
            server.fail(&[fault; 40]);
            let error = read_whole(&remote, &url).expect_err("it never answers").to_string();
            assert!(error.contains(&url) && error.contains("fix:"), "{fault:?}: {error}");
            let (status, tries) = match fault {
                Fault::Broken => ("500 Internal Server Error", "after 3 retries"),
                Fault::Busy => ("503 Service Unavailable", "after 3 retries"),
                Fault::Truncated => ("broke off", "asked up to 4 times"),
                _ => ("", "after 3 retries"),
            };
            assert!(error.contains(status) && error.contains(tries), "{fault:?}: {error}");
            assert_eq!(server.requests().len(), 1 + LIMITS.retries, "{fault:?}");
        }
        server.fail(&[]);
        let error = read_whole(&remote, &server.url("nothing.parquet")).unwrap_err().to_string();
        assert!(error.contains("nothing.parquet") && error.contains("check the path"), "{error}");
    }
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

/// A log at `log.parquet` that is much more than the end of a file that is read when it is opened.
fn with_large_log(rows: u64, row_group_rows: usize) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.parquet");
    log::write(&path, log::columns(0..rows), row_group_rows);
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes.len() > 1 << 18, "{}", bytes.len());
    let server = Server::start();
    server.put("log.parquet", bytes);
    server
}

/// The footer of the log, and then all its rows, with these faults of the server's.
fn sample(server: &Server, faults: &[Fault]) -> tandem::Result<Sample> {
    let remote: Arc<dyn Store> = Arc::new(remote());
    let job = config::from_text(EVERY_FEATURE, Path::new("job.yaml"), &[]).unwrap_or_else(|error| panic!("{error}"));
    let schema = Arc::new(Schema::new(&job.job.into_job(), Purpose::Train)?);
    let plan = Arc::new(Plan::read(&Solo, remote.as_ref(), &[server.url("log.parquet")], &schema)?);
    server.requests();
    server.fail(faults);
    Sample::take(remote, plan, schema, 1_000_000)
}

#[test]
fn rows_are_read_in_one_request_a_row_group() {
    let server = with_large_log(20_000, 7_000);
    let sample = sample(&server, &[]).unwrap();
    assert_eq!((sample.decoded, sample.errors.len()), (20_000, 0));
    // Threads that open a file at the same time each read its end, which is the last 64 KiB.
    let requests = server.requests();
    let of_rows = requests.iter().filter(|request| !request.ends_with(" -65536"));
    assert_eq!(of_rows.count(), 3, "one a row group: {requests:#?}");
}

#[test]
fn rows_come_through_faults() {
    let server = with_large_log(20_000, 7_000);
    let sample = sample(&server, &[Fault::Busy, Fault::None, Fault::Truncated, Fault::Broken]).unwrap();
    assert_eq!((sample.decoded, sample.errors.len()), (20_000, 0));
    assert!(server.requests().len() >= 1 + 3 + 3, "there were faults");
}

#[test]
fn a_store_that_fails_is_not_taken_for_a_damaged_file() {
    let server = with_large_log(20_000, 20_000);
    let faults: Vec<Fault> = std::iter::once(Fault::None).chain([Fault::Broken; 40]).collect();
    let error = match sample(&server, &faults) {
        Ok(sample) => sample.errors.first().map(ToString::to_string).unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("the store failed") && error.contains("500 Internal Server Error"), "{error}");
    assert!(error.contains("row group 0") && error.contains("can be reached"), "{error}");
}

#[test]
fn a_web_server_is_only_read() {
    let remote = remote();
    let error = remote.list("https://host/*.parquet").unwrap_err().to_string();
    assert!(error.contains("lists no files"), "{error}");
    let error = remote.put(Path::new("Cargo.toml"), "https://host/x").unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("only read"), "{error}");
}
