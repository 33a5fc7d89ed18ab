//! Exact sums of float64: the same bits for any order of the terms and any split over ranks.
//!
//! A term m·2^e (m of 53 bits) is added as an integer to the accumulator of its exponent's range:
//!
//! ```text
//! chunk 0           chunk 1           …  chunk 63
//! exponents 0..32   exponents 32..64     exponents 2016..2048     (as stored in the float's 11 bits)
//! 2^−1075 · i128    2^−1043 · i128       2^941 · i128
//! ```
//!
//! Each chunk takes 2^42 terms before it can overflow (53 + 31 bits a term of 127). After Neal 2015, "Fast exact
//! summation using small and large superaccumulators", with wider integers in place of carries.

use crate::comm::{Communicator, collectives};
use crate::error::Result;

const CHUNKS: usize = 64;

/// A sum that is being gathered on one rank.
#[derive(Debug, Clone)]
pub(super) struct ExactSum {
    chunks: [i128; CHUNKS],
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { chunks: [0; CHUNKS] }
    }
}

impl ExactSum {
    /// Adds a finite term.
    pub fn add(&mut self, term: f64) {
        debug_assert!(term.is_finite());
        let bits = term.to_bits();
        let exponent = (bits >> 52) & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        // Subnormal numbers have no hidden bit and the scale of exponent 1.
        let (mantissa, exponent) = if exponent == 0 { (fraction, 1) } else { (fraction | 1 << 52, exponent) };
        let shifted = i128::from(mantissa) << (exponent & 31);
        self.chunks[(exponent >> 5) as usize] += if term.is_sign_negative() { -shifted } else { shifted };
    }

    /// The sum over all ranks. Collective.
    pub fn finish(mut self, comm: &dyn Communicator) -> Result<f64> {
        collectives::all_reduce_sum(comm, &mut self.chunks)?;
        Ok(self.value())
    }

    fn value(&self) -> f64 {
        let mut sum = 0.0;
        for (i, &chunk) in self.chunks.iter().enumerate().rev() {
            // In two factors, because 2^−1075 alone is no float64.
            let exponent = 32 * i as i32 - 1075;
            let half = exponent / 2;
            sum += chunk as f64 * power_of_two(half) * power_of_two(exponent - half);
        }
        sum
    }
}

/// 2^n for n in −1022..=1023.
fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::solo::Solo;
    use proptest::prelude::*;

    fn sum(terms: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        terms.iter().for_each(|&t| sum.add(t));
        sum.finish(&Solo).unwrap()
    }

    #[test]
    fn single_terms_are_kept_exactly() {
        for term in [0.0, 1.0, -1.5, 0.1, 1e300, -1e-300, f64::MIN_POSITIVE, 1e-310, f64::MAX] {
            assert_eq!(sum(&[term]), term);
        }
    }

    #[test]
    fn nothing_is_lost_beside_a_large_term() {
        assert_eq!(sum(&[1e20, 1.0, -1e20]), 1.0);
        assert_eq!(sum(&vec![0.1; 1000]), 100.0);
    }

    proptest! {
        #![proptest_config(crate::metric::testing::fixed())]

        #[test]
        fn the_order_does_not_matter(mut terms in prop::collection::vec(-1e12f64..1e12, 0..50), turn in 0usize..50) {
            let (before, naive) = (sum(&terms), terms.iter().sum::<f64>());
            prop_assert!((before - naive).abs() <= 1e-13 * terms.iter().map(|t| t.abs()).sum::<f64>());
            let turn = turn.min(terms.len());
            terms.rotate_left(turn);
            prop_assert_eq!(sum(&terms).to_bits(), before.to_bits());
        }
    }
}
