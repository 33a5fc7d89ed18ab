//! Partitioned normalisation: batch norm whose moments are those of the row's scenario, over the *global* batch.
//!
//! ```text
//! n_s, Σx, Σx²  over the present rows of scenario s on all ranks  → mean_s, variance_s     (one all-sum forward)
//! x̂ = (x − mean_s) / √(variance_s + ε)      y = γ_s ⊙ x̂ + β_s          s = the row's scenario, "other" being one too
//! dγ_s = Σ_local dy ⊙ x̂     dβ_s = Σ_local dy                          over the rows of s
//! dx = γ_s / √(variance_s + ε) ⊙ (dy − Σ_global dy / n_s − x̂ ⊙ Σ_global (dy ⊙ x̂) / n_s)   (one all-sum backward)
//! ```
//!
//! Evaluation takes running moments, which a table has by scenario. A scenario that training never had two rows of at
//! once, "other" above all, has none: it takes those of the whole batch, in the table's last row.

use super::batch_norm::{MOMENTUM, inverse_deviation};
use super::floats::{self, Floats, slice};
use super::params::Buffer;
use super::program::{Describe, Program, Value, exactly, only_in_training};
use super::{AllSum, Builder, Context, Graph, Init, Join, join_shared, parallel};
use candle_core::{CpuStorage, CustomOp3, Error, Layout, Shape, Tensor};
use send_wrapper::SendWrapper;
use std::rc::Rc;
use std::sync::Arc;

/// Partitioned normalisation (Sheng et al., CIKM 2021, eqs. 4 and 5) of `[B, d]`: γ_s = γ ⊙ γ'_s and β_s = β + β'_s, all
/// γ from 1 and all β from 0; "other" has γ and β alone. ε and the momentum of the running moments are those of
/// [`super::BatchNorm`].
#[derive(Debug, Clone)]
pub struct PartitionedNorm {
    scale: [Tensor; 2],
    shift: [Tensor; 2],
    /// `[S + 2, d]`: the scenarios, "other", and the whole batch.
    mean: Buffer,
    variance: Buffer,
    /// `[S + 2]`: 1 once the row has moved.
    known: Buffer,
    scenarios: usize,
    width: usize,
}

impl PartitionedNorm {
    /// Normalises `width` columns of rows of `scenarios` scenarios, and of "other".
    pub fn new(mut builder: Builder, width: usize, scenarios: usize) -> crate::Result<Self> {
        let rows = scenarios + 2;
        Ok(Self {
            scale: [
                builder.param("scale", &[width], Init::Ones)?,
                builder.param("own_scale", &[scenarios, width], Init::Ones)?,
            ],
            shift: [
                builder.param("shift", &[width], Init::Zeros)?,
                builder.param("own_shift", &[scenarios, width], Init::Zeros)?,
            ],
            mean: builder.buffer("running_mean", vec![0.0; rows * width])?,
            variance: builder.buffer("running_variance", vec![1.0; rows * width])?,
            known: builder.buffer("running_known", vec![0.0; rows])?,
            scenarios,
            width,
        })
    }

    /// `[B, d]` → `[B, d]`; `scenarios` has each row's number. In training all ranks must call it together, and run the
    /// same backward passes. There a scenario's single row becomes its shift: it has no spread.
    pub fn forward(&self, x: &Tensor, scenarios: &Arc<[u32]>, context: &Context) -> crate::Result<Tensor> {
        let x = x.contiguous()?;
        let found = (x.dims2()?, scenarios.iter().max().map_or(0, |&last| last as usize));
        if found.0 != (scenarios.len(), self.width) || found.1 > self.scenarios {
            let what = format!("{:?} with {} scenarios up to {}", x.dims(), scenarios.len(), found.1);
            return Err(crate::Error::internal(format!("partitioned norm of {what}")));
        }
        let scale = join_shared(&self.scale[0], &self.scale[1], Join::Factors, context)?;
        let shift = join_shared(&self.shift[0], &self.shift[1], Join::Terms, context)?;
        let op = match context.train {
            true => self.of_batch(&x, scenarios, context)?,
            false => self.of_running_moments(scenarios),
        };
        context.graph.three(&x, &scale, &shift, op)
    }

    fn of_running_moments(&self, scenarios: &Arc<[u32]>) -> Op {
        let (mut mean, mut variance, known) = (self.mean.get(), self.variance.get(), self.known.get());
        let (groups, width) = (self.scenarios + 1, self.width);
        for values in [&mut mean, &mut variance] {
            let whole = values.split_off(groups * width);
            for (group, values) in values.chunks_exact_mut(width.max(1)).enumerate() {
                if known[group] == 0.0 {
                    values.copy_from_slice(&whole);
                }
            }
        }
        let inverse = variance.iter().map(|&v| inverse_deviation(f64::from(v))).collect();
        Op { width, scenarios: scenarios.clone(), mean, inverse, coupling: None }
    }

