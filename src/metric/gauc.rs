//! GAUC: the mean of the AUCs inside groups of rows, for example of each user (Zhu et al., KDD 2017).
//!
//! Rows are sent to the rank that owns their group, by a hash of its key, so each group is whole on one rank.
//! `gauc` weighs a group by its rows (impressions), `gauc_equal` all alike. A group with one class has no
//! AUC: it is left out and counted in `gauc_skipped`; `gauc_groups` counts the groups that are in the mean.

use super::curves::GAUC_BINS;
use super::pairs::{Pairs, key};
use super::{Better, Curves, Definition, Metric, Rows, Value, is_positive, quotient};
use crate::comm::{Communicator, collectives};
use crate::config::job::TaskKind;
use crate::error::Result;
use crate::random;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(super) const DEFINITION: Definition = Definition {
    values: &[
        ("gauc", Better::Higher),
        ("gauc_equal", Better::Higher),
        ("gauc_groups", Better::Neither),
        ("gauc_skipped", Better::Neither),
    ],
    build: |task, _| {
        (task.kind == TaskKind::Binary && task.grouped).then(|| Box::new(Gauc::default()) as Box<dyn Metric>)
    },
};

/// One row: 16 bytes, in memory and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
struct Row {
    group: u64,
    score: u32,
    positive: u32,
}

#[derive(Debug, Default)]
struct Gauc {
    rows: Vec<Row>,
}

impl Metric for Gauc {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        for ((&score, &label), &group) in rows.logits.iter().zip(rows.labels).zip(rows.groups) {
            self.rows.push(Row { group, score: key(score), positive: u32::from(is_positive(label)?) });
        }
        Ok(())
    }

    fn finish(self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>> {
        self.finish_drawn(comm, &mut Curves::default())
    }

    fn finish_drawn(self: Box<Self>, comm: &dyn Communicator, curves: &mut Curves) -> Result<Vec<Value>> {
        let mut rows = to_owners(comm, self.rows)?;
        rows.par_sort_unstable();
        let mut totals = Totals::default();
        rows.chunk_by(|a, b| a.group == b.group).for_each(|group| totals.add(group));
        let mut sums = [
            totals.by_rows,
            totals.equal,
            u128::from(totals.rows),
            u128::from(totals.groups),
            u128::from(totals.skipped),
        ];
        collectives::all_reduce_sum(comm, &mut sums)?;
        let [by_rows, equal, rows, groups, skipped] = sums;
        collectives::all_reduce_sum(comm, &mut totals.by_auc)?;
        curves.gauc = if groups > 0 { totals.by_auc.to_vec() } else { Vec::new() };
        Ok(vec![
            quotient(by_rows as f64 / UNIT as f64, rows as f64),
            quotient(equal as f64 / UNIT as f64, groups as f64),
            Value::Count(groups as u64),
            Value::Count(skipped as u64),
        ])
    }
}

/// Sends every row to the owner of its group; returns this rank's.
fn to_owners(comm: &dyn Communicator, mut rows: Vec<Row>) -> Result<Vec<Row>> {
    let ranks = comm.size() as u64;
    if ranks == 1 {
        return Ok(rows);
    }
    let owner = |row: &Row| (random::mix(row.group) % ranks) as usize;
    rows.par_sort_unstable_by_key(owner);
    let mut counts = vec![0; comm.size()];
    rows.iter().for_each(|row| counts[owner(row)] += 1);
    Ok(collectives::all_to_all(comm, &rows, &counts)?.0)
}

/// One AUC of 1 in fixed point. AUCs are summed as integers, so the order of the groups does not matter; 60 bits
/// leave room for 2^67 rows.
const UNIT: u128 = 1 << 60;

/// Sums over the groups of one rank.
#[derive(Debug, Default)]
struct Totals {
    /// Σ rows · AUC, in fixed point.
    by_rows: u128,
    /// Σ AUC, in fixed point.
    equal: u128,
    /// Rows of the groups that have an AUC.
    rows: u64,
    groups: u64,
    skipped: u64,
    /// Groups in each bin of the AUC.
    by_auc: [u64; GAUC_BINS],
}

