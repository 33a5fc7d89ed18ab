//! Drawing right-hand ids that a left one is not known to go with.
//!
//! Uniform draws need no second try: of n candidates and m sorted known ones, the r-th that is not known has the index
//! r + (number of known ones before it), which a binary search finds. Draws by popularity are tried again while they hit
//! a known one.

use crate::random;

/// Tries of a draw by popularity before it becomes a uniform one, which cannot miss. With half of all draws known it
/// gets there once in 2^64 draws.
const TRIES: u64 = 64;

/// How candidates are drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Draw {
    /// All alike.
    Uniform,
    /// In proportion to weights, given by their running sums.
    Weighted(Vec<f64>),
}

impl Draw {
    /// In proportion to counts^`popularity`.
    pub fn by_popularity(counts: &[u64], popularity: f64) -> Self {
        if popularity == 0.0 {
            return Self::Uniform;
        }
        let mut sum = 0.0;
        let running = counts.iter().map(|&count| {
            sum += (count as f64).powf(popularity);
            sum
        });
        Self::Weighted(running.collect())
    }

    /// The index of one of `candidates` that is not in the sorted list `known`, as a pure function of `key`; `None` if
    /// all are known.
    pub fn unknown(&self, candidates: usize, known: &[u32], key: u64) -> Option<usize> {
        let free = candidates.checked_sub(known.len()).filter(|&free| free > 0)?;
        if let Self::Weighted(running) = self {
            let total = running.last().copied().unwrap_or(0.0);
            for attempt in 1..=TRIES {
                let at = random::unit(key, &[attempt]) * total;
                let index = running.partition_point(|&sum| sum <= at).min(candidates - 1);
                if known.binary_search(&(index as u32)).is_err() {
                    return Some(index);
                }
            }
        }
        Some(nth_unknown(known, below(random::hash(key, &[0]), free)))
    }
}

/// The index of the `nth` candidate, from 0, that is not in the sorted list `known`.
fn nth_unknown(known: &[u32], nth: usize) -> usize {
    // known[j] − j candidates before known[j] are not known.
    let (mut low, mut high) = (0, known.len());
    while low < high {
        let middle = (low + high) / 2;
        if known[middle] as usize - middle <= nth { low = middle + 1 } else { high = middle }
    }
    nth + low
}

/// Maps 64 random bits to `0..n`, with a bias below n · 2⁻⁶⁴.
pub(super) fn below(bits: u64, n: usize) -> usize {
    ((u128::from(bits) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_nth_unknown_is_that_of_a_plain_list(known in prop::collection::btree_set(0u32..40, 0..40), nth in 0usize..40) {
            let known: Vec<u32> = known.into_iter().collect();
            let unknown: Vec<usize> = (0..80).filter(|i| !known.contains(&(*i as u32))).collect();
            prop_assert_eq!(nth_unknown(&known, nth), unknown[nth]);
        }

        #[test]
        fn what_is_known_is_never_drawn(
            known in prop::collection::btree_set(0u32..12, 0..13),
            key in any::<u64>(),
            popularity in prop::sample::select(vec![0.0, 0.75, -1.0, 30.0]),
        ) {
            let known: Vec<u32> = known.into_iter().collect();
            let draw = Draw::by_popularity(&(1..=12).collect::<Vec<u64>>(), popularity);
            match draw.unknown(12, &known, key) {
                Some(index) => prop_assert!(index < 12 && !known.contains(&(index as u32))),
                None => prop_assert_eq!(known.len(), 12),
            }
        }
    }

    /// Draws of each of 10 candidates, of which 2 and 7 are known.
    fn histogram(draw: &Draw, draws: u64) -> Vec<f64> {
        let mut hits = vec![0.0; 10];
        (0..draws).for_each(|key| hits[draw.unknown(10, &[2, 7], random::hash(3, &[key])).unwrap()] += 1.0);
        hits
    }

    /// Pearson's statistic against expected shares. Its 0.999 quantile with 7 degrees of freedom is 24.3.
    fn chi_square(hits: &[f64], shares: &[f64]) -> f64 {
        let (draws, total) = (hits.iter().sum::<f64>(), shares.iter().sum::<f64>());
        let terms = hits.iter().zip(shares).filter(|(_, share)| **share > 0.0);
        terms.map(|(hit, share)| (hit - draws * share / total).powi(2) / (draws * share / total)).sum()
    }

    #[test]
    fn draws_are_uniform_or_by_popularity() {
        let counts: Vec<u64> = (1..=10).map(|i| i * i).collect();
        for (popularity, wrong) in [(0.0, 0.5), (0.5, 0.0), (1.0, 0.5)] {
            let shares = |popularity: f64| -> Vec<f64> {
                let share = |i: usize| if [2, 7].contains(&i) { 0.0 } else { (counts[i] as f64).powf(popularity) };
                (0..10).map(share).collect()
            };
            let hits = histogram(&Draw::by_popularity(&counts, popularity), 80_000);
            let (right, wrong) = (chi_square(&hits, &shares(popularity)), chi_square(&hits, &shares(wrong)));
            assert!(right < 24.3, "popularity {popularity}: {right}");
            assert!(wrong > 1000.0, "the test can fail: {wrong}");
        }
    }

    #[test]
    fn a_draw_that_always_hits_a_known_one_becomes_uniform() {
        // The last candidate has all the weight, and is known.
        let draw = Draw::by_popularity(&[1, 1, 1, 1_000_000_000], 3.0);
        let drawn: Vec<usize> = (0..50).filter_map(|key| draw.unknown(4, &[3], key)).collect();
        assert_eq!(drawn.len(), 50);
        assert!((0..3).all(|index| drawn.contains(&index)), "{drawn:?}");
    }
}
