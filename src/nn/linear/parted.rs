//! The three products of a layer whose input is [parted](super::super::repeats): blocks by distinct row, the rest as ever.

use super::super::gemm::{Matrix, Precision, multiplied, multiply, multiply_add};
use super::super::mix::{add, add_scaled};
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

    /// dW `[width, output]` of `dz` `[rows, output]`, and of each block the sums of dx over equal rows,
    /// `[distinct, columns]`. Both start from the same sums of dz.
    pub(super) fn gradients(&self, dz: &[f32], weight: &[f32], output: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
        let of_blocks = self.by_sums(
            (dz, output),
            |block| (block.zeros(output), block.input_zeros()),
            |block, sums, panel, (dw, dx)| {
                block.weight_gradient(sums, output, panel.clone(), dw);
                block.add_input_gradient(sums, (weight, output), panel, dx);
            },
        );
        let (dw, dx): (Vec<_>, Vec<_>) = of_blocks.into_iter().unzip();
        (self.with_rest(dz, output, &dw), dx)
    }

    /// The dW of [`Parted::gradients`].
    pub(super) fn weight_gradient(&self, dz: &[f32], output: usize) -> Vec<f32> {
        let of_blocks = self.by_sums(
            (dz, output),
            |block| block.zeros(output),
            |block, sums, panel, dw| block.weight_gradient(sums, output, panel, dw),
        );
        self.with_rest(dz, output, &of_blocks)
    }

    /// The sums of dx of [`Parted::gradients`].
    pub(in super::super) fn input_gradients(&self, dz: &[f32], weight: &[f32], output: usize) -> Vec<Vec<f32>> {
        self.by_sums((dz, output), Block::input_zeros, |block, sums, panel, dx| {
            block.add_input_gradient(sums, (weight, output), panel, dx)
        })
    }

    /// What `f` makes, of each block, of what `start` gives: panel by panel with the sums of dz over equal rows.
    fn by_sums<T: Send>(
        &self,
        (dz, output): (&[f32], usize),
        start: impl Fn(&Block) -> T,
        f: impl Fn(&Block, &[f32], Range<usize>, &mut T) + Sync,
    ) -> Vec<T> {
        let mut of_blocks: Vec<T> = self.blocks.iter().map(start).collect();
        for panel in panels(output) {
            // For all blocks, near the core: where it stands, its rows are so far apart that a cache holds few of them.
            let dz = columns_of(dz, output, panel.clone());
            self.blocks.par_iter().zip(&mut of_blocks).for_each_with(Vec::new(), |sums, (block, of_block)| {
                block.sum(&dz, panel.len(), sums);
                f(block, sums, panel.clone(), of_block);
            });
        }
        of_blocks
    }

    /// dW, of which the rows of blocks are at hand.
    fn with_rest(&self, dz: &[f32], output: usize, of_blocks: &[Vec<f32>]) -> Vec<f32> {
        let factors = (self.rest_matrix().t(), Matrix::new(dz, self.rows, output, output));
        let of_rest = multiplied(Precision::F32, self.rest_width(), &[factors]);
        let mut dw = vec![0.0; self.width * output];
        let mut from = of_rest.as_slice();
        for columns in &self.rest {
            let (rows, others) = from.split_at(columns.len() * output);
            dw[columns.start * output..columns.end * output].copy_from_slice(rows);
            from = others;
        }
        for (block, rows) in self.blocks.iter().zip(of_blocks) {
            dw[block.columns.start * output..block.columns.end * output].copy_from_slice(rows);
        }
        dw
    }

    /// Adds `factor` times the blocks' part of dx, from [`Parted::gradients`]: the sum over equal rows to the first of them.
    pub(in super::super) fn add_blocks(&self, factor: f32, of_blocks: &[Vec<f32>], dx: &mut [f32]) {
        for (block, of_block) in self.blocks.iter().zip(of_blocks) {
            for (&row, sums) in block.first.iter().zip(of_block.chunks_exact(block.columns.len())) {
                add_scaled(&mut dx[row as usize * self.width..][block.columns.clone()], factor, sums);
            }
        }
    }

    /// Adds dz · Wᵀ to those columns of `dx` `[rows, width]` that are in no block.
    pub(in super::super) fn add_rest(&self, dz: &[f32], weight: &[f32], output: usize, dx: &mut [f32]) {
        let rest = self.rest_width();
        let rest_weight = self.rest_rows(weight, output);
        let factors = (Matrix::new(dz, self.rows, output, output), Matrix::new(&rest_weight, rest, output, output).t());
        let of_rest = multiplied(Precision::F32, self.rows, &[factors]);
        parallel::rows(
            dx,
            self.width,
            #[inline(always)]
            |row, dx| {
                let mut from = &of_rest[row * rest..][..rest];
                for columns in &self.rest {
                    let (own, others) = from.split_at(columns.len());
                    add(&mut dx[columns.clone()], own);
                    from = others;
                }
            },
        );
    }

    fn rest_matrix(&self) -> Matrix<'_> {
        let width = self.rest_width();
        Matrix::new(&self.rest_values, self.rows, width, width)
    }
}

