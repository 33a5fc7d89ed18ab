//! Scores of pairs of embeddings, and their margins over drawn ones: all there is of matrix factorisation.

use super::floats::{self, Floats, slice};
use super::mix::{add_scaled, dot};
use super::program::{Describe, Program, Value, exactly, only_in_training};
use super::{Context, Kernels, parallel, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Shape, Tensor};

/// Where the two embeddings of a pair stand among the columns of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// First column of the left one (l).
    pub left: usize,
    /// First column of the right one (r).
    pub right: usize,
    /// Columns of each (d).
    pub width: usize,
}

/// ⟨l, r⟩ of each row of `x` `[B, columns]`: `[B, 1]`.
pub fn pair_score(x: &Tensor, sides: Sides, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::pair_score(x, sides)?);
    }
    context.graph.one(&x.contiguous()?, Score(sides))
}

/// ⟨l, r⟩ − ⟨l, n_j⟩ of each row of `x` `[B, columns]` and its embeddings n_1 … n_N, `drawn` `[B, N, d]`: `[B, N]`.
pub fn pair_margin(x: &Tensor, drawn: &Tensor, sides: Sides, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::pair_margin(x, drawn, sides)?);
    }
    context.graph.two(&x.contiguous()?, &drawn.contiguous()?, Margin(sides))
}

impl Sides {
    /// Checks that rows of `columns` numbers have both.
    fn check(self, columns: usize) -> candle_core::Result<()> {
        match self.left.max(self.right) + self.width <= columns {
            true => Ok(()),
            false => Err(Error::Msg(format!("{self:?} in rows of {columns} columns"))),
        }
    }

    fn left(self, row: &[f32]) -> &[f32] {
        &row[self.left..][..self.width]
    }

    fn right(self, row: &[f32]) -> &[f32] {
        &row[self.right..][..self.width]
    }
}

struct Score(Sides);

impl Describe for Score {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x] = exactly(inputs)?;
        let Sides { left, right, width } = self.0;
        let (left, right) = (program.narrow(x, 1, left, width), program.narrow(x, 1, right, width));
        let products = program.mul(left, right);
        Ok(program.sum(products, 1))
    }
}

impl CustomOp1 for Score {
    fn name(&self) -> &'static str {
        "pair-score"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, columns) = floats::rows_of(layout.dims());
        self.0.check(columns)?;
        let x = slice(x, layout)?;
        let mut y = vec![0.0; rows];
        parallel::rows(
            &mut y,
            1,
            #[inline(always)]
            |row, y| {
                let x = &x[row * columns..][..columns];
                y[0] = dot(self.0.left(x), self.0.right(x));
            },
        );
        floats::stored(y, (rows, 1))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (rows, columns) = floats::rows_of(x.dims());
        let (sides, dy) = (self.0, dy.contiguous()?);
        let (values, dy) = (Floats::of(x)?, Floats::of(&dy)?);
        let mut dx = vec![0.0; rows * columns];
        parallel::rows(
            &mut dx,
            columns,
            #[inline(always)]
            |row, dx| {
                let x = &values[row * columns..][..columns];
                add_scaled(&mut dx[sides.left..][..sides.width], dy[row], sides.right(x));
                add_scaled(&mut dx[sides.right..][..sides.width], dy[row], sides.left(x));
            },
        );
        Ok(Some(floats::tensor(dx, x.dims())?))
    }
}

struct Margin(Sides);

impl Margin {
    /// `(rows, columns, drawn a row)`.
    fn sizes(&self, x: &[usize], drawn: &[usize]) -> candle_core::Result<(usize, usize, usize)> {
        match (x, drawn) {
            (&[rows, columns], &[rows2, n, width]) if rows == rows2 && width == self.0.width => {
                self.0.check(columns)?;
                Ok((rows, columns, n))
            }
            _ => Err(Error::Msg(format!("margins of {x:?} over {drawn:?}"))),
        }
    }
}

impl Describe for Margin {
    fn describe(&self, _: &mut Program, _: &[Value]) -> Result<Value> {
        only_in_training("pair-margin")
    }
}

