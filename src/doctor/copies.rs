//! The place that checkpoints are copied to, reached before hours are spent on them.

use super::Patient;
use super::report::{Finding, failure, note};
use crate::checkpoint::Mirror;

const NAME: &str = "copies";

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let Some(to) = &patient.job.checkpoint.copy_to else { return Vec::new() };
    vec![match Mirror::new(to).newest() {
        Ok(None) => note(NAME, format!("checkpoints are copied to {to}, which holds none yet")),
        Ok(Some(step)) => note(NAME, format!("{to} holds a checkpoint of step {step}"))
            .fix("go on from it with --resume, or name another place"),
        Err(error) => failure(NAME, &error),
    }]
}
