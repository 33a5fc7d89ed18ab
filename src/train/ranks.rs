//! On which ranks a job is trained: those that were started or, with `reproducible`, as many virtual ones whatever was started.

use crate::comm::{Comm, virtual_ranks};
use crate::config::job::Job;
use crate::data::lanes::Layout;
use crate::error::{Error, Result};

/// Runs `body` on the ranks of `job` that this process has, and returns the results of these by rank. Only with
/// `reproducible` there can be several, which share `threads` compute threads. Collective.
pub fn on_ranks<T: Send>(
    comm: &Comm,
    job: &Job,
    threads: usize,
    body: impl Fn(Comm) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let ranks = of_job(job, comm.size()).map_err(Error::agreed)?;
    match job.reproducible.is_off() {
        true => Ok(vec![body(comm.clone())?]),
        false => virtual_ranks::run(comm, ranks, threads, body),
    }
}

/// How many ranks train `job` where `started` processes are there.
///
/// # Errors
/// More processes than virtual ranks.
pub fn of_job(job: &Job, started: usize) -> Result<usize> {
    match job.reproducible.virtual_ranks() {
        None => Ok(started),
        Some(ranks) if started <= ranks => Ok(ranks),
        Some(ranks) => {
            Err(Error::job(format!("{started} ranks cannot share {ranks} virtual ranks: each needs at least one"))
                .at("key", "reproducible")
                .fix(format!("start at most {ranks} ranks, or train anew with `reproducible: {started}` or more")))
        }
    }
}

/// Refuses more `ranks` of `job` than it has lanes.
pub fn check_lanes(job: &Job, layout: &Layout, ranks: usize) -> Result<()> {
    let lanes = layout.lanes;
    if job.reproducible.is_off() || ranks <= lanes {
        return layout.hosted(ranks - 1, ranks).map(drop);
    }
    Err(Error::job(format!("{ranks} virtual ranks cannot share {lanes} lanes: each needs at least one"))
        .at("key", "reproducible")
        .fix(format!("give `reproducible: {lanes}`, or set `data.lanes` to {ranks} or more")))
}
