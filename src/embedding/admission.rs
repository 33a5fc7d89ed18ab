//! Admission: when an id gets a row.
//!
//! Most ids of a log are seen once or twice; a row for each of them costs memory and learns nothing. Ids
//! that are not admitted read as zeros and are not trained. Counts are exact and kept by the owner of the
//! id's bucket, over all ranks.

use super::memory::{Fit, Memory, grow_index};
use crate::config::job;
use crate::error::{Error, Result};
use crate::random::{mix, text, unit};
use hashbrown::HashTable;

/// Checked `admission:` of a table. With both parts, the probability is drawn once the count is reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Admission {
    /// Occurrences in training rows before the id is admitted; 1 admits at once.
    min_count: u32,
    /// Chance of being admitted at each step that sees the id.
    probability: f64,
}

impl Admission {
    /// Checks the options of the table at `key` (`tables.item.admission`).
    pub fn new(options: &job::Admission, key: &str) -> Result<Self> {
        let min_count = options.min_count.unwrap_or(1);
        if min_count == 0 {
            return Err(Error::job("`min_count` is 0")
                .at("key", format!("{key}.min_count"))
                .fix("use 1 or more, or remove `admission`"));
        }
        let probability = options.probability.unwrap_or(1.0);
        super::options::check(
            probability > 0.0 && probability <= 1.0,
            key,
            "probability",
            probability,
            "a number above 0 and up to 1",
        )?;
        Ok(Self { min_count, probability })
    }

    /// Whether an id seen `count` times is admitted at `step`: a pure function of its arguments.
    fn admits(&self, table_seed: u64, id: u64, count: u32, step: u64) -> bool {
        count >= self.min_count
            && (self.probability >= 1.0 || unit(table_seed, &[text("admission"), id, step]) < self.probability)
    }
}

/// An id that has no row yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The id.
    pub id: u64,
    /// Occurrences so far.
    pub count: u32,
}

/// The candidates of one bucket.
pub type Candidates = HashTable<Candidate>;

/// Adds `count` occurrences of `id` at `step`. Returns its count so far if it is admitted now, and then
/// forgets the candidate; the caller makes the row.
pub fn observe(
    admission: &Admission,
    candidates: &mut Candidates,
    memory: &Memory,
    table_seed: u64,
    (id, count): (u64, u32),
    step: u64,
) -> Fit<Option<u32>> {
    let hash = probe(id);
    if let Ok(mut known) = candidates.find_entry(hash, |c| c.id == id) {
        let total = known.get().count.saturating_add(count);
        if admission.admits(table_seed, id, total, step) {
            known.remove();
            return Ok(Some(total));
        }
        known.get_mut().count = total;
    } else if admission.admits(table_seed, id, count, step) {
        return Ok(Some(count));
    } else {
        insert(candidates, memory, Candidate { id, count })?;
    }
    Ok(None)
}

/// Adds a candidate that is not there yet.
pub fn insert(candidates: &mut Candidates, memory: &Memory, candidate: Candidate) -> Fit<()> {
    grow_index(candidates, memory, |c| probe(c.id))?;
    candidates.insert_unique(probe(candidate.id), candidate, |c| probe(c.id));
    Ok(())
}

/// Whether `id` is a candidate.
pub fn contains(candidates: &Candidates, id: u64) -> bool {
    candidates.find(probe(id), |c| c.id == id).is_some()
}

fn probe(id: u64) -> u64 {
    mix(id).rotate_right(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(admission: &Admission, candidates: &mut Candidates, id: u64, count: u32, step: u64) -> Option<u32> {
        observe(admission, candidates, &Memory::new(None), 9, (id, count), step).unwrap()
    }

    #[test]
    fn an_id_is_admitted_once_it_was_seen_often_enough() {
        let admission = Admission { min_count: 3, probability: 1.0 };
        let mut candidates = Candidates::new();
        assert_eq!(see(&admission, &mut candidates, 7, 2, 0), None);
        assert!(contains(&candidates, 7));
        assert_eq!(see(&admission, &mut candidates, 8, 1, 0), None);
        assert_eq!(see(&admission, &mut candidates, 7, 2, 1), Some(4));
        assert!(!contains(&candidates, 7));
        assert_eq!(see(&admission, &mut candidates, 9, 3, 1), Some(3));
        assert_eq!(candidates.len(), 1);
    }

    #[test]
    fn a_probability_is_drawn_again_at_each_step() {
        let admission = Admission { min_count: 1, probability: 0.25 };
        let waits: Vec<u64> = (0..2000)
            .map(|id| {
                let mut candidates = Candidates::new();
                (0..1000).find(|&step| see(&admission, &mut candidates, id, 1, step).is_some()).unwrap()
            })
            .collect();
        let mean = waits.iter().sum::<u64>() as f64 / waits.len() as f64;
        assert!((mean - 3.0).abs() < 0.25, "a geometric wait of mean 3, not {mean}");
    }

    #[test]
    fn options_are_checked() {
        let new = |min_count, probability| Admission::new(&job::Admission { min_count, probability }, "k");
        assert!(new(Some(0), None).is_err());
        assert!(new(None, Some(0.0)).is_err());
        assert!(new(None, Some(1.5)).is_err());
        assert_eq!(new(Some(2), None).unwrap(), Admission { min_count: 2, probability: 1.0 });
    }
}
