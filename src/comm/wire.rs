//! How numbers travel between ranks: whole, or as bf16, which is the upper half of an f32.
//!
//! MPI knows no bf16, so the halves travel as `u16` and are widened before anything is added.

use crate::simd;
use half::bf16;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a number is while it travels. Sums, tables, parameters and optimizers are f32 always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WireFormat {
    /// 4 bytes, as it is.
    #[default]
    F32,
    /// 2 bytes, rounded to nearest, ties to even: off by at most 2⁻⁸ of the number.
    Bf16,
}

/// `values`, rounded to bf16.
pub(super) fn narrow(values: &[f32]) -> Vec<u16> {
    let mut halves = vec![0; values.len()];
    simd::widest(
        #[inline(always)]
        || {
            for (half, &value) in halves.iter_mut().zip(values) {
                *half = bf16::from_f32(value).to_bits();
            }
        },
    );
    halves
}

/// The numbers of `halves`, into a slice of the same length.
pub(super) fn widen(halves: &[u16], values: &mut [f32]) {
    debug_assert_eq!(halves.len(), values.len());
    simd::widest(
        #[inline(always)]
        || {
            for (value, &half) in values.iter_mut().zip(halves) {
                *value = f32::from_bits(u32::from(half) << 16);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `value` as the receiver has it.
    fn received(value: f32) -> f32 {
        let mut out = [0.0];
        widen(&narrow(&[value]), &mut out);
        out[0]
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_ties_to_even() {
        let ulp = 2f32.powi(-7);
        for (sent, want) in [
            (0.0, 0.0),
            (-1.5, -1.5),
            (1.0 + 0.49 * ulp, 1.0),
            (1.0 + 0.51 * ulp, 1.0 + ulp),
            (1.0 + 0.5 * ulp, 1.0),
            (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
            (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(received(sent), want, "{sent}");
        }
        assert!(received(f32::NAN).is_nan());
    }

    #[test]
    fn the_error_is_at_most_half_a_unit_of_the_last_bit() {
        for i in 0..10_000u64 {
            let magnitude = 10f64.powi((crate::random::hash(1, &[i]) % 60) as i32 - 30);
            let sent = (magnitude * (crate::random::unit(2, &[i]) - 0.5)) as f32;
            let error = (f64::from(received(sent)) - f64::from(sent)).abs();
            assert!(error <= f64::from(sent).abs() * 2f64.powi(-8), "{sent}: {error}");
        }
    }
}
