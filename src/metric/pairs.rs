//! Counting pairs: how often a positive row scores above a negative one (Mann & Whitney 1947).

/// An integer key that orders as the score does: equal for equal scores (and for −0 and 0), larger for larger.
pub(super) fn key(score: f32) -> u32 {
    // Adding 0 turns −0 into 0.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Pair counts of rows that are taken in ascending order of score. All integers, so exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pairs {
    /// Positive rows so far.
    pub positives: u64,
    /// Negative rows so far.
    pub negatives: u64,
    /// Twice the number of (positive, negative) pairs in the right order; a tie counts once, that is, half.
    pub doubled: u128,
    /// Pairs that tie.
    pub tied: u128,
}

impl Pairs {
    /// Takes in all rows of one score, above all before.
    pub fn add(&mut self, positives: u64, negatives: u64) {
        self.doubled += u128::from(positives) * (2 * u128::from(self.negatives) + u128::from(negatives));
        self.tied += u128::from(positives) * u128::from(negatives);
        self.positives += positives;
        self.negatives += negatives;
    }

    /// Twice the number of all pairs; 0 where there is one class only.
    pub fn doubled_total(&self) -> u128 {
        2 * u128::from(self.positives) * u128::from(self.negatives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_scores_do() {
        let scores = [f32::MIN, -2.5, -1.0, -f32::MIN_POSITIVE, -1e-45, 0.0, 1e-45, 0.5, 1.0, 7.0, f32::MAX];
        assert!(scores.windows(2).all(|w| key(w[0]) < key(w[1])));
        assert_eq!(key(-0.0), key(0.0));
    }

    #[test]
    fn ties_count_half() {
        let mut pairs = Pairs::default();
        pairs.add(1, 2); // 2 ties
        pairs.add(3, 0); // 6 in order
        pairs.add(0, 1);
        assert_eq!((pairs.doubled, pairs.tied, pairs.doubled_total()), (2 + 12, 2, 2 * 4 * 3));
    }
}
