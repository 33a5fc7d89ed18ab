//! The jobs that come with tandem are right.

use std::path::Path;
use tandem::config;

#[test]
fn every_job_is_read_and_survives_being_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs");
    let mut jobs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let job = config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}")).job;
        let written = config::to_yaml(&job).unwrap();
        let again = config::from_text(&written, &path, &[]).unwrap_or_else(|error| panic!("{error}")).job;
        assert_eq!(config::to_yaml(&again).unwrap(), written);
        jobs += 1;
    }
    assert!(jobs > 0);
}
