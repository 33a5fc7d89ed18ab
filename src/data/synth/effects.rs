//! Standard normal numbers that are a pure function of a key, for the effects of ids.

use crate::random;

/// What a draw is for: the first part of its key, so that no two uses share numbers.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub enum Use {
    /// Rows of the log.
    Row = 1,
    /// Rows of the calibration sample.
    Sample,
    /// Effects of ids.
    Id,
    /// Effects of numeric columns.
    Numeric,
    /// Slopes of the first numeric column by id.
    Slope,
    /// Mean and spread of numeric columns.
    Unit,
}

/// Adds `scale` times K standard normal numbers to `sum`: the effect of item `item` of column `column`
/// (Box & Muller 1958 on hashed uniforms, so an effect needs no table and no generator state).
#[inline]
pub fn add(sum: &mut [f64], scale: f64, seed: u64, what: Use, column: u64, item: u64) {
    let key = random::hash(seed, &[what as u64, column, item]);
    for (pair, two) in sum.chunks_mut(2).enumerate() {
        let pair = pair as u64;
        // 1 − u is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - random::to_unit(random::mix(key ^ (2 * pair)))).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * random::to_unit(random::mix(key ^ (2 * pair + 1)))).sin_cos();
        for (total, direction) in two.iter_mut().zip([cos, sin]) {
            *total += scale * radius * direction;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(k: usize, item: u64) -> Vec<f64> {
        let mut sum = vec![0.0; k];
        add(&mut sum, 1.0, 5, Use::Id, 9, item);
        sum
    }

    #[test]
    fn effects_are_standard_normal_and_uncorrelated_between_tasks() {
        let n = 20_000;
        let rows: Vec<f64> = (0..n).flat_map(|item| draw(3, item)).collect();
        let (mean, covariance) = super::super::correlation::moments(&rows, 3);
        assert!(mean.iter().all(|m| m.abs() < 0.03), "{mean:?}");
        for (i, c) in covariance.iter().enumerate() {
            let expected = if i / 3 == i % 3 { 1.0 } else { 0.0 };
            assert!((c - expected).abs() < 0.04, "{covariance:?}");
        }
        let beyond_two = rows.iter().filter(|x| x.abs() > 2.0).count() as f64 / rows.len() as f64;
        assert!((beyond_two - 0.0455).abs() < 0.004, "{beyond_two}");
    }

    #[test]
    fn effects_depend_on_the_key_only_and_add_up() {
        assert_eq!(draw(3, 1), draw(3, 1));
        assert_ne!(draw(3, 1), draw(3, 2));
        assert_eq!(draw(2, 1), draw(5, 1)[..2]);
        let mut sum = draw(2, 1);
        add(&mut sum, 0.5, 5, Use::Id, 9, 2);
        let expected: Vec<f64> = draw(2, 1).iter().zip(draw(2, 2)).map(|(a, b)| a + 0.5 * b).collect();
        assert_eq!(sum, expected);
    }
}