impl Totals {
    /// Takes in one group, sorted by score.
    fn add(&mut self, group: &[Row]) {
        let mut pairs = Pairs::default();
        for same in group.chunk_by(|a, b| a.score == b.score) {
            let positives = same.iter().map(|row| u64::from(row.positive)).sum();
            pairs.add(positives, same.len() as u64 - positives);
        }
        match (pairs.doubled * UNIT).checked_div(pairs.doubled_total()) {
            Some(auc) => {
                self.by_rows += auc * group.len() as u128;
                self.equal += auc;
                self.rows += group.len() as u64;
                self.groups += 1;
                self.by_auc[((auc * GAUC_BINS as u128 / UNIT) as usize).min(GAUC_BINS - 1)] += 1;
            }
            None => self.skipped += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use crate::metric::testing::dealt;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Case = (u64, f32, bool);

    fn gauc(rows: &[Case], ranks: usize) -> Vec<Value> {
        let values = threads::ranks(ranks, |comm| {
            let mut gauc = Box::new(Gauc::default());
            for (group, logit, positive) in dealt(rows, comm) {
                let labels = [f32::from(u8::from(positive))];
                gauc.add(&Rows { outputs: 1, logits: &[logit], labels: &labels, groups: &[group] }).unwrap();
            }
            gauc.finish(comm).unwrap()
        });
        assert!(values.iter().all(|v| *v == values[0]));
        values[0].clone()
    }

    fn naive(rows: &[Case]) -> (f64, f64, u64, u64) {
        let mut groups: BTreeMap<u64, Vec<(f32, bool)>> = BTreeMap::new();
        rows.iter().for_each(|&(group, score, positive)| groups.entry(group).or_default().push((score, positive)));
        let (mut by_rows, mut equal, mut count, mut used, mut skipped) = (0.0, 0.0, 0.0, 0, 0);
        for group in groups.values() {
            let (mut sum, mut pairs) = (0.0, 0.0);
            for (a, _) in group.iter().filter(|(_, y)| *y) {
                for (b, _) in group.iter().filter(|(_, y)| !*y) {
                    sum += if a > b { 1.0 } else { f64::from(u8::from(a == b)) * 0.5 };
                    pairs += 1.0;
                }
            }
            if pairs > 0.0 {
                by_rows += group.len() as f64 * sum / pairs;
                equal += sum / pairs;
                count += group.len() as f64;
                used += 1;
            } else {
                skipped += 1;
            }
        }
        (by_rows / count, equal / f64::from(used), used as u64, skipped)
    }

    #[test]
    fn groups_are_weighed_by_rows_or_alike_and_those_of_one_class_skipped() {
        // Group 1: AUC 1 with 2 rows; group 2: AUC ½ with 4 rows; group 3: one class.
        let rows = [
            (1, 0.9, true),
            (1, 0.1, false),
            (2, 0.5, true),
            (2, 0.5, false),
            (2, 0.7, false),
            (2, 0.7, true),
            (3, 0.2, false),
        ];
        for ranks in 1..=4 {
            let values = gauc(&rows, ranks);
            assert!((values[0].get().unwrap() - 2.0 / 3.0).abs() < 1e-15);
            assert!((values[1].get().unwrap() - 0.75).abs() < 1e-15);
            assert_eq!(values[2..], [Value::Count(2), Value::Count(1)]);
        }
    }

    #[test]
    fn without_a_group_of_two_classes_it_is_undefined() {
        for rows in [&[][..], &[(1, 0.5, true), (2, 0.5, false)]] {
            let values = gauc(rows, 3);
            assert_eq!(values[..2], [Value::Undefined, Value::Undefined]);
        }
    }

    proptest! {
        #![proptest_config(crate::metric::testing::fixed())]

        #[test]
        fn it_is_the_mean_over_groups_at_any_number_of_ranks(
            rows in prop::collection::vec((0u64..12, -3i8..3, any::<bool>()), 0..100),
        ) {
            let rows: Vec<Case> = rows.into_iter().map(|(g, s, y)| (g, f32::from(s) / 3.0, y)).collect();
            let one = gauc(&rows, 1);
            let (by_rows, equal, used, skipped) = naive(&rows);
            prop_assert_eq!(&one[2..], &[Value::Count(used), Value::Count(skipped)]);
            if used > 0 {
                prop_assert!((one[0].get().unwrap() - by_rows).abs() < 1e-12);
                prop_assert!((one[1].get().unwrap() - equal).abs() < 1e-12);
            }
            for ranks in 2..=4 {
                prop_assert_eq!(&gauc(&rows, ranks), &one);
            }
        }
    }
}
