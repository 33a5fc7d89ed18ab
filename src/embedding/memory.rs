//! The memory budget of a rank's tables.
//!
//! Linux grants memory that it does not have and kills the process that touches it, so a refused
//! allocation alone would never be seen. Before tables grow they ask here; with no limit set, what the
//! machine (or the job's control group) has left is looked up once for every [`CHECK_BYTES`] of growth.

use hashbrown::HashTable;
use std::sync::{Mutex, PoisonError};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Growth between two looks at the machine.
const CHECK_BYTES: u64 = 64 << 20;

/// Left to everybody else on the machine: this, and a fiftieth of its memory.
const RESERVE_BYTES: u64 = 128 << 20;

/// What a refused growth would have needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes asked for.
    pub needed_bytes: u64,
    /// Bytes that may still be used; `None` where the allocator itself refused.
    pub left_bytes: Option<u64>,
    /// Whether a limit that was set refused it, rather than the machine.
    pub by_limit: bool,
}

impl Shortage {
    /// The allocator itself refused.
    pub fn of_system(needed_bytes: usize) -> Self {
        Self { needed_bytes: needed_bytes as u64, left_bytes: None, by_limit: false }
    }
}

/// The result of asking for memory.
pub type Fit<T> = Result<T, Shortage>;

/// Counts the bytes of all tables of a rank and refuses growth that does not fit.
#[derive(Debug)]
pub struct Memory {
    limit_bytes: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used_bytes: u64,
    unchecked_bytes: u64,
}

impl Memory {
    /// A budget of `limit_bytes`, or of what the machine has left.
    pub fn new(limit_bytes: Option<u64>) -> Self {
        Self { limit_bytes, state: Mutex::new(State::default()) }
    }

    /// Books `bytes` about to be allocated.
    pub fn reserve(&self, bytes: usize) -> Fit<()> {
        let bytes = bytes as u64;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = self.limit_bytes {
            let left = limit.saturating_sub(state.used_bytes);
            if bytes > left {
                return Err(Shortage { needed_bytes: bytes, left_bytes: Some(left), by_limit: true });
            }
        } else if state.unchecked_bytes + bytes > CHECK_BYTES {
            let left = available_bytes();
            if bytes > left {
                return Err(Shortage { needed_bytes: bytes, left_bytes: Some(left), by_limit: false });
            }
            state.unchecked_bytes = 0;
        }
        state.used_bytes += bytes;
        state.unchecked_bytes += bytes;
        Ok(())
    }

    /// Whether `bytes` more would fit for a while. Nothing is booked.
    pub fn has_room(&self, bytes: u64) -> bool {
        match self.limit_bytes {
            Some(limit) => {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                bytes <= limit.saturating_sub(state.used_bytes)
            }
            None => bytes <= available_bytes(),
        }
    }

    /// Takes back bytes that were freed.
    pub fn release(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used_bytes = state.used_bytes.saturating_sub(bytes as u64);
    }
}

/// What may still be allocated: the machine's available memory, or what the process's control group (a
/// Slurm job's memory limit) leaves, less the reserve. Unlimited where the system does not tell.
pub fn available_bytes() -> u64 {
    let Ok(mut system) = System::new() else {
        return u64::MAX;
    };
    system.refresh_memory();
    let left = |available: u64, total: u64| available.saturating_sub(RESERVE_BYTES + total / 50);
    let machine = left(system.available_memory(), system.total_memory());

    let pid = Pid::from_u32(std::process::id());
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
    let group = system.process(pid).and_then(|process| process.cgroup_limits());
    // The group's own "free" counts cached file pages as used; they are given back on demand.
    let group = group.map_or(u64::MAX, |g| left(g.total_memory.saturating_sub(g.rss), g.total_memory));
    machine.min(group)
}

/// Makes room for one more entry of a bucket's index, or says what is missing.
pub fn grow_index<T>(index: &mut HashTable<T>, memory: &Memory, hasher: impl Fn(&T) -> u64) -> Fit<()> {
    if index.len() < index.capacity() {
        return Ok(());
    }
    // Hashbrown doubles; while it moves entries, old and new stand side by side.
    let before = index.allocation_size();
    let after = (index.num_buckets() * 2).max(4) * (size_of::<T>() + 1) + 16;
    memory.reserve(after)?;
    index.try_reserve(1, hasher).map_err(|_| Shortage::of_system(after))?;
    memory.release(before);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_what_is_reserved_and_released() {
        let memory = Memory::new(Some(100));
        assert_eq!(memory.reserve(60), Ok(()));
        assert_eq!(memory.reserve(41), Err(Shortage { needed_bytes: 41, left_bytes: Some(40), by_limit: true }));
        assert!(memory.has_room(40) && !memory.has_room(41));
        memory.release(30);
        assert_eq!(memory.reserve(41), Ok(()));
        assert_eq!(memory.reserve(30), Err(Shortage { needed_bytes: 30, left_bytes: Some(29), by_limit: true }));
    }

    #[test]
    fn the_machine_is_asked_where_no_limit_is_set() {
        let memory = Memory::new(None);
        assert_eq!(memory.reserve(1 << 20), Ok(()));
        assert!(memory.has_room(1 << 20) && !memory.has_room(1 << 60));
        let refused = memory.reserve(1 << 60).unwrap_err();
        assert!(refused.left_bytes.is_some_and(|left| left < 1 << 60) && !refused.by_limit);
    }
}
