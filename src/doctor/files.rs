//! Files, footers and columns of every split.

use super::report::{Report, error, failure, note, warning};
use super::{amount, plan};
use crate::config::job::Job;
use crate::data::plan::Plan;
use crate::data::schema::{Purpose, Schema};
use crate::data::store::Store;
use crate::error::Result;
use std::collections::HashSet;
use std::sync::Arc;

const NAME: &str = "files";

/// More files than this of less than [`SMALL_BYTES`] each cost more time to open than to read.
const MANY_FILES: usize = 1000;
const SMALL_BYTES: u64 = 1 << 20;

/// Reports on all splits; the plan of the training rows, if they can be read.
pub(super) fn check(job: &Job, store: &Arc<dyn Store>, schema: &Schema, report: &mut Report) -> Result<Option<Plan>> {
    let train = match plan(job, store, &job.data.train, schema) {
        Ok(train) => train,
        Err(failed) => {
            report.findings.push(failure(NAME, &failed));
            return Ok(None);
        }
    };
    report.findings.push(note(NAME, size("train", &train)));
    let bytes: u64 = train.files.iter().map(|file| file.bytes).sum();
    if train.files.len() >= MANY_FILES && bytes / (train.files.len() as u64) < SMALL_BYTES {
        let mean = amount(bytes / train.files.len() as u64);
        let what = format!("{} training files of {mean} on average", train.files.len());
        report.findings.push(warning(NAME, what).fix("write fewer and larger files, of some 100 MiB"));
    }
    let known: HashSet<&str> = train.files.iter().map(|file| file.path.as_str()).collect();
    for (name, paths) in [("valid", &job.data.valid), ("test", &job.data.test)] {
        let Some(paths) = paths else { continue };
        match plan(job, store, paths, &Schema::new(job, Purpose::Evaluate)?) {
            Ok(split) => {
                report.findings.push(note(NAME, size(name, &split)));
                if let Some(file) = split.files.iter().find(|file| known.contains(file.path.as_str())) {
                    let what = format!("`data.{name}` has rows that are trained on (file {})", file.path);
                    report.findings.push(warning(NAME, what).fix("metrics on them say nothing: keep the splits apart"));
                }
            }
            Err(failed) => {
                let found = failure(NAME, &failed);
                let what = format!("data.{name}: {}", found.what);
                report.findings.push(super::Finding { what, ..found });
            }
        }
    }
    if job.data.valid.is_none() && job.train.eval.stop.is_some() {
        report.findings.push(error(NAME, "`train.eval.stop` without `data.valid`").fix("name rows in `data.valid`"));
    }
    Ok(Some(train))
}

fn size(name: &str, plan: &Plan) -> String {
    let (rows, groups, files) = (plan.rows, plan.row_groups.len(), plan.files.len());
    format!("{name}: {rows} rows in {groups} row groups of {files} files, {}", amount(plan.bytes()))
}