impl Block {
    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.values, self.distinct(), self.columns.len(), self.columns.len())
    }

    /// Some columns of e · W.
    fn product(&self, weight: &[f32], output: usize, panel: Range<usize>) -> Vec<f32> {
        let weight = self.weight(weight, output, panel);
        multiplied(Precision::F32, self.distinct(), &[(self.matrix(), weight)])
    }

    /// Room for dW.
    fn zeros(&self, output: usize) -> Vec<f32> {
        vec![0.0; self.columns.len() * output]
    }

    /// Room for the sums of dx.
    fn input_zeros(&self) -> Vec<f32> {
        vec![0.0; self.values.len()]
    }

    /// The rows of dz, of `width` columns, summed over equal rows: the first numbers of `sums` then.
    fn sum(&self, dz: &[f32], width: usize, sums: &mut Vec<f32>) {
        let len = self.distinct() * width;
        // What other blocks left there is written over.
        sums.resize(len.max(sums.len()), 0.0);
        simd::widest(
            #[inline(always)]
            || {
                for (distinct, sum) in sums[..len].chunks_exact_mut(width).enumerate() {
                    let mut equal = self.rows_of(distinct).iter().map(
                        #[inline(always)]
                        |&row| nth(dz, row, width),
                    );
                    if let Some(first) = equal.next() {
                        sum.copy_from_slice(first);
                    }
                    add_rows(sum, equal);
                }
            },
        );
    }

    /// Writes a panel of dW.
    fn weight_gradient(&self, sums: &[f32], output: usize, panel: Range<usize>, dw: &mut [f32]) {
        let sums = self.sums_matrix(sums, panel.len());
        multiply(Precision::F32, &mut dw[panel.start..], output, self.matrix().t(), sums);
    }

    /// Adds a panel's part to the sums of dx.
    fn add_input_gradient(&self, sums: &[f32], weight: (&[f32], usize), panel: Range<usize>, dx: &mut [f32]) {
        let sums = self.sums_matrix(sums, panel.len());
        multiply_add(Precision::F32, dx, self.columns.len(), sums, self.weight(weight.0, weight.1, panel).t());
    }

    fn sums_matrix<'a>(&self, sums: &'a [f32], width: usize) -> Matrix<'a> {
        Matrix::new(sums, self.distinct(), width, width)
    }

    /// Some columns of the rows of `weight` that are the block's.
    fn weight<'a>(&self, weight: &'a [f32], output: usize, panel: Range<usize>) -> Matrix<'a> {
        Matrix::new(&weight[self.columns.start * output + panel.start..], self.columns.len(), panel.len(), output)
    }
}

fn panels(output: usize) -> impl Iterator<Item = Range<usize>> {
    (0..output).step_by(PANEL).map(move |start| start..(start + PANEL).min(output))
}

/// Some columns of a matrix.
fn columns_of(matrix: &[f32], width: usize, columns: Range<usize>) -> Vec<f32> {
    parallel::new_rows(
        matrix.len() / width,
        columns.len(),
        #[inline(always)]
        |row, out| out.copy_from_slice(&matrix[row * width..][columns.clone()]),
    )
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
            add(sum, row);
        }
        return;
    };
    // A sum whose width the compiler knows stays in registers.
    let mut inside = *panel;
    for row in rows {
        add(&mut inside, &row[..PANEL]);
    }
    *panel = inside;
}
