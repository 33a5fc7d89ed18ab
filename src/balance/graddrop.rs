//! GradDrop (Chen et al., NeurIPS 2020): where the tasks' gradients of an element of the shared representation disagree in
//! sign, one sign is drawn and the gradients of the other are dropped:
//!
//!   P = ½(1 + Σ_k s·g_k / Σ_k |g_k|)        keep the positive s·g_k if P > U, else the negative ones        U ~ uniform
//!
//! with s the sign of the representation's element. U is drawn for every row and column of the global batch.

use super::representation::{OnRepresentation, Representation};
use super::{Balancer, KEY, Needs, Signal};
use crate::config::Component;
use crate::error::{Error, Result};
use crate::random;
use crate::simd;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Options of `{kind: graddrop}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GradDrop {
    /// Share of each task's gradient that is never dropped: 0 drops all of it, 1 is the plain sum.
    leak: f64,
}

impl Default for GradDrop {
    fn default() -> Self {
        Self { leak: 0.0 }
    }
}

pub(super) fn build(component: &mut Component, _: &[String]) -> Result<Box<dyn Balancer>> {
    let options: GradDrop = component.options(KEY)?;
    if !(0.0..=1.0).contains(&options.leak) {
        return Err(Error::job(format!("leak is {}", options.leak)).at("key", "balance.leak").fix("give 0 to 1"));
    }
    component.resolve(&options)?;
    Ok(Box::new(options))
}

impl Balancer for GradDrop {
    fn needs(&self) -> Needs {
        Needs::Representation
    }

    /// The tasks' weights where no representation is dropped: 1.
    fn weights(&mut self, signal: &Signal) -> Result<Vec<f64>> {
        signal.check(Needs::Gram)?;
        Ok(signal.present.iter().map(|&present| f64::from(u8::from(present))).collect())
    }

    fn on_representation(&self) -> Option<&dyn OnRepresentation> {
        Some(self)
    }
}

/// Rows that a thread works on at a time.
const GROUP: usize = 64;

impl OnRepresentation for GradDrop {
    fn combine(&self, signal: &Signal, representation: &Representation, out: &mut [f32]) {
        let Representation { values, gradients, width, slots, tensor } = *representation;
        let width = width.max(1);
        let key = [random::text("graddrop"), signal.step, tensor as u64];
        out.par_chunks_mut(GROUP * width).enumerate().for_each(|(group, out)| {
            let mut scratch = Scratch::of(width);
            for (row, out) in (group * GROUP..).zip(out.chunks_exact_mut(width)) {
                let [name, step, tensor] = key;
                let hash = random::hash(signal.seed, &[name, step, tensor, u64::from(slots[row])]);
                let draw = |column: usize| random::to_unit(random::mix(hash ^ random::mix(column as u64)));
                simd::widest(
                    #[inline(always)]
                    || {
                        let gradients = gradients.iter().map(|gradient| of_row(gradient, row, width));
                        self.combine_row(of_row(values, row, width), gradients, draw, &mut scratch, out);
                    },
                );
            }
        });
    }
}

fn of_row(matrix: &[f32], row: usize, width: usize) -> &[f32] {
    &matrix[row * width..][..width]
}

/// Numbers of a row's columns.
struct Scratch {
    /// Σ g.
    sum: Vec<f64>,
    /// Σ |g|.
    size: Vec<f64>,
    /// The sign that is kept.
    side: Vec<f64>,
    kept: Vec<f64>,
}

impl Scratch {
    fn of(width: usize) -> Self {
        let zeros = || vec![0.0; width];
        Self { sum: zeros(), size: zeros(), side: zeros(), kept: zeros() }
    }
}

impl GradDrop {
    /// Task after task goes along the row, so that the compiler makes vectors of it.
    #[inline(always)]
    fn combine_row<'a>(
        &self,
        values: &[f32],
        gradients: impl Iterator<Item = &'a [f32]> + Clone,
        draw: impl Fn(usize) -> f64,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let Scratch { sum, size, side, kept } = scratch;
        [&mut *sum, &mut *size, &mut *kept].into_iter().for_each(|numbers| numbers.fill(0.0));
        for gradient in gradients.clone() {
            for ((sum, size), &g) in sum.iter_mut().zip(size.iter_mut()).zip(gradient) {
                *sum += f64::from(g);
                *size += f64::from(g).abs();
            }
        }
        for (column, side) in side.iter_mut().enumerate() {
            let sign = if values[column] < 0.0 { -1.0 } else { 1.0 };
            let keeps_positive = 0.5 * (1.0 + sign * sum[column] / size[column]) > draw(column);
            *side = if keeps_positive { sign } else { -sign };
        }
        for gradient in gradients {
            for ((kept, &side), &g) in kept.iter_mut().zip(side.iter()).zip(gradient) {
                *kept += if side * f64::from(g) > 0.0 { f64::from(g) } else { 0.0 };
            }
        }
        for ((out, sum), kept) in out.iter_mut().zip(sum.iter()).zip(kept.iter()) {
            *out = (self.leak * sum + (1.0 - self.leak) * kept) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(leak: f64, gradients: &[f64], sign: f64, draw: f64) -> f64 {
        let columns: Vec<[f32; 1]> = gradients.iter().map(|&g| [g as f32]).collect();
        let mut out = [f32::NAN];
        let (values, gradients) = ([sign as f32], columns.iter().map(|column| &column[..]));
        GradDrop { leak }.combine_row(&values, gradients, |_| draw, &mut Scratch::of(1), &mut out);
        f64::from(out[0])
    }

    #[test]
    fn gradients_of_one_sign_are_their_sum() {
        for draw in [0.0, 0.3, 0.999] {
            assert_eq!(of(0.0, &[1.0, 0.0, 2.0], 1.0, draw), 3.0);
            assert_eq!(of(0.0, &[-1.0, -2.0], 1.0, draw), -3.0);
            assert_eq!(of(0.0, &[0.0, 0.0], 1.0, draw), 0.0);
        }
    }

    #[test]
    fn no_gradient_stays_none() {
        assert_eq!(of(0.0, &[0.0, 0.0], 1.0, 0.5), 0.0);
    }

    #[test]
    fn of_two_signs_one_is_kept_in_proportion_to_its_size() {
        // P = ½(1 + (3 − 1)/4) = ¾.
        assert_eq!(of(0.0, &[3.0, -1.0], 1.0, 0.74), 3.0);
        assert_eq!(of(0.0, &[3.0, -1.0], 1.0, 0.76), -1.0);
        // Under a negative element the signs change places, and so does the draw.
        assert_eq!(of(0.0, &[3.0, -1.0], -1.0, 0.24), -1.0);
        assert_eq!(of(0.0, &[3.0, -1.0], -1.0, 0.26), 3.0);
        assert_eq!(of(0.5, &[3.0, -1.0], 1.0, 0.1), 2.5);
        assert_eq!(of(1.0, &[3.0, -1.0], 1.0, 0.9), 2.0);
    }

    #[test]
    fn the_draw_of_a_row_does_not_depend_on_who_holds_it() {
        let (a, b): (Vec<f32>, Vec<f32>) =
            (0..40).map(|i| (random::unit(1, &[i]) as f32 - 0.5, random::unit(2, &[i]) as f32 - 0.5)).unzip();
        let values = [1.0; 40];
        let signal = Signal {
            losses: &[1.0; 2],
            present: &[true; 2],
            gram: &[],
            step: 3,
            steps_per_epoch: 1,
            total_steps: 9,
            seed: 9,
        };
        let run = |rows: std::ops::Range<usize>| {
            let slots: Vec<u32> = rows.clone().map(|row| row as u32).collect();
            let part = rows.start * 4..rows.end * 4;
            let gradients = [&a[part.clone()], &b[part.clone()]];
            let mut out = vec![0.0; part.len()];
            let representation =
                Representation { values: &values[part], gradients: &gradients, width: 4, slots: &slots, tensor: 0 };
            GradDrop { leak: 0.0 }.combine(&signal, &representation, &mut out);
            out
        };
        let whole = run(0..10);
        assert_eq!(whole, [run(0..3), run(3..10)].concat());
        let dropped = whole.iter().zip(a.iter().zip(&b)).filter(|(out, (a, b))| (**out - (*a + *b)).abs() > 1e-6);
        assert!((5..35).contains(&dropped.count()));
    }
}
