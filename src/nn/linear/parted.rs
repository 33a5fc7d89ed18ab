//! The three products of a layer whose input is [parted](super::super::repeats): blocks by distinct row, the rest as ever.

use super::super::gemm::{Matrix, Precision, multiplied, multiply, multiply_add};
use super::super::parallel;
use super::super::repeats::{Block, Parted};
use crate::simd;
use rayon::prelude::*;
use std::ops::Range;

/// Columns of the output that are computed at a time: few enough that the blocks' results for them stay near the core, as
/// many as fit in its registers.
const PANEL: usize = 64;

impl Parted {
    /// x · W `[rows, output]` of `weight` `[width, output]`.
    pub(super) fn product(&self, weight: &[f32], output: usize) -> Vec<f32> {
        let rest = self.rest_width();
        let rest_weight = self.rest_rows(weight, output);
        let factors = (self.rest_matrix(), Matrix::new(&rest_weight, rest, output, output));
        let mut y = multiplied(Precision::F32, self.rows, &[factors]);
        for panel in panels(output) {
            let results: Vec<_> =
                self.blocks.par_iter().map(|block| block.product(weight, output, panel.clone())).collect();
            parallel::rows(
                &mut y,
                output,
                #[inline(always)]
                |row, y| {
                    let of_block = self.blocks.iter().zip(&results).map(
                        #[inline(always)]
                        |(block, result)| nth(result, block.index[row], panel.len()),
                    );
                    add_rows(&mut y[panel.clone()], of_block);
                },
            );
        }
        y
    }

    /// dW `[width, output]` of `dz` `[rows, output]`.
    pub(super) fn weight_gradient(&self, dz: &[f32], output: usize) -> Vec<f32> {
        let rest = self.rest_width();
        let mut of_rest = vec![0.0; rest * output];
        let dz_matrix = Matrix::new(dz, self.rows, output, output);
        multiply(Precision::F32, &mut of_rest, output, self.rest_matrix().t(), dz_matrix);
        let of_blocks = self.of_sums(
            dz,
            output,
            |block| block.columns.len() * output,
            |block, panel, sums, dw| {
                let (values, sums) = (block.matrix(), Matrix::new(sums, block.distinct(), panel.len(), panel.len()));
                multiply(Precision::F32, &mut dw[panel.start..], output, values.t(), sums);
            },
        );

        let mut dw = vec![0.0; self.width * output];
        let mut from = of_rest.as_slice();
        for columns in &self.rest {
            let (rows, others) = from.split_at(columns.len() * output);
            dw[columns.start * output..columns.end * output].copy_from_slice(rows);
            from = others;
        }
        for (block, rows) in self.blocks.iter().zip(&of_blocks) {
            dw[block.columns.start * output..block.columns.end * output].copy_from_slice(rows);
        }
        dw
    }

    /// Adds dz · Wᵀ to `dx` `[rows, width]`: in a block, the sum over equal rows to the first of them.
    pub(in super::super) fn add_input_gradient(&self, dz: &[f32], weight: &[f32], output: usize, dx: &mut [f32]) {
        let rest = self.rest_width();
        let rest_weight = self.rest_rows(weight, output);
        let factors = (Matrix::new(dz, self.rows, output, output), Matrix::new(&rest_weight, rest, output, output).t());
        let of_rest = multiplied(Precision::F32, self.rows, &[factors]);
        let of_blocks = self.of_sums(
            dz,
            output,
            |block| block.values.len(),
            |block, panel, sums, dx| {
                let columns = block.columns.len();
                let sums = Matrix::new(sums, block.distinct(), panel.len(), panel.len());
                let weight =
                    Matrix::new(&weight[block.columns.start * output + panel.start..], columns, panel.len(), output);
                multiply_add(Precision::F32, dx, columns, sums, weight.t());
            },
        );

        parallel::rows(
            dx,
            self.width,
            #[inline(always)]
            |row, dx| {
                let mut from = &of_rest[row * rest..][..rest];
                for columns in &self.rest {
                    let (own, others) = from.split_at(columns.len());
                    dx[columns.clone()].iter_mut().zip(own).for_each(|(dx, own)| *dx += own);
                    from = others;
                }
            },
        );
        for (block, of_block) in self.blocks.iter().zip(&of_blocks) {
            for (&row, own) in block.first.iter().zip(of_block.chunks_exact(block.columns.len())) {
                let dx = &mut dx[row as usize * self.width..][block.columns.clone()];
                dx.iter_mut().zip(own).for_each(|(dx, own)| *dx += own);
            }
        }
    }

    fn rest_matrix(&self) -> Matrix<'_> {
        let width = self.rest_width();
        Matrix::new(&self.rest_values, self.rows, width, width)
    }

    /// Calls `take(block, panel, sums of dz over equal rows, result)` for all blocks and panels; a block's result has `len`
    /// numbers, zero at first.
    fn of_sums(
        &self,
        dz: &[f32],
        output: usize,
        len: impl Fn(&Block) -> usize,
        take: impl Fn(&Block, Range<usize>, &[f32], &mut [f32]) + Sync,
    ) -> Vec<Vec<f32>> {
        let mut results: Vec<Vec<f32>> = self.blocks.iter().map(|block| vec![0.0; len(block)]).collect();
        // Panel by panel, so that all blocks find it in the cache.
        for panel in panels(output) {
            self.blocks.par_iter().zip(&mut results).for_each(|(block, result)| {
                take(block, panel.clone(), &block.sums(dz, output, panel.clone()), result);
            });
        }
        results
    }
}

impl Block {
    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.values, self.distinct(), self.columns.len(), self.columns.len())
    }

    /// Some columns of e · W.
    fn product(&self, weight: &[f32], output: usize, panel: Range<usize>) -> Vec<f32> {
        let columns = self.columns.len();
        let weight = Matrix::new(&weight[self.columns.start * output + panel.start..], columns, panel.len(), output);
        multiplied(Precision::F32, self.distinct(), &[(self.matrix(), weight)])
    }

    /// Some columns of dz, summed over equal rows.
    fn sums(&self, dz: &[f32], output: usize, panel: Range<usize>) -> Vec<f32> {
        let mut sums = vec![0.0; self.distinct() * panel.len()];
        simd::widest(
            #[inline(always)]
            || {
                for (distinct, sum) in sums.chunks_exact_mut(panel.len()).enumerate() {
                    let equal = self.rows_of(distinct).iter().map(
                        #[inline(always)]
                        |&row| &dz[row as usize * output..][panel.clone()],
                    );
                    add_rows(sum, equal);
                }
            },
        );
        sums
    }
}

fn panels(output: usize) -> impl Iterator<Item = Range<usize>> {
    (0..output).step_by(PANEL).map(move |start| start..(start + PANEL).min(output))
}

#[inline(always)]
fn nth(rows: &[f32], row: u32, width: usize) -> &[f32] {
    &rows[row as usize * width..][..width]
}

/// Adds `rows`, each as long as `sum`.
#[inline(always)]
fn add_rows<'a>(sum: &mut [f32], rows: impl Iterator<Item = &'a [f32]>) {
    let Ok(panel) = <&mut [f32; PANEL]>::try_from(&mut *sum) else {
        for row in rows {
            sum.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
        }
        return;
    };
    // A sum whose width the compiler knows stays in registers.
    let mut inside = *panel;
    for row in rows {
        for (sum, number) in inside.iter_mut().zip(&row[..PANEL]) {
            *sum += number;
        }
    }
    *panel = inside;
}
