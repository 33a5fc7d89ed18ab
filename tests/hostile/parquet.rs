//! Parquet as tandem reads it: footers, pages, rows.

use crate::bounded;
use crate::common::job::EVERY_FEATURE;
use crate::common::log;
use crate::draw::{damaged, damages, each};
use std::path::Path;
use std::sync::Arc;
use tandem::comm::solo::Solo;
use tandem::config;
use tandem::data::plan::Plan;
use tandem::data::sample::Sample;
use tandem::data::schema::{Purpose, Schema};
use tandem::data::store::Local;

/// Bytes that reading may hold for a damaged file of a few KiB: a page says how large it is unpacked, up to 2 GiB, and
/// two threads read at a time.
const LIMIT: usize = 5 << 30;

fn schema() -> Schema {
    let job =
        config::from_text(EVERY_FEATURE, Path::new("job.yaml"), &[]).unwrap_or_else(|error| panic!("{error}")).job;
    Schema::new(&job.into_job(), Purpose::Evaluate).unwrap_or_else(|error| panic!("{error}"))
}

/// Reads the footer, and all rows that it says there are, up to a limit; whether there is nothing to object to.
fn read(path: &Path, schema: &Arc<Schema>) -> bool {
    let patterns = [path.display().to_string()];
    bounded::within(LIMIT, "a damaged file", || match Plan::read(&Solo, &Local, &patterns, schema) {
        Err(error) => {
            assert_eq!(error.exit_code(), 1, "{error}");
            false
        }
        Ok(plan) => {
            let sample = Sample::take(Arc::new(Local), Arc::new(plan), schema.clone(), 10_000);
            let sample = sample.unwrap_or_else(|error| panic!("{error}"));
            sample.errors.iter().for_each(|error| assert!(error.place("file").is_some(), "{error}"));
            sample.errors.is_empty()
        }
    })
}

#[test]
fn damaged_files_are_read_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.parquet");
    log::write(&path, log::columns(0..120), 50);
    let (good, schema) = (std::fs::read(&path).expect("readable"), Arc::new(schema()));
    assert!(read(&path, &schema));
    each(150, damages(), |damages| {
        std::fs::write(&path, damaged(&good, &damages)).expect("written");
        read(&path, &schema);
    });
}

/// The end of a file is its footer, where every number says how much of something follows.
#[test]
fn damaged_footers_are_read_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.parquet");
    log::write(&path, log::columns(0..40), 20);
    let (good, schema) = (std::fs::read(&path).expect("readable"), Arc::new(schema()));
    let length = u32::from_le_bytes(good[good.len() - 8..good.len() - 4].try_into().expect("4 bytes")) as usize;
    let (pages, footer) = good.split_at(good.len() - 8 - length);
    each(150, damages(), |damages| {
        let body = damaged(&footer[..length], &damages);
        let size = (body.len() as u32).to_le_bytes();
        std::fs::write(&path, [pages, &body, &size, b"PAR1"].concat()).expect("written");
        read(&path, &schema);
    });
    for size in [0, 1, 7, 1 << 20, u32::MAX / 2, u32::MAX] {
        let end = [&footer[..length], &size.to_le_bytes(), b"PAR1"].concat();
        std::fs::write(&path, [pages, &end].concat()).expect("written");
        assert!(!read(&path, &schema), "a footer of {size} bytes");
    }
}
