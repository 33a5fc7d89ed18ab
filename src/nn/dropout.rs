//! Dropout whose mask does not know the ranks.
//!
//! An element is kept if `hash(seed, [step, layer, slot, unit])` says so, where the slot is the row's position
//! in the *global* batch: the same row loses the same units on whichever rank it is.

use super::floats::{self, Floats, slice};
use super::program::{Describe, Program, Value, only_in_training};
use super::{Builder, Context, parallel};
use crate::error::{Error, Result};
use crate::random;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use std::sync::Arc;

/// Zeroes each element with probability `rate` in training, and divides the others by 1 − `rate`; the identity
/// in evaluation (Srivastava et al. 2014, in its inverted form).
#[derive(Debug, Clone)]
pub struct Dropout {
    rate: f64,
    /// Hash of the layer's name.
    layer: u64,
}

impl Dropout {
    /// Dropout with a rate in [0, 1) for the layer at the builder's path.
    pub fn new(builder: &Builder, rate: f64) -> Self {
        Self { rate, layer: random::text(builder.path()) }
    }

    /// Whether it is anything but the identity now.
    pub(super) fn drops(&self, context: &Context) -> bool {
        context.train && self.rate > 0.0
    }

    /// `[B, d]` → `[B, d]`.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        if !self.drops(context) {
            return Ok(x.clone());
        }
        let (rows, width) = x.dims2()?;
        if rows != context.slots.len() {
            return Err(Error::internal(format!("dropout of {rows} rows with {} slots", context.slots.len())));
        }
        let units: Arc<[u64]> = (0..width as u64).map(random::mix).collect();
        let mask = Mask {
            rate: self.rate,
            seed: context.seed,
            key: [context.step, self.layer],
            slots: context.slots.clone(),
            units,
        };
        context.graph.one(&x.contiguous()?, mask)
    }
}

struct Mask {
    rate: f64,
    seed: u64,
    key: [u64; 2],
    slots: Arc<[u32]>,
    /// `mix(unit)`: the part of the hash that all rows share.
    units: Arc<[u64]>,
}

impl Mask {
    /// Multiplies every element by 0 or 1 / (1 − rate).
    fn apply(&self, values: &mut [f32]) {
        let scale = (1.0 / (1.0 - self.rate)) as f32;
        // `to_unit(bits) < rate`, as integers.
        let limit = (self.rate * (1u64 << 53) as f64).ceil() as u64;
        parallel::rows(
            values,
            self.units.len(),
            #[inline(always)]
            |row, values| {
                let hash = random::hash(self.seed, &[self.key[0], self.key[1], u64::from(self.slots[row])]);
                for (value, &unit) in values.iter_mut().zip(&*self.units) {
                    let dropped = random::mix(hash ^ unit) >> 11 < limit;
                    *value = if dropped { 0.0 } else { *value * scale };
                }
            },
        );
    }
}

impl Describe for Mask {
    fn describe(&self, _: &mut Program, _: &[Value]) -> Result<Value> {
        only_in_training("dropout")
    }
}

impl CustomOp1 for Mask {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut y = slice(x, layout)?.to_vec();
        self.apply(&mut y);
        floats::stored(y, layout.shape().clone())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let mut dx = Floats::of(&dy)?.to_vec();
        self.apply(&mut dx);
        Ok(Some(floats::tensor(dx, dy.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ParamStore;
    use super::super::testing::{check_gradients, context, numbers, random as tensor};
    use super::*;

    fn layer(name: &str, rate: f64) -> Dropout {
        Dropout::new(&ParamStore::new(0).builder().at(name), rate)
    }

    #[test]
    fn gradients_match_finite_differences() {
        for (rows, width) in [(1, 1), (1, 9), (8, 1), (6, 5)] {
            let dropout = layer("a", 0.4);
            check_gradients(&[tensor(&[rows, width], 1)], |t| {
                Ok(dropout.forward(&t[0], &context(true, rows)).unwrap())
            });
        }
    }

    #[test]
    fn the_mask_is_the_documented_draw() {
        let (dropout, at) = (layer("experts.0", 0.3), context(true, 50));
        let y = numbers(&dropout.forward(&Tensor::ones_like(&tensor(&[50, 7], 1)).unwrap(), &at).unwrap());
        for (i, y) in y.iter().enumerate() {
            let key = [at.step, random::text("experts.0"), i as u64 / 7, i as u64 % 7];
            let expected = if random::unit(at.seed, &key) < 0.3 { 0.0 } else { 1.0 / 0.7 };
            assert!((y - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn halves_of_a_batch_get_the_masks_of_the_whole() {
        let (dropout, x) = (layer("a", 0.5), tensor(&[9, 4], 2));
        let whole = numbers(&dropout.forward(&x, &context(true, 9)).unwrap());
        let mut parts = Vec::new();
        for (start, len) in [(0, 4), (4, 5)] {
            let mut part = context(true, len);
            part.slots = (start as u32..(start + len) as u32).collect();
            parts.extend(numbers(&dropout.forward(&x.narrow(0, start, len).unwrap(), &part).unwrap()));
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn the_rate_is_kept_on_average_and_steps_and_layers_differ() {
        let ones = Tensor::ones_like(&tensor(&[200, 100], 1)).unwrap();
        let run = |dropout: &Dropout, step| {
            let mut at = context(true, 200);
            at.step = step;
            numbers(&dropout.forward(&ones, &at).unwrap())
        };
        let first = run(&layer("a", 0.25), 0);
        assert!((first.iter().sum::<f64>() / 20_000.0 - 1.0).abs() < 0.02);
        assert!((first.iter().filter(|&&y| y == 0.0).count() as f64 / 20_000.0 - 0.25).abs() < 0.01);
        assert_ne!(first, run(&layer("a", 0.25), 1));
        assert_ne!(first, run(&layer("b", 0.25), 0));
    }

    #[test]
    fn evaluation_keeps_everything() {
        let x = tensor(&[3, 4], 1);
        assert_eq!(numbers(&layer("a", 0.9).forward(&x, &context(false, 3)).unwrap()), numbers(&x));
    }
}
