//! Disk space for the checkpoints that are kept, and the one that is being written.

use super::report::{Finding, error, note, warning};
use super::{Patient, TableIds, amount};
use std::path::Path;
use sysinfo::Disks;

const NAME: &str = "disk";

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let dense = patient.sizes.dense_disk_bytes();
    let one = |rows: fn(&TableIds) -> u64| -> u64 {
        let tables = patient.tables.iter().map(|table| rows(table).saturating_mul(table.row_disk_bytes as u64));
        dense + tables.sum::<u64>()
    };
    let (low, high) = (one(|table| table.low), one(|table| table.high));
    // The newest, the best and the one being written.
    let kept = patient.job.checkpoint.keep.max(1) as u64 + 1 + u64::from(patient.job.data.valid.is_some());
    let range = if low == high { amount(high) } else { format!("{} to {}", amount(low), amount(high)) };
    let dir = &patient.options.run_dir;
    let mut found = vec![note(NAME, format!("a checkpoint takes {range}, and up to {kept} are there at a time"))];
    let Some(free) = free_bytes(dir) else { return found };
    let fix = "free space, choose another disk with --run-dir, or lower `checkpoint.keep`";
    let over = |needed: u64| {
        format!("the checkpoints need {}, and {} has {} free", amount(needed), dir.display(), amount(free))
    };
    if low.saturating_mul(kept) > free {
        found.push(error(NAME, over(low.saturating_mul(kept))).fix(fix));
    } else if high.saturating_mul(kept) > free {
        found
            .push(warning(NAME, format!("{} if ids go on as in the sample", over(high.saturating_mul(kept)))).fix(fix));
    }
    found
}

/// Free space where a path is or will be; `None` where the system does not tell.
fn free_bytes(path: &Path) -> Option<u64> {
    let existing = std::path::absolute(path).ok()?.ancestors().find_map(|path| path.canonicalize().ok())?;
    let disks = Disks::new_with_refreshed_list().ok()?;
    let holds = disks.iter().filter(|disk| existing.starts_with(disk.mount_point()));
    holds.max_by_key(|disk| disk.mount_point().components().count()).map(|disk| disk.available_space())
}