    fn of_batch(&self, x: &Tensor, scenarios: &Arc<[u32]>, context: &Context) -> crate::Result<Op> {
        let present: Rc<[f32]> = Floats::of(&context.present.contiguous()?)?.to_vec().into();
        let x = Floats::of(x)?;
        let (groups, width) = (self.scenarios + 1, self.width);
        let sums = Sums::of_batch(&x, scenarios, &present, (groups, width), &**context.all_sum)?;
        // Without a way back it is a second look at a batch, which must not count twice.
        if !matches!(context.graph, Graph::None) {
            self.update_running(&sums)?;
        }
        let moments: Vec<(f64, f64)> = (0..groups).flat_map(|group| sums.moments(group..group + 1)).collect();
        Ok(Op {
            width,
            scenarios: scenarios.clone(),
            mean: moments.iter().map(|(mean, _)| *mean as f32).collect(),
            inverse: moments.iter().map(|(_, variance)| inverse_deviation(*variance)).collect(),
            coupling: Some(Coupling {
                rows: (0..groups).map(|group| sums.rows(group..group + 1)).collect(),
                present: present.to_vec(),
                all_sum: SendWrapper::new(Rc::clone(&context.all_sum)),
            }),
        })
    }

    /// Moves the running moments of the scenarios that have a spread in this batch, with the unbiased variance.
    fn update_running(&self, sums: &Sums) -> crate::Result<()> {
        let (mut mean, mut variance, mut known) = (self.mean.get(), self.variance.get(), self.known.get());
        let groups = self.scenarios + 1;
        let parts = (0..groups).map(|group| group..group + 1).chain(std::iter::once(0..groups));
        for (row, part) in parts.enumerate() {
            let rows = sums.rows(part.clone());
            if rows < 2.0 {
                continue;
            }
            let moved = |old: f32, new: f64| (f64::from(old) * (1.0 - MOMENTUM) + MOMENTUM * new) as f32;
            for (i, (new_mean, new_variance)) in sums.moments(part).into_iter().enumerate() {
                let at = row * self.width + i;
                mean[at] = moved(mean[at], new_mean);
                variance[at] = moved(variance[at], new_variance * rows / (rows - 1.0));
            }
            known[row] = 1.0;
        }
        self.mean.set(&mean)?;
        self.variance.set(&variance)?;
        self.known.set(&known)
    }
}

/// Sums over the present rows of each scenario of the global batch.
struct Sums {
    /// `[groups, 2 · width + 1]`: Σx, then Σx², then the number of rows.
    values: Vec<f64>,
    width: usize,
}

impl Sums {
    fn of_batch(
        x: &[f32],
        scenarios: &[u32],
        present: &[f32],
        (groups, width): (usize, usize),
        all_sum: &dyn AllSum,
    ) -> crate::Result<Self> {
        let stride = 2 * width + 1;
        let mut values = parallel::sums(present.len(), groups * stride, x.len(), |row, sums: &mut [f64]| {
            if present[row] != 0.0 {
                let sums = &mut sums[scenarios[row] as usize * stride..][..stride];
                for (i, &v) in x[row * width..(row + 1) * width].iter().enumerate() {
                    sums[i] += f64::from(v);
                    sums[width + i] += f64::from(v) * f64::from(v);
                }
                sums[2 * width] += 1.0;
            }
        });
        all_sum.all_sum(&mut values)?;
        Ok(Self { values, width })
    }

    /// The sum over some scenarios of what stands at `place`.
    fn sum(&self, groups: std::ops::Range<usize>, place: usize) -> f64 {
        groups.map(|group| self.values[group * (2 * self.width + 1) + place]).sum()
    }

    fn rows(&self, groups: std::ops::Range<usize>) -> f64 {
        self.sum(groups, 2 * self.width)
    }

    /// Mean and variance of each column over some scenarios.
    fn moments(&self, groups: std::ops::Range<usize>) -> Vec<(f64, f64)> {
        let n = self.rows(groups.clone()).max(1.0);
        let column = |i| {
            let mean = self.sum(groups.clone(), i) / n;
            let spread = self.sum(groups.clone(), self.width + i) / n - mean * mean;
            // `max` would turn the NaN of a broken input into a harmless 0.
            (mean, if spread >= 0.0 || spread.is_nan() { spread } else { 0.0 })
        };
        (0..self.width).map(column).collect()
    }
}

struct Op {
    width: usize,
    scenarios: Arc<[u32]>,
    /// `[S + 1, d]` each.
    mean: Vec<f32>,
    inverse: Vec<f32>,
    /// In training, what couples the rows; in evaluation the moments are constants.
    coupling: Option<Coupling>,
}

