//! Eviction: which rows a table drops, decided bucket by bucket, so that it does not know the ranks.
//!
//! It runs after the update of a step. A bucket over its cap is cut to a sixteenth below it: choosing the
//! rows to drop reads the whole bucket, and this way it is paid once for many insertions.

use crate::config::job::{self, EvictionPolicy};
use crate::error::{Error, Result};

/// Checked `eviction:` of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eviction {
    max_rows: Option<usize>,
    policy: EvictionPolicy,
    max_age_steps: Option<u64>,
    buckets: usize,
}

/// What eviction knows about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The id.
    pub id: u64,
    /// Occurrences in training rows.
    pub count: u32,
    /// The last training step that saw it.
    pub last_step: u32,
    /// Where the row is.
    pub slot: u32,
}

impl Eviction {
    /// Checks the options of the table at `key` (`tables.item.eviction`), of `buckets` buckets.
    pub fn new(options: &job::Eviction, key: &str, buckets: usize) -> Result<Self> {
        if let Some(max_rows) = options.max_rows
            && max_rows < buckets
        {
            return Err(Error::job(format!("`max_rows` is {max_rows}, below the {buckets} buckets of a table"))
                .at("key", format!("{key}.max_rows"))
                .fix(format!("use at least {buckets}; the cap is kept bucket by bucket")));
        }
        if options.max_age_steps == Some(0) {
            return Err(Error::job("`max_age_steps` is 0")
                .at("key", format!("{key}.max_age_steps"))
                .fix("use 1 or more, or remove it"));
        }
        let job::Eviction { max_rows, policy, max_age_steps } = *options;
        Ok(Self { max_rows, policy, max_age_steps, buckets })
    }

    /// Most rows that `bucket` may keep after a step; the caps of all buckets add up to `max_rows`.
    pub fn cap(&self, bucket: usize) -> Option<usize> {
        let max_rows = self.max_rows? as u128;
        let share = |buckets: usize| (max_rows * buckets as u128 / self.buckets as u128) as usize;
        Some(share(bucket + 1) - share(bucket))
    }

    /// Whether `bucket` is searched for old rows at `step`. Old rows are found up to an eighth of
    /// `max_age_steps` late: each step searches some buckets, never the whole table.
    pub fn sweeps(&self, bucket: usize, step: u64) -> bool {
        self.max_age_steps.is_some_and(|age| (step + bucket as u64).is_multiple_of((age / 8).clamp(1, 1024)))
    }

    /// Whether a row is too old at `step`.
    pub fn is_old(&self, entry: &Entry, step: u64) -> bool {
        self.max_age_steps.is_some_and(|age| step.saturating_sub(u64::from(entry.last_step)) > age)
    }

    /// Moves the rows that a bucket of `cap` drops to the front of `entries`, and returns how many; ties go
    /// to the smaller id.
    pub fn choose(&self, entries: &mut [Entry], cap: usize) -> usize {
        if entries.len() <= cap {
            return 0;
        }
        let drop = entries.len() - (cap - cap / 16);
        if drop < entries.len() {
            entries.select_nth_unstable_by_key(drop, |e| match self.policy {
                EvictionPolicy::Lru => (e.last_step, e.id),
                EvictionPolicy::Lfu => (e.count, e.id),
            });
        }
        drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eviction(policy: EvictionPolicy) -> Eviction {
        Eviction { max_rows: Some(64), policy, max_age_steps: Some(80), buckets: 16 }
    }

    #[test]
    fn the_caps_of_the_buckets_add_up_to_the_cap_of_the_table() {
        for max_rows in [16, 17, 100, 12_345] {
            let eviction = Eviction { max_rows: Some(max_rows), ..eviction(EvictionPolicy::Lru) };
            let caps: Vec<usize> = (0..16).map(|b| eviction.cap(b).unwrap()).collect();
            assert_eq!(caps.iter().sum::<usize>(), max_rows);
            assert!(caps.iter().all(|&c| c == max_rows / 16 || c == max_rows / 16 + 1));
        }
        assert_eq!(Eviction { max_rows: None, ..eviction(EvictionPolicy::Lru) }.cap(3), None);
    }

    #[test]
    fn the_least_used_rows_go_first_and_ties_by_id() {
        let entry = |id, count, last_step| Entry { id, count, last_step, slot: 0 };
        let entries = [entry(1, 9, 5), entry(2, 1, 9), entry(3, 2, 5), entry(4, 2, 7), entry(5, 1, 8)];
        let dropped = |policy, cap| {
            let mut entries = entries;
            let n = eviction(policy).choose(&mut entries, cap);
            let mut ids: Vec<u64> = entries[..n].iter().map(|e| e.id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(dropped(EvictionPolicy::Lru, 3), [1, 3]);
        assert_eq!(dropped(EvictionPolicy::Lru, 4), [1]);
        assert_eq!(dropped(EvictionPolicy::Lfu, 3), [2, 5]);
        assert_eq!(dropped(EvictionPolicy::Lfu, 4), [2]);
        assert_eq!(dropped(EvictionPolicy::Lfu, 5), [] as [u64; 0]);
        assert_eq!(dropped(EvictionPolicy::Lfu, 0), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn every_bucket_is_swept_within_an_eighth_of_the_age() {
        let eviction = eviction(EvictionPolicy::Lru);
        for bucket in 0..16 {
            assert_eq!((100..110).filter(|&step| eviction.sweeps(bucket, step)).count(), 1);
        }
        let entry = Entry { id: 0, count: 1, last_step: 20, slot: 0 };
        assert!(!eviction.is_old(&entry, 100) && eviction.is_old(&entry, 101));
    }

    #[test]
    fn options_are_checked() {
        let policy = EvictionPolicy::Lru;
        let options = |max_rows, max_age_steps| job::Eviction { max_rows, policy, max_age_steps };
        let default = options(Some(1023), None);
        assert!(Eviction::new(&default, "tables.item.eviction", 1024).unwrap_err().to_string().contains("1024"));
        assert!(Eviction::new(&options(None, Some(0)), "k", 16).is_err());
        assert!(Eviction::new(&options(Some(16), Some(1)), "k", 16).is_ok());
    }
}
