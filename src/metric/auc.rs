//! AUC (area under the ROC curve) over all ranks, with ties, exact up to a printed bound.
//!
//! ```text
//! scores ──key──► u32 ──drop `level` low bits──► bins (key, positives, negatives) of this rank, sorted
//!        ──ranges of keys, by sampled splitters──► all-to-all ──► each rank counts the pairs in its range
//!        ──+ negatives in lower ranges──► Σ over ranks, in integers
//! ```
//!
//! A row takes 4 bytes while rows are gathered, a distinct key 12 bytes while they are counted.
//!
//! AUC = (pairs in order + ½ ties) / (P·N), counted in 128-bit integers: neither the order of rows, nor the
//! number of ranks, nor the splitters change a bit. Up to 2^28 rows `level` is 0 and the AUC is exact. Above,
//! scores that differ only in their last 8 bits (a relative 2^−15) share a bin and memory stays bounded; every
//! pair inside a bin counts as a tie, so the AUC is off by at most Σ_b P_b·N_b / (2·P·N), the `auc_bound`.

use super::curves::ROC_STEPS;
use super::pairs::{Pairs, key};
use super::{Better, Curves, Definition, Metric, Rows, Value, is_positive};
use crate::comm::{Communicator, collectives};
use crate::config::job::TaskKind;
use crate::error::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(super) const DEFINITION: Definition = Definition {
    values: &[("auc", Better::Higher), ("auc_bound", Better::Neither)],
    build: |task, rows| (task.kind == TaskKind::Binary).then(|| Box::new(Auc::new(level(rows))) as Box<dyn Metric>),
};

/// Low bits of the key that are dropped: a function of the *global* number of rows alone, so that every rank
/// count has the same bins.
fn level(rows: u64) -> u32 {
    if rows <= 1 << 28 { 0 } else { 8 }
}

/// Keys that may wait before they are counted into bins, where bins bound the memory.
const WAITING: usize = 1 << 22;

/// Rows of one rank that share a key. A key may have several bins.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Bin {
    key: u32,
    positives: u32,
    negatives: u32,
}

/// The scores of one rank.
#[derive(Debug)]
struct Auc {
    level: u32,
    /// Counted, in ascending order of key.
    bins: Vec<Bin>,
    /// Keys that are not yet counted.
    positives: Vec<u32>,
    negatives: Vec<u32>,
}

impl Auc {
    fn new(level: u32) -> Self {
        Self { level, bins: Vec::new(), positives: Vec::new(), negatives: Vec::new() }
    }

    /// Counts the waiting keys into bins.
    fn count(&mut self) {
        self.positives.par_sort_unstable();
        self.negatives.par_sort_unstable();
        let mut merged = Vec::new();
        let (mut old, mut positives, mut negatives) =
            (self.bins.iter().peekable(), self.positives.iter().peekable(), self.negatives.iter().peekable());
        loop {
            let heads = [old.peek().map(|b| b.key), positives.peek().map(|&&k| k), negatives.peek().map(|&&k| k)];
            let Some(key) = heads.into_iter().flatten().min() else { break };
            while let Some(bin) = old.next_if(|b| b.key == key) {
                push(&mut merged, *bin);
            }
            while positives.next_if(|k| **k == key).is_some() {
                push(&mut merged, Bin { key, positives: 1, negatives: 0 });
            }
            while negatives.next_if(|k| **k == key).is_some() {
                push(&mut merged, Bin { key, positives: 0, negatives: 1 });
            }
        }
        self.bins = merged;
        self.positives = Vec::new();
        self.negatives = Vec::new();
    }
}

/// Adds to the last bin of the same key, or opens a new one where its counts would overflow.
fn push(bins: &mut Vec<Bin>, bin: Bin) {
    if let Some(last) = bins.last_mut().filter(|last| last.key == bin.key) {
        let sums = (last.positives.checked_add(bin.positives), last.negatives.checked_add(bin.negatives));
        if let (Some(positives), Some(negatives)) = sums {
            (last.positives, last.negatives) = (positives, negatives);
            return;
        }
    }
    bins.push(bin);
}

