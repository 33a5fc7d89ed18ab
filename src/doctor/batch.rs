//! Batches, lanes, steps and ranks: arithmetic that is wrong in a job file more often than one thinks.

use super::Patient;
use super::report::{Finding, error, failure, note, warning};
use crate::data::lanes::Layout;
use crate::train::ranks;

const NAME: &str = "batch";

/// Fewer rows a rank leave the time of a step to its messages.
const FEW_ROWS: usize = 64;
/// Ranks with the most lanes may have so many times the work of those with the fewest.
const UNEVEN: f64 = 1.25;

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let job = patient.job;
    let ranks = match ranks::of_job(job, patient.options.ranks) {
        Ok(ranks) => ranks,
        Err(failed) => return vec![failure(NAME, &failed)],
    };
    let layout = match Layout::train(patient.plan.rows, job.train.global_batch, job.data.lanes) {
        Ok(layout) => layout,
        Err(failed) => return vec![failure(NAME, &failed)],
    };
    let (lanes, steps) = (layout.lanes, layout.steps());
    let total = job.train.max_steps.unwrap_or(u64::MAX).min(steps.saturating_mul(job.train.epochs as u64));
    let mut found = vec![note(
        NAME,
        format!("{} rows a step over {lanes} lanes; {steps} steps an epoch, {total} in all", job.train.global_batch),
    )];
    if let Err(failed) = ranks::check_lanes(job, &layout, ranks) {
        found.push(failure(NAME, &failed));
        return found;
    }
    if job.checkpoint.buckets < ranks {
        let what = format!("{} buckets of the tables for {ranks} ranks", job.checkpoint.buckets);
        found.push(error(NAME, what).fix(format!("set `checkpoint.buckets` to {} or more", ranks.next_power_of_two())));
    }
    let (most, fewest) = (lanes.div_ceil(ranks), lanes / ranks);
    if most as f64 > UNEVEN * fewest as f64 {
        let what = format!("{ranks} ranks have {fewest} or {most} lanes each: those with {fewest} wait for the others");
        found.push(
            warning(NAME, what).fix(format!("start a number of ranks that divides {lanes}, or set `data.lanes`")),
        );
    }
    let rows = job.train.global_batch / ranks;
    if ranks > 1 && rows < FEW_ROWS {
        let what = format!("{rows} rows a rank and step: messages take most of the time");
        found.push(warning(NAME, what).fix("raise `train.global_batch`, or start fewer ranks"));
    }
    if total < 10 {
        let what = format!("{total} steps in all: the optimizer will hardly have begun");
        found.push(warning(NAME, what).fix("lower `train.global_batch`, or raise `train.epochs`"));
    }
    if job.checkpoint.every.steps(steps).is_none_or(|every| every > total) {
        let what = "no checkpoint before the end of the run: a run that is killed begins anew";
        found.push(warning(NAME, what).fix("set `checkpoint.every` to what you can afford to lose"));
    }
    found
}
