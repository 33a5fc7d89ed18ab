//! Row groups that several lanes of a rank read at the same time, decoded once for all of them.
//!
//! A log with fewer row groups than lanes has several lanes in every row group. A page cannot be entered in the
//! middle, so each of them would read, unpack and hold the same pages: with 64 lanes over 16 row groups four times
//! the work and the memory, most of it before the first batch.

use crate::error::Result;
use arrow::array::RecordBatch;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A row group that is being decoded or was; kept for as long as a lane holds it.
pub(super) type Group = OnceLock<Result<RecordBatch>>;

/// The shared row groups.
#[derive(Debug, Default)]
pub(super) struct SharedGroups {
    /// Which they are, as indices into `Plan::row_groups`.
    shared: HashSet<u32>,
    held: Mutex<HashMap<u32, Weak<Group>>>,
}

impl SharedGroups {
    /// Shares those row groups that are named at least twice.
    pub fn new(wanted: impl Iterator<Item = u32>) -> Self {
        let mut seen = HashSet::new();
        Self { shared: wanted.filter(|&row_group| !seen.insert(row_group)).collect(), held: Mutex::default() }
    }

    /// The place of `row_group`, to be filled by the first to come; `None` if it is not shared.
    pub fn get(&self, row_group: u32) -> Option<Arc<Group>> {
        if !self.shared.contains(&row_group) {
            return None;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let known = held.get(&row_group).and_then(Weak::upgrade);
        Some(known.unwrap_or_else(|| {
            let group = Arc::new(Group::new());
            held.insert(row_group, Arc::downgrade(&group));
            group
        }))
    }
}