impl Metric for Auc {
    fn add(&mut self, rows: &Rows) -> Result<()> {
        for (&score, &label) in rows.logits.iter().zip(rows.labels) {
            let key = key(score) >> self.level;
            if is_positive(label)? { &mut self.positives } else { &mut self.negatives }.push(key);
        }
        if self.level > 0 && self.positives.len() + self.negatives.len() > WAITING {
            self.count();
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, comm: &dyn Communicator) -> Result<Vec<Value>> {
        self.count();
        let mine = by_key(to_ranges(comm, &self.bins)?);
        Ok(values(&total(comm, pairs_of(&mine))?, self.level))
    }

    fn finish_drawn(mut self: Box<Self>, comm: &dyn Communicator, curves: &mut Curves) -> Result<Vec<Value>> {
        self.count();
        let mine = by_key(to_ranges(comm, &self.bins)?);
        let pairs = total(comm, pairs_of(&mine))?;
        curves.roc = roc(comm, &mine, &pairs)?;
        Ok(values(&pairs, self.level))
    }
}

/// The AUC and its bound.
fn values(pairs: &Pairs, level: u32) -> Vec<Value> {
    let all = pairs.doubled_total();
    if all == 0 {
        return vec![Value::Undefined, Value::Undefined];
    }
    let bound = if level == 0 { 0.0 } else { pairs.tied as f64 / all as f64 };
    vec![Value::real(pairs.doubled as f64 / all as f64), Value::real(bound)]
}

/// Points of the ROC curve over all ranks, each of which holds the bins of one range, in ascending order. Which points
/// are kept depends on counts alone. Collective.
fn roc(comm: &dyn Communicator, bins: &[Bin], all: &Pairs) -> Result<Vec<[f64; 2]>> {
    if all.doubled_total() == 0 {
        return Ok(Vec::new());
    }
    let plus = |[positives, negatives]: [u64; 2], bin: &Bin| {
        [positives + u64::from(bin.positives), negatives + u64::from(bin.negatives)]
    };
    let (counts, _) = collectives::all_gather(comm, &[bins.iter().fold([0; 2], plus)])?;
    let mut below = counts[..comm.rank()].iter().fold([0; 2], |sum, count| [sum[0] + count[0], sum[1] + count[1]]);
    let step = |count: u64, all: u64| u128::from(count) * u128::from(ROC_STEPS) / u128::from(all);
    let steps = |below: [u64; 2]| [step(below[0], all.positives), step(below[1], all.negatives)];
    let mut kept = Vec::new();
    for same in bins.chunk_by(|a, b| a.key == b.key) {
        let before = below;
        below = same.iter().fold(below, plus);
        if steps(before) != steps(below) {
            kept.push(below);
        }
    }
    let (kept, _) = collectives::all_gather(comm, &kept)?;
    // Rows above the threshold are all rows but those below it.
    // Six digits draw any picture.
    let rate = |below: u64, all: u64| ((all - below) as f64 / all as f64 * 1e6).round() / 1e6;
    let points = std::iter::once(&[0; 2]).chain(&kept);
    Ok(points
        .rev()
        .map(|&[positives, negatives]| [rate(negatives, all.negatives), rate(positives, all.positives)])
        .collect())
}

/// Sends every bin to the rank whose range of keys it falls in; returns this rank's.
fn to_ranges(comm: &dyn Communicator, bins: &[Bin]) -> Result<Vec<Bin>> {
    if comm.size() == 1 {
        return Ok(bins.to_vec());
    }
    let splitters = splitters(comm, bins)?;
    let mut starts = vec![0];
    starts.extend(splitters.iter().map(|&s| bins.partition_point(|bin| bin.key < s)));
    starts.push(bins.len());
    let counts: Vec<usize> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    Ok(collectives::all_to_all(comm, bins, &counts)?.0)
}

/// `size − 1` ascending keys that cut all ranks' bins into ranges of about equal numbers: each rank offers every
/// n-th of its keys (regular sampling), so a rank receives at most about twice its share.
fn splitters(comm: &dyn Communicator, bins: &[Bin]) -> Result<Vec<u32>> {
    let ranks = comm.size();
    let mut total = [bins.len() as u64];
    collectives::all_reduce_sum(comm, &mut total)?;
    let stride = (total[0] as usize / (32 * ranks)).max(1);
    let offered: Vec<u32> = bins.iter().skip(stride / 2).step_by(stride).map(|bin| bin.key).collect();
    let (mut sample, _) = collectives::all_gather(comm, &offered)?;
    sample.sort_unstable();
    Ok((1..ranks).map(|r| sample.get(r * sample.len() / ranks).copied().unwrap_or(0)).collect())
}

/// The bins of one range, in ascending order.
fn by_key(mut bins: Vec<Bin>) -> Vec<Bin> {
    bins.par_sort_unstable_by_key(|bin| bin.key);
    bins
}

/// The pairs among the bins of one range.
fn pairs_of(bins: &[Bin]) -> Pairs {
    let mut pairs = Pairs::default();
    for same in bins.chunk_by(|a, b| a.key == b.key) {
        let sum = |of: fn(&Bin) -> u32| same.iter().map(|bin| u64::from(of(bin))).sum();
        pairs.add(sum(|bin| bin.positives), sum(|bin| bin.negatives));
    }
    pairs
}

/// All pairs of all ranks, whose ranges ascend with the rank.
fn total(comm: &dyn Communicator, mut pairs: Pairs) -> Result<Pairs> {
    let (counts, _) = collectives::all_gather(comm, &[pairs.positives, pairs.negatives])?;
    let column = |first: usize, ranks: usize| counts.iter().skip(first).step_by(2).take(ranks).sum::<u64>();
    // This rank's positives are above every negative of the ranges below.
    pairs.doubled += 2 * u128::from(pairs.positives) * u128::from(column(1, comm.rank()));
    let mut sums = [pairs.doubled, pairs.tied];
    collectives::all_reduce_sum(comm, &mut sums)?;
    let [doubled, tied] = sums;
    Ok(Pairs { positives: column(0, comm.size()), negatives: column(1, comm.size()), doubled, tied })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use crate::metric::testing::dealt;
    use proptest::prelude::*;

    /// AUC and bound over `ranks` ranks, the rows dealt unevenly; asserts that all ranks agree.
    fn auc(rows: &[(f32, bool)], level: u32, ranks: usize) -> Option<(f64, f64)> {
        let values = threads::ranks(ranks, |comm| {
            let mut auc = Box::new(Auc::new(level));
            for (logit, positive) in dealt(rows, comm) {
                let labels = [f32::from(u8::from(positive))];
                auc.add(&Rows { outputs: 1, logits: &[logit], labels: &labels, groups: &[] }).unwrap();
            }
            let values = auc.finish(comm).unwrap();
            values[0].get().zip(values[1].get())
        });
        let bits = |v: &Option<(f64, f64)>| v.map(|(a, b)| (a.to_bits(), b.to_bits()));
        assert!(values.iter().all(|v| bits(v) == bits(&values[0])), "{values:?}");
        values[0]
    }

    /// Every pair, one by one.
    fn naive(rows: &[(f32, bool)]) -> Option<f64> {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for (a, _) in rows.iter().filter(|(_, positive)| *positive) {
            for (b, _) in rows.iter().filter(|(_, positive)| !*positive) {
                sum += if a > b { 1.0 } else { f64::from(u8::from(a == b)) * 0.5 };
                pairs += 1.0;
            }
        }
        (pairs > 0.0).then(|| sum / pairs)
    }

    #[test]
    fn small_cases_by_hand() {
        assert_eq!(auc(&[(0.1, false), (0.4, false), (0.35, true), (0.8, true)], 0, 1), Some((0.75, 0.0)));
        assert_eq!(auc(&[(0.5, false), (0.5, true)], 0, 1), Some((0.5, 0.0)));
        assert_eq!(auc(&[(-0.0, false), (0.0, true)], 0, 2), Some((0.5, 0.0)));
    }

    #[test]
    fn one_class_or_nothing_is_undefined_everywhere() {
        for ranks in 1..=4 {
            assert_eq!(auc(&[], 0, ranks), None);
            assert_eq!(auc(&[(0.3, true), (0.7, true)], 0, ranks), None);
            assert_eq!(auc(&[(0.3, false)], 0, ranks), None);
        }
    }

    #[test]
    fn equal_scores_are_one_half_on_any_number_of_ranks() {
        let rows: Vec<(f32, bool)> = (0..999).map(|i| (1.5, i % 3 == 0)).collect();
        for ranks in 1..=4 {
            assert_eq!(auc(&rows, 0, ranks), Some((0.5, 0.0)));
        }
    }

    #[test]
    fn ranges_share_the_work() {
        let rows: Vec<(f32, bool)> = (0..4000).map(|i| ((i as f32).sqrt() - 20.0, i % 2 == 0)).collect();
        let shares = threads::ranks(4, |comm| {
            let mut auc = Auc::new(0);
            for (score, _) in dealt(&rows, comm) {
                auc.positives.push(key(score));
            }
            auc.count();
            to_ranges(comm, &auc.bins).unwrap().len()
        });
        assert_eq!(shares.iter().sum::<usize>(), 4000);
        assert!(shares.iter().all(|&n| n < 2000), "{shares:?}");
    }

    #[test]
    fn counting_in_parts_is_counting_at_once() {
        let mut parts = Auc::new(8);
        let mut whole = Auc::new(8);
        for i in 0..300u32 {
            let key = crate::random::mix(u64::from(i)) as u32 % 40;
            for auc in [&mut parts, &mut whole] {
                if i % 3 == 0 { &mut auc.positives } else { &mut auc.negatives }.push(key);
            }
            if i % 50 == 0 {
                parts.count();
            }
        }
        parts.count();
        whole.count();
        assert_eq!(parts.bins, whole.bins);
        assert_eq!(parts.bins.len(), 40);
    }

    #[test]
    fn a_full_counter_opens_another_bin() {
        let full = Bin { key: 1, positives: u32::MAX, negatives: 3 };
        let mut bins = vec![full];
        push(&mut bins, Bin { key: 1, positives: 1, negatives: 0 });
        assert_eq!(bins.len(), 2);
        let pairs = pairs_of(&bins);
        assert_eq!((pairs.positives, pairs.negatives, pairs.tied), (1 << 32, 3, 3 << 32));
    }

    /// The curve of a task's rows over some ranks.
    fn drawn(rows: &[(f32, bool)], ranks: usize) -> Vec<[f64; 2]> {
        let curves = threads::ranks(ranks, |comm| {
            let mut auc = Box::new(Auc::new(0));
            for (logit, positive) in dealt(rows, comm) {
                let labels = [f32::from(u8::from(positive))];
                auc.add(&Rows { outputs: 1, logits: &[logit], labels: &labels, groups: &[] }).unwrap();
            }
            let mut curves = Curves::default();
            auc.finish_drawn(comm, &mut curves).unwrap();
            curves.roc
        });
        assert!(curves.iter().all(|curve| *curve == curves[0]));
        curves[0].clone()
    }

    #[test]
    fn the_roc_curve_goes_up_from_the_highest_score_and_holds_the_area() {
        let four = [(0.1, false), (0.4, false), (0.35, true), (0.8, true)];
        assert_eq!(drawn(&four, 1), [[0.0, 0.0], [0.0, 0.5], [0.5, 0.5], [0.5, 1.0], [1.0, 1.0]]);
        let rows: Vec<(f32, bool)> = (0..5000u64)
            .map(|row| (crate::random::unit(3, &[row]) as f32, row))
            .map(|(score, row)| (score, crate::random::unit(4, &[row]) < f64::from(score) * 0.1))
            .collect();
        let one = drawn(&rows, 1);
        assert!(one.len() > 32 && one.len() <= 66, "{}", one.len());
        let area: f64 = one.windows(2).map(|w| (w[1][0] - w[0][0]) * (w[0][1] + w[1][1]) / 2.0).sum();
        assert!((area - auc(&rows, 0, 1).unwrap().0).abs() < 2e-3, "{area}");
        for ranks in 2..=4 {
            assert_eq!(drawn(&rows, ranks), one);
        }
        assert!(drawn(&[(0.1, true)], 2).is_empty());
    }

    #[test]
    fn resolution_depends_on_the_global_number_of_rows_only() {
        assert_eq!((level(0), level(1 << 28), level((1 << 28) + 1)), (0, 0, 8));
    }

    proptest! {
        #![proptest_config(crate::metric::testing::fixed())]

        #[test]
        fn it_is_the_count_of_all_pairs_at_any_number_of_ranks(
            rows in prop::collection::vec((-8i8..8, any::<bool>(), -1.0f32..1.0, 0u8..3), 0..120),
        ) {
            // A third of the scores tie with others.
            let rows: Vec<(f32, bool)> =
                rows.into_iter().map(|(coarse, y, fine, tie)| (f32::from(coarse) + if tie == 0 { 0.0 } else { fine }, y)).collect();
            let exact = auc(&rows, 0, 1);
            match (exact, naive(&rows)) {
                (Some((got, bound)), Some(want)) => prop_assert!(bound == 0.0 && (got - want).abs() < 1e-12),
                (got, want) => prop_assert!(got.is_none() && want.is_none()),
            }
            for ranks in 2..=4 {
                prop_assert_eq!(auc(&rows, 0, ranks), exact);
            }
            // With few bins it is off by no more than it says.
            for level in [8, 20, 28] {
                let coarse = auc(&rows, level, 1);
                prop_assert_eq!(auc(&rows, level, 3), coarse);
                if let (Some((got, bound)), Some((want, _))) = (coarse, exact) {
                    prop_assert!((got - want).abs() <= bound + 1e-15, "{got} ± {bound} is not {want}");
                }
            }
        }
    }
}