struct Coupling {
    /// Of each scenario.
    rows: Vec<f64>,
    present: Vec<f32>,
    all_sum: SendWrapper<Rc<dyn AllSum>>,
}

impl Op {
    fn is_present(&self, row: usize) -> bool {
        self.coupling.as_ref().is_none_or(|c| c.present[row] != 0.0)
    }

    /// Where the row's scenario stands in tables of `[S + 1, d]`.
    fn group(&self, row: usize) -> std::ops::Range<usize> {
        let group = self.scenarios[row] as usize;
        group * self.width..(group + 1) * self.width
    }

    /// x̂ of column `i` of a row.
    fn hat(&self, x: f32, group: usize, i: usize) -> f32 {
        (x - self.mean[group + i]) * self.inverse[group + i]
    }
}

impl Describe for Op {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        if self.coupling.is_some() {
            return only_in_training("partitioned-norm");
        }
        let [x, scale, shift] = exactly(inputs)?;
        let dims = [self.mean.len() / self.width.max(1), self.width];
        let (mean, inverse) = (self.mean.clone(), self.inverse.clone());
        let tables = [program.constant(&dims, mean), program.constant(&dims, inverse), scale, shift];
        let scenarios = program.scenarios();
        let [mean, inverse, scale, shift] = tables.map(|table| program.gather(table, scenarios));
        let centred = program.sub(x, mean);
        let hat = program.mul(centred, inverse);
        let scaled = program.mul(hat, scale);
        Ok(program.add(scaled, shift))
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "partitioned-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = self.width;
        let (x, scale, shift) = (slice(x, x_layout)?, slice(scale, scale_layout)?, slice(shift, shift_layout)?);
        if scale.len() != self.mean.len() || shift.len() != self.mean.len() {
            return Err(Error::Msg(format!("{} scales for {} moments", scale.len(), self.mean.len())));
        }
        let mut y = x.to_vec();
        parallel::rows(&mut y, width, |row, y| {
            let group = self.group(row);
            let scales = scale[group.clone()].iter().zip(&shift[group.clone()]);
            for (i, (y, (g, b))) in y.iter_mut().zip(scales).enumerate() {
                *y = g * self.hat(*y, group.start, i) + b;
            }
        });
        floats::stored(y, x_layout.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = self.width;
        let dy = dy.contiguous()?;
        let (x_values, gamma, dy) = (Floats::of(x)?, Floats::of(scale)?, Floats::of(&dy)?);
        let size = self.mean.len();
        // One vector holds Σ dy of each scenario, then Σ dy ⊙ x̂.
        let local = parallel::sums(self.scenarios.len(), 2 * size, dy.len(), |row, sums: &mut [f64]| {
            if self.is_present(row) {
                let group = self.group(row).start;
                for i in 0..width {
                    let (dy, x) = (dy[row * width + i], x_values[row * width + i]);
                    sums[group + i] += f64::from(dy);
                    sums[size + group + i] += f64::from(dy * self.hat(x, group, i));
                }
            }
        });
        let means = self.global_means(&local)?;
        let mut dx = vec![0.0; dy.len()];
        parallel::rows(&mut dx, width, |row, dx| {
            if self.is_present(row) {
                let group = self.group(row).start;
                for (i, dx) in dx.iter_mut().enumerate() {
                    let (at, of) = (row * width + i, group + i);
                    let coupled = means[of] + self.hat(x_values[at], group, i) * means[size + of];
                    *dx = gamma[of] * self.inverse[of] * (dy[at] - coupled);
                }
            }
        });
        let to_f32 = |sums: &[f64]| -> Vec<f32> { sums.iter().map(|&s| s as f32).collect() };
        Ok((
            Some(floats::tensor(dx, x.dims())?),
            Some(floats::tensor(to_f32(&local[size..]), scale.dims())?),
            Some(floats::tensor(to_f32(&local[..size]), shift.dims())?),
        ))
    }
}

impl Op {
    /// Σ_global dy / n_s, then Σ_global (dy ⊙ x̂) / n_s; zero where the moments are constants.
    fn global_means(&self, local: &[f64]) -> candle_core::Result<Vec<f32>> {
        let Some(coupling) = &self.coupling else {
            return Ok(vec![0.0; local.len()]);
        };
        let mut sums = local.to_vec();
        coupling.all_sum.all_sum(&mut sums).map_err(Error::wrap)?;
        let rows = |at: usize| coupling.rows[at / self.width.max(1) % coupling.rows.len()].max(1.0);
        Ok(sums.iter().enumerate().map(|(at, sum)| (sum / rows(at)) as f32).collect())
    }
}

#[cfg(test)]
mod tests;
