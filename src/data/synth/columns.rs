//! The id columns: how ranks of a Zipf law become the values a log would hold.

use crate::error::{Error, Result};
use crate::random;
use rand::Rng;
use rand::distr::Distribution;
use rand_distr::Zipf;

/// Ids are spread over this many bits, as ids of a real log are.
const ID_BITS: u32 = 40;
const ID_MASK: u64 = (1 << ID_BITS) - 1;

/// The largest number of distinct ids of a column.
pub const MAX_CARDINALITY: u64 = 1 << ID_BITS;

/// The values of the string column, the most frequent first.
pub const COUNTRIES: [&str; 30] = [
    "US", "IN", "CN", "BR", "ID", "DE", "JP", "GB", "FR", "MX", "KR", "TR", "VN", "IT", "ES", "PL", "CA", "TH", "NL",
    "AU", "AR", "EG", "NG", "SE", "CH", "PT", "GR", "CZ", "FI", "NZ",
];

/// How a column is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// A 64-bit integer: the rank under a bijection of 40 bits.
    Id,
    /// A country code.
    Country,
}

/// One column of ids.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name in the log.
    pub name: String,
    /// Number of distinct ids.
    pub cardinality: u64,
    /// How it is written.
    pub values: Values,
    /// Names the column to random draws.
    pub key: u64,
    zipf: Zipf<f64>,
}

impl Column {
    /// A column whose rank r (from 1) is drawn with probability proportional to r^−`exponent`.
    pub fn new(name: &str, cardinality: u64, exponent: f64, values: Values) -> Result<Self> {
        let zipf = Zipf::new(cardinality as f64, exponent)
            .map_err(|e| Error::job(format!("ids cannot be drawn: {e}")).at("column", name))?;
        Ok(Self { name: name.to_string(), cardinality, values, key: random::text(name), zipf })
    }

    /// Draws a rank in `0..cardinality`; 0 is the most frequent.
    pub fn draw(&self, rng: &mut impl Rng) -> u64 {
        // The law is over the integers 1..=n held as floats, exact up to 2^53.
        (self.zipf.sample(rng) as u64).clamp(1, self.cardinality) - 1
    }

    /// The id that stands for a rank: distinct ranks have distinct ids in `0..2^40`, and the same rank has
    /// different ids in different columns.
    pub fn id(&self, rank: u64) -> i64 {
        // Adding a constant, multiplying by an odd number and xor-shifting are bijections modulo 2^40.
        let mut x = rank.wrapping_add(self.key) & ID_MASK;
        for odd in [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9] {
            x = x.wrapping_mul(odd) & ID_MASK;
            x ^= x >> (ID_BITS / 2);
        }
        x as i64
    }

    /// The share of the id effects that this column carries, before they are scaled. Wide columns carry
    /// less each, because each of their ids is seen less often: with equal shares much of the best AUC would
    /// be in ids that are too rare to be learned from any log.
    pub fn share(&self) -> f64 {
        (self.cardinality as f64).log10().max(1.0).powi(-2)
    }
}

/// `count` cardinalities from 10 to 100 000, evenly spread on a log scale.
pub fn spread(count: usize) -> Vec<u64> {
    let step = 4.0 / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| 10f64.powf(1.0 + step * i as f64).round() as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn distinct_ranks_have_distinct_ids_of_40_bits(a in 0..MAX_CARDINALITY, b in 0..MAX_CARDINALITY) {
            let column = Column::new("c0", 10, 1.0, Values::Id).unwrap();
            prop_assert_eq!(a == b, column.id(a) == column.id(b));
            prop_assert!((0..MAX_CARDINALITY as i64).contains(&column.id(a)));
        }
    }

    #[test]
    fn ids_fill_the_range_and_differ_between_columns() {
        let column = |name| Column::new(name, 1000, 1.0, Values::Id).unwrap();
        let (a, b) = (column("a"), column("b"));
        let mean = (0..1000).map(|r| a.id(r) as f64).sum::<f64>() / 1000.0 / MAX_CARDINALITY as f64;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        assert!((0..1000).all(|r| a.id(r) != b.id(r)));
    }

    #[test]
    fn cardinalities_spread_over_four_decades() {
        assert_eq!(spread(5), [10, 100, 1000, 10_000, 100_000]);
        assert_eq!(spread(1), [10]);
        assert!(spread(0).is_empty());
    }

    #[test]
    fn frequencies_follow_the_law() {
        let column = Column::new("c", 1000, 1.0, Values::Id).unwrap();
        let mut rng = random::stream(3, &[]);
        let n = 40_000;
        let mut counts = vec![0_u32; 1000];
        for _ in 0..n {
            counts[column.draw(&mut rng) as usize] += 1;
        }
        let harmonic: f64 = (1..=1000).map(|r| 1.0 / f64::from(r)).sum();
        for rank in [0, 1, 9] {
            let expected = f64::from(n) / (harmonic * (rank + 1) as f64);
            let sd = expected.sqrt();
            assert!((f64::from(counts[rank]) - expected).abs() < 4.0 * sd, "rank {rank}: {} {expected}", counts[rank]);
        }
    }
}
