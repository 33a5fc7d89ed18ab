//! Fields of a row, each multiplied by its own importance.

use super::floats::{self, Floats, slice};
use super::mix::dot;
use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, parallel, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Shape, Tensor};
use std::sync::Arc;

/// y_f = 2 · gate_f · x_f for each field f of `widths[f]` columns side by side in `x` `[B, Σ widths]`, with `gate`
/// `[B, F]`: the excitation of a squeeze-and-excitation network (Hu et al., CVPR 2018, eq. 4), twice, so that a gate of
/// σ(0) = ½ leaves the row as it is.
pub fn rescale(x: &Tensor, gate: &Tensor, widths: &Arc<[usize]>, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::rescale(x, gate, widths)?);
    }
    context.graph.two(&x.contiguous()?, &gate.contiguous()?, Rescale(widths.clone()))
}

struct Rescale(Arc<[usize]>);

impl Describe for Rescale {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x, gate] = exactly(inputs)?;
        let columns = self.0.iter().sum();
        let mut of_columns = vec![0.0; self.0.len() * columns];
        for (start, width, field) in self.fields() {
            of_columns[field * columns + start..][..width].fill(2.0);
        }
        let of_columns = program.constant(&[self.0.len(), columns], of_columns);
        let factors = program.matmul(gate, of_columns);
        Ok(program.mul(x, factors))
    }
}

impl Rescale {
    /// `(columns, fields)`.
    fn sizes(&self, x: &[usize], gate: &[usize]) -> candle_core::Result<(usize, usize)> {
        match (x, gate) {
            (&[rows, columns], &[same, fields])
                if rows == same && fields == self.0.len() && columns == self.0.iter().sum::<usize>() =>
            {
                Ok((columns, fields))
            }
            _ => Err(Error::Msg(format!("gates {gate:?} for {x:?} in {} fields", self.0.len()))),
        }
    }

    /// First column, width and number of each field.
    fn fields(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let starts = self.0.iter().scan(0, |end, &width| {
            *end += width;
            Some(*end - width)
        });
        starts.zip(self.0.iter()).enumerate().map(|(field, (start, &width))| (start, width, field))
    }
}

impl CustomOp2 for Rescale {
    fn name(&self) -> &'static str {
        "rescale"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gate: &CpuStorage,
        gate_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (columns, fields) = self.sizes(x_layout.dims(), gate_layout.dims())?;
        let gate = slice(gate, gate_layout)?;
        let mut y = slice(x, x_layout)?.to_vec();
        parallel::rows(
            &mut y,
            columns,
            #[inline(always)]
            |row, y| {
                for (start, width, field) in self.fields() {
                    let factor = 2.0 * gate[row * fields + field];
                    y[start..start + width].iter_mut().for_each(|y| *y *= factor);
                }
            },
        );
        floats::stored(y, x_layout.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (columns, fields) = self.sizes(x.dims(), gate.dims())?;
        let dy = dy.contiguous()?;
        let (values, gates, dy) = (Floats::of(x)?, Floats::of(gate)?, Floats::of(&dy)?);
        let (mut dx, mut dgate) = (dy.to_vec(), vec![0.0; gates.len()]);
        parallel::row_pairs(
            &mut dx,
            &mut dgate,
            (columns, fields),
            #[inline(always)]
            |row, dx, dgate| {
                let (x, gates) = (&values[row * columns..][..columns], &gates[row * fields..][..fields]);
                for (start, width, field) in self.fields() {
                    let dx = &mut dx[start..start + width];
                    dgate[field] = 2.0 * dot(&x[start..start + width], dx);
                    dx.iter_mut().for_each(|dx| *dx *= 2.0 * gates[field]);
                }
            },
        );
        Ok((Some(floats::tensor(dx, x.dims())?), Some(floats::tensor(dgate, gate.dims())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, numbers, random};
    use super::*;

    #[test]
    fn matches_differences_and_plain_operations() {
        for (rows, widths) in [(1, &[1][..]), (5, &[3, 1, 4]), (4, &[1, 1, 1]), (600, &[16, 16, 5, 1])] {
            let at = context(true, rows);
            let widths: Arc<[usize]> = widths.into();
            let inputs = [random(&[rows, widths.iter().sum()], 1), random(&[rows, widths.len()], 2)];
            let fused = |t: &[Tensor]| Ok(rescale(&t[0], &t[1], &widths, &at).unwrap());
            check_gradients(&inputs, fused);
            check_matches(&inputs, fused, |t| reference::rescale(&t[0], &t[1], &widths));
        }
    }

    #[test]
    fn a_gate_of_one_half_is_the_identity_and_others_do_not_fit() {
        let (widths, at): (Arc<[usize]>, _) = ([2, 3].as_slice().into(), context(true, 4));
        let (x, gate) = (random(&[4, 5], 1), (random(&[4, 2], 2).zeros_like().unwrap() + 0.5).unwrap());
        assert_eq!(numbers(&rescale(&x, &gate, &widths, &at).unwrap()), numbers(&x));
        assert!(rescale(&x, &random(&[4, 3], 1), &widths, &at).is_err());
        assert!(rescale(&random(&[4, 6], 1), &gate, &widths, &at).is_err());
    }
}
