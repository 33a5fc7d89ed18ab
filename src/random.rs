//! Randomness that does not know the rank count: every draw is a pure function of named integers.
//!
//! A stateful generator would have to be split over ranks and saved in checkpoints. Instead a dropout
//! mask is `unit(seed, &[step, layer, row, unit])`, an initial embedding row is drawn from
//! `stream(seed, &[table, id])`, and so on: any rank can compute any draw, and resume needs no state.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The 64-bit finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection with full avalanche,
/// so distinct integer ids never collide under it.
#[inline]
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hashes a key of integers under a seed.
#[inline]
pub fn hash(seed: u64, key: &[u64]) -> u64 {
    key.iter().fold(mix(seed), |h, &k| mix(h ^ mix(k)))
}

/// A uniform draw in [0, 1) that is a pure function of `(seed, key)`.
#[inline]
pub fn unit(seed: u64, key: &[u64]) -> f64 {
    to_unit(hash(seed, key))
}

/// Maps 64 random bits to [0, 1) with 53 bits of resolution.
#[inline]
pub fn to_unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A full generator for `(seed, key)`, for draws that need many numbers (permutations, rows).
pub fn stream(seed: u64, key: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(hash(seed, key))
}

/// A 64-bit hash of text, for seeds that depend on a name (a table, a parameter).
pub fn text(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

/// A 64-bit hash of bytes under a seed.
pub fn bytes(seed: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_every_part_of_the_key() {
        let base = hash(7, &[1, 2, 3]);
        assert_eq!(base, hash(7, &[1, 2, 3]));
        for other in [hash(8, &[1, 2, 3]), hash(7, &[2, 1, 3]), hash(7, &[1, 2]), hash(7, &[1, 2, 4])] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn unit_draws_are_uniform() {
        let n = 100_000;
        let mean = (0..n).map(|i| unit(1, &[i])).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((0..n).all(|i| (0.0..1.0).contains(&unit(1, &[i]))));
    }
}