impl CustomOp2 for Margin {
    fn name(&self) -> &'static str {
        "pair-margin"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        drawn: &CpuStorage,
        drawn_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, columns, n) = self.sizes(x_layout.dims(), drawn_layout.dims())?;
        let (x, drawn) = (slice(x, x_layout)?, slice(drawn, drawn_layout)?);
        let width = self.0.width;
        let mut y = vec![0.0; rows * n];
        parallel::rows(
            &mut y,
            n,
            #[inline(always)]
            |row, y| {
                let x = &x[row * columns..][..columns];
                let score = dot(self.0.left(x), self.0.right(x));
                for (j, y) in y.iter_mut().enumerate() {
                    *y = score - dot(self.0.left(x), &drawn[(row * n + j) * width..][..width]);
                }
            },
        );
        floats::stored(y, (rows, n))
    }

    fn bwd(
        &self,
        x: &Tensor,
        drawn: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, columns, n) = self.sizes(x.dims(), drawn.dims())?;
        let (sides, width, dy) = (self.0, self.0.width, dy.contiguous()?);
        let (values, others, dy) = (Floats::of(x)?, Floats::of(drawn)?, Floats::of(&dy)?);
        let (mut dx, mut dn) = (vec![0.0; rows * columns], vec![0.0; rows * n * width]);
        parallel::row_pairs(
            &mut dx,
            &mut dn,
            (columns, n * width),
            #[inline(always)]
            |row, dx, dn| {
                let (x, dy) = (&values[row * columns..][..columns], &dy[row * n..][..n]);
                let (left, right) = (sides.left(x), sides.right(x));
                for (j, (&dy, dn)) in dy.iter().zip(dn.chunks_exact_mut(width)).enumerate() {
                    let other = &others[(row * n + j) * width..][..width];
                    add_scaled(&mut dx[sides.left..][..width], dy, right);
                    add_scaled(&mut dx[sides.left..][..width], -dy, other);
                    add_scaled(&mut dx[sides.right..][..width], dy, left);
                    add_scaled(dn, -dy, left);
                }
            },
        );
        Ok((Some(floats::tensor(dx, x.dims())?), Some(floats::tensor(dn, drawn.dims())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_gradients, check_matches, context, random};
    use super::*;

    /// Sides apart, side by side, and the very same columns.
    const SIDES: [Sides; 3] = [
        Sides { left: 1, right: 12, width: 9 },
        Sides { left: 9, right: 0, width: 9 },
        Sides { left: 2, right: 2, width: 9 },
    ];

    #[test]
    fn scores_match_differences_and_plain_operations() {
        for (rows, sides) in [1, 5, 2000].into_iter().flat_map(|rows| SIDES.map(|sides| (rows, sides))) {
            let inputs = [random(&[rows, 22], 1)];
            let fused = |t: &[Tensor]| Ok(pair_score(&t[0], sides, &context(true, rows)).unwrap());
            check_gradients(&inputs, fused);
            check_matches(&inputs, fused, |t| reference::pair_score(&t[0], sides));
        }
    }

    #[test]
    fn margins_match_differences_and_plain_operations() {
        for (rows, n, sides) in [(1, 1), (5, 3), (900, 4)].into_iter().flat_map(|(b, n)| SIDES.map(|s| (b, n, s))) {
            let inputs = [random(&[rows, 22], 1), random(&[rows, n, 9], 2)];
            let fused = |t: &[Tensor]| Ok(pair_margin(&t[0], &t[1], sides, &context(true, rows)).unwrap());
            check_gradients(&inputs, fused);
            check_matches(&inputs, fused, |t| reference::pair_margin(&t[0], &t[1], sides));
        }
    }

    #[test]
    fn sides_outside_the_columns_are_refused() {
        let sides = Sides { left: 0, right: 3, width: 2 };
        let at = context(true, 2);
        assert!(pair_score(&random(&[2, 4], 1), sides, &at).is_err());
        assert!(pair_margin(&random(&[2, 4], 1), &random(&[2, 1, 2], 2), sides, &at).is_err());
        assert!(pair_margin(&random(&[2, 5], 1), &random(&[2, 1, 3], 2), sides, &at).is_err());
    }
}
