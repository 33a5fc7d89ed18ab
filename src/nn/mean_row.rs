//! A table of scenarios with one more row: the mean of the others, for "other".
//!
//! ```text
//! table  [S, d]    y  [S + 1, d]    y_s = table_s, y_S = Σ_s table_s / S    dtable_s = dy_s + dy_S / S
//! ```

use super::floats::{self, Floats, slice};
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel};
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};

/// `table` `[S, d]` and below it the mean of its rows: `[S + 1, d]`.
pub fn with_mean_row(table: &Tensor, context: &Context) -> crate::Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(plain(table)?);
    }
    context.graph.one(&table.contiguous()?, MeanRow)
}

/// In candle's own operations.
fn plain(table: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[table, &table.mean_keepdim(0)?], 0)
}

struct MeanRow;

impl MeanRow {
    fn sizes(table: &[usize]) -> Result<(usize, usize)> {
        match table {
            &[scenarios, width] if scenarios > 0 => Ok((scenarios, width)),
            _ => Err(Error::Msg(format!("the mean row of {table:?}"))),
        }
    }
}

impl Describe for MeanRow {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        let [table] = exactly(inputs)?;
        let mean = program.mean(table, 0);
        Ok(program.concat(&[table, mean], 0))
    }
}

impl CustomOp1 for MeanRow {
    fn name(&self) -> &'static str {
        "mean-row"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (scenarios, width) = Self::sizes(layout.dims())?;
        let mut y = slice(table, layout)?.to_vec();
        let mut mean = vec![0.0; width];
        for row in y.chunks_exact(width.max(1)) {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / scenarios as f32);
        }
        y.extend(mean);
        floats::stored(y, (scenarios + 1, width))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (scenarios, width) = Self::sizes(table.dims())?;
        let dy = dy.contiguous()?;
        let dy = Floats::of(&dy)?;
        let (each, of_mean) = dy.split_at(scenarios * width);
        let mut dtable = each.to_vec();
        parallel::rows(&mut dtable, width, |_, row| {
            row.iter_mut().zip(of_mean).for_each(|(row, dy)| *row += dy / scenarios as f32);
        });
        Ok(Some(floats::tensor(dtable, table.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for shape in [[1, 1], [3, 5], [40, 9]] {
            let t = [random(&shape, 1)];
            check_gradients(&t, |t| t[0].apply_op1(MeanRow));
            check_matches(&t, |t| t[0].apply_op1(MeanRow), |t| plain(&t[0]));
        }
        assert!(with_mean_row(&random(&[0, 3], 1), &context(true, 1)).is_err());
    }
}
