//! `tandem doctor`: what a node-hour would find out, found out before it is spent.
//!
//! ```text
//! footers, a sample of the rows, the built model ──► checks, one file each ──► findings, each with what to do
//! ```
//!
//! Nothing here is exact that would need all rows: a sample is read ([`crate::data::sample`]), and a finding says so.

mod batch;
mod copies;
mod disk;
mod files;
mod ids;
mod labels;
mod launch;
mod memory;
mod report;
mod skew;
#[cfg(test)]
mod tests;
mod values;

pub use ids::TableIds;
pub use report::{Finding, Report, Severity};

use crate::comm::solo::Solo;
use crate::config::Checked;
use crate::config::job::{Job, Paths};
use crate::data::plan::Plan;
use crate::data::sample::Sample;
use crate::data::schema::{Purpose, Schema};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::train::sizes::Sizes;
use report::{failure, note};
use std::path::PathBuf;
use std::sync::Arc;

/// What is examined for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Ranks of the run that is planned.
    pub ranks: usize,
    /// Those of them that share this machine's cores and memory.
    pub ranks_per_node: usize,
    /// Rows read of the training log, at most about.
    pub rows: u64,
    /// Where the run will write.
    pub run_dir: PathBuf,
}

/// What the checks look at.
struct Patient<'a> {
    job: &'a Job,
    schema: &'a Schema,
    plan: &'a Plan,
    sample: &'a Sample,
    sizes: &'a Sizes,
    tables: &'a [TableIds],
    options: &'a Options,
}

impl Patient<'_> {
    /// Which part of the rows was looked at, for messages.
    fn seen(&self) -> String {
        match self.sample.rows == self.plan.rows {
            true => format!("all {} rows", self.plan.rows),
            false => format!("{} of {} rows", self.sample.rows, self.plan.rows),
        }
    }
}

/// A check.
type Check = fn(&Patient) -> Vec<Finding>;

/// Every check that reads the training log, in the order of the report.
const CHECKS: [Check; 9] = [
    skew::check,
    batch::check,
    values::check,
    labels::check,
    ids::check,
    memory::check,
    disk::check,
    copies::check,
    launch::check,
];

/// Examines a job.
///
/// # Errors
/// A job that no run could start with. What is wrong with the data is a finding.
pub fn examine(job: Checked, store: Arc<dyn Store>, options: &Options) -> Result<Report> {
    let mut job = job.into_job();
    let mut report = Report { job: job.name.clone(), ranks: options.ranks, ..Report::default() };
    let schema = Schema::new(&job, Purpose::Train)?;
    let plan = files::check(&job, &store, &schema, &mut report)?;
    let Some(plan) = plan else { return Ok(report) };
    let (plan, schema) = (Arc::new(plan), Arc::new(schema));
    let sample = Sample::take(store, plan.clone(), schema.clone(), options.rows)?;
    report.rows = plan.rows;
    report.sampled_rows = sample.rows;
    if sample.rows < plan.rows {
        let (rows, groups) = (sample.rows, sample.row_groups);
        let what =
            format!("looked at {rows} of {} rows, in {groups} of {} row groups", plan.rows, plan.row_groups.len());
        report.findings.push(note("sample", what).fix("look at more with --rows"));
    }
    let scenarios = vec!["made up".to_string(); usize::from(schema.scenario.is_some())];
    let sizes = match Sizes::of(&mut job, &schema, &scenarios) {
        Ok(sizes) => sizes,
        Err(error) => {
            report.findings.push(failure("model", &error));
            return Ok(report);
        }
    };
    if job.federated.is_some() {
        let what = "a federated job: batches, ids and memory below are those of one model on all rows";
        report.findings.push(note("model", what));
    }
    report.tables = ids::estimate(&job, &sizes, &sample, &plan);
    let tables = report.tables.clone();
    let patient =
        Patient { job: &job, schema: &schema, plan: &plan, sample: &sample, sizes: &sizes, tables: &tables, options };
    report.findings.extend(CHECKS.iter().flat_map(|check| check(&patient)));
    Ok(report)
}

/// The plan of one split; the error is the one that a run would end with.
fn plan(job: &Job, store: &Arc<dyn Store>, paths: &Paths, schema: &Schema) -> std::result::Result<Plan, Error> {
    Plan::read(&Solo, store.as_ref(), &job.data.resolve(paths), schema)
}

/// An amount of memory or disk, for people.
fn amount(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}
