//! Rows of a table with one row for each scenario.
//!
//! ```text
//! table      [S + 1, d]     the last row is that of "other"
//! scenarios  [B]            the number of each row's scenario
//! y          [B, d]         y_b = table[scenario_b]        dtable_s = Σ of dy_b with scenario_b = s
//! ```

use super::floats::{self, Floats, slice};
use super::program::{Describe, Primitive, Program, Value, exactly};
use super::{Context, Kernels, parallel};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Error, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// The row of `table` `[S + 1, d]` for each of `scenarios`: `[B, d]`.
pub fn by_scenario(table: &Tensor, scenarios: &Arc<[u32]>, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(table.index_select(&index(scenarios)?, 0)?);
    }
    context.graph.one(&table.contiguous()?, ByScenario(scenarios.clone()))
}

/// `x` `[B, d]` where a row of it is not all zero, else its scenario's row of `table` `[S + 1, d]`. For what is read and
/// not trained: no gradient goes through.
pub fn or_by_scenario(x: &Tensor, table: &Tensor, scenarios: &Arc<[u32]>, context: &Context) -> crate::Result<Tensor> {
    let (x, table) = (x.detach().contiguous()?, table.detach().contiguous()?);
    if context.kernels == Kernels::Reference {
        let missing = x.abs()?.sum_keepdim(1)?.eq(0.0)?.to_dtype(DType::F32)?;
        return Ok((&x + table.index_select(&index(scenarios)?, 0)?.broadcast_mul(&missing)?)?);
    }
    context.graph.two(&x, &table, OrByScenario(scenarios.clone()))
}

pub(super) fn index(scenarios: &[u32]) -> Result<Tensor> {
    Tensor::from_slice(scenarios, scenarios.len(), &Device::Cpu)
}

/// Rows and columns of the table.
fn check(table: &[usize], scenarios: &[u32]) -> Result<(usize, usize)> {
    match table {
        &[rows, width] if scenarios.iter().all(|&scenario| (scenario as usize) < rows) => Ok((rows, width)),
        _ => Err(Error::Msg(format!("scenarios beyond the rows of a table {table:?}"))),
    }
}

struct ByScenario(Arc<[u32]>);

impl Describe for ByScenario {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [table] = exactly(inputs)?;
        let scenarios = program.scenarios();
        Ok(program.gather(table, scenarios))
    }
}

impl CustomOp1 for ByScenario {
    fn name(&self) -> &'static str {
        "by-scenario"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = check(layout.dims(), &self.0)?;
        let table = slice(table, layout)?;
        let mut y = vec![0.0; self.0.len() * width];
        parallel::rows(&mut y, width, |row, y| y.copy_from_slice(&table[self.0[row] as usize * width..][..width]));
        floats::stored(y, (self.0.len(), width))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (rows, width) = check(table.dims(), &self.0)?;
        let dy = dy.contiguous()?;
        let dy = Floats::of(&dy)?;
        let sums = parallel::sums(self.0.len(), rows * width, dy.len(), |row, sums: &mut [f32]| {
            let sums = &mut sums[self.0[row] as usize * width..][..width];
            sums.iter_mut().zip(&dy[row * width..]).for_each(|(sum, &dy)| *sum += dy);
        });
        Ok(Some(floats::tensor(sums, table.dims())?))
    }
}

struct OrByScenario(Arc<[u32]>);

impl Describe for OrByScenario {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [x, table] = exactly(inputs)?;
        let scenarios = program.scenarios();
        let absolute = program.node(Primitive::Abs, &[x]);
        let sum = program.sum(absolute, 1);
        let known = program.node(Primitive::NotZero, &[sum]);
        let one = program.scalar(1.0);
        let missing = program.sub(one, known);
        let mean = program.gather(table, scenarios);
        let instead = program.mul(mean, missing);
        Ok(program.add(x, instead))
    }
}

impl CustomOp2 for OrByScenario {
    fn name(&self) -> &'static str {
        "or-by-scenario"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = check(table_layout.dims(), &self.0)?;
        if x_layout.dims() != [self.0.len(), width] {
            return Err(Error::Msg(format!("{:?} and a table of {width} columns", x_layout.dims())));
        }
        let (mut y, table) = (slice(x, x_layout)?.to_vec(), slice(table, table_layout)?);
        parallel::rows(&mut y, width, |row, y| {
            if y.iter().all(|&x| x == 0.0) {
                y.copy_from_slice(&table[self.0[row] as usize * width..][..width]);
            }
        });
        floats::stored(y, x_layout.shape().clone())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((None, None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, numbers, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for (rows, width, scenarios) in [(1, 1, vec![0, 0]), (4, 3, vec![3, 1, 1, 0, 3]), (3, 90, vec![2; 500])] {
            let (t, scenarios): (_, Arc<[u32]>) = ([random(&[rows, width], 1)], scenarios.into());
            let fused = |t: &[Tensor]| t[0].apply_op1(ByScenario(scenarios.clone()));
            check_gradients(&t, fused);
            check_matches(&t, fused, |t| t[0].index_select(&index(&scenarios)?, 0));
        }
    }

    #[test]
    fn a_row_of_zeros_is_replaced_by_its_scenarios() {
        let x = Tensor::new(&[[1f32, 0.0], [0.0, 0.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let table = Tensor::new(&[[5f32, 6.0], [7.0, 8.0]], &Device::Cpu).unwrap();
        let scenarios: Arc<[u32]> = [1, 1, 0].into();
        for kernels in [Kernels::Fused, Kernels::Reference] {
            let mut at = context(true, 3);
            at.kernels = kernels;
            let y = or_by_scenario(&x, &table, &scenarios, &at).unwrap();
            assert_eq!(numbers(&y), [1.0, 0.0, 7.0, 8.0, 5.0, 6.0]);
            assert!(!y.track_op());
        }
    }

    #[test]
    fn a_scenario_without_a_row_is_an_error() {
        let scenarios: Arc<[u32]> = [0, 2].into();
        assert!(by_scenario(&random(&[2, 3], 1), &scenarios, &context(true, 2)).is_err());
    }
}
