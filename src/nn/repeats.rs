//! Columns of the model's input in which few distinct rows repeat: the embedding of a feature with few distinct ids in the
//! batch, such as a country, a device or an hour.
//!
//! What a layer computes of such a row it computes once. With x `[B, in]` parted into blocks c of columns, whose rows are those
//! of e_c `[U_c, d]`, and the rest,
//!
//! ```text
//! x_c[b] = e_c[index_c[b]]
//! x · W  = x_rest · W_rest + Σ_c (e_c · W_c)[index_c]        s_c[u] = Σ_{b: index_c[b] = u} dz[b]
//! dW_c   = e_cᵀ · s_c                                        Σ_{b: index_c[b] = u} dx_c[b] = (s_c · W_cᵀ)[u]
//! ```
//!
//! U_c · d · out products and B · out sums take the place of B · d · out products. Only the sum of dx over the rows with one
//! id goes to the id's embedding, so it is given to the first of them, and the others get zero.
//!
//! The algebra is that of factorised learning over joins (Schleich, Olteanu and Ciucanu 2016, "Learning linear regression
//! models over factorized joins"); here the join is the embedding lookup.

use super::floats::Floats;
use crate::error::Result;
use candle_core::Tensor;
use std::ops::Range;

/// A block of columns, and which of its rows are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeats {
    columns: Range<usize>,
    /// The number of each row of the batch among the distinct ones, which are numbered as they first appear.
    index: Vec<u32>,
    /// Where each distinct row stands first.
    first: Vec<u32>,
}

impl Repeats {
    /// Of `columns` whose rows are equal where their `keys` are, which are below `end`. `None` where the distinct rows are too
    /// many to be worth it, which the numbers of rows and columns alone decide.
    pub fn of(columns: Range<usize>, keys: &[u32], end: usize) -> Option<Self> {
        let most = most_distinct(keys.len(), columns.len());
        Self::at_most(most, columns, keys, end)
    }

    /// [`Repeats::of`] with at most `most` distinct rows.
    pub(crate) fn at_most(most: usize, columns: Range<usize>, keys: &[u32], end: usize) -> Option<Self> {
        const UNSEEN: u32 = u32::MAX;
        let (mut numbers, mut first) = (vec![UNSEEN; end], Vec::new());
        let mut index = Vec::with_capacity(keys.len());
        for (row, &key) in keys.iter().enumerate() {
            let number = &mut numbers[key as usize];
            if *number == UNSEEN {
                if first.len() == most {
                    return None;
                }
                *number = first.len() as u32;
                first.push(row as u32);
            }
            index.push(*number);
        }
        Some(Self { columns, index, first })
    }

    /// Its columns.
    #[cfg(test)]
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// For each row, where the row that it repeats stands first.
    #[cfg(test)]
    pub fn firsts(&self) -> impl Iterator<Item = usize> {
        self.index.iter().map(|&number| self.first[number as usize] as usize)
    }
}

/// Most distinct rows of a block that is worth it. For each number of the result a product of `columns` columns takes
/// `columns` multiplications with additions, of which a CPU does many more at a time than it reads numbers from its caches.
/// Measured with 16 columns: the three products of a distinct row take a third longer than of any row, and what is
/// computed by row as long as those of 4 columns.
fn most_distinct(rows: usize, columns: usize) -> usize {
    const BY_ROW: usize = 4;
    rows * columns.saturating_sub(BY_ROW) * 2 / (3 * columns).max(1)
}

/// The input, parted.
#[derive(Debug)]
pub(crate) struct Parted {
    pub rows: usize,
    /// Columns of the input.
    pub width: usize,
    pub blocks: Vec<Block>,
    /// Columns that are in no block.
    pub rest: Vec<Range<usize>>,
    /// Their numbers side by side, `[rows, rest_width]`.
    pub rest_values: Vec<f32>,
}

/// One block.
#[derive(Debug)]
pub(crate) struct Block {
    pub columns: Range<usize>,
    /// Of each row of the batch, its number among the distinct ones.
    pub index: Vec<u32>,
    /// Where each distinct row stands first.
    pub first: Vec<u32>,
    /// The rows of the batch by distinct row, and where those of each begin; the end last.
    by_distinct: Vec<u32>,
    starts: Vec<u32>,
    /// The distinct rows, `[distinct, columns]`.
    pub values: Vec<f32>,
}

impl Parted {
    /// Of the input `x`, whose `repeats` stand in the order of their columns.
    pub fn new(x: &Tensor, repeats: &[Repeats]) -> Result<Self> {
        let (rows, width) = x.dims2()?;
        let x = Floats::of(x)?;
        let blocks: Vec<Block> = repeats.iter().map(|repeats| Block::new(&x, width, repeats)).collect();
        let mut rest = Vec::new();
        let mut end = 0;
        for columns in blocks.iter().map(|block| block.columns.clone()).chain(std::iter::once(width..width)) {
            if columns.start > end {
                rest.push(end..columns.start);
            }
            end = columns.end;
        }
        let mut parted = Self { rows, width, blocks, rest, rest_values: Vec::new() };
        parted.rest_values = parted.rest_of(&x);
        Ok(parted)
    }

    /// Number of columns that are in no block.
    pub fn rest_width(&self) -> usize {
        self.rest.iter().map(Range::len).sum()
    }

    /// The columns of a matrix as wide as the input that are in no block, side by side.
    fn rest_of(&self, matrix: &[f32]) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.rows * self.rest_width());
        for row in matrix.chunks_exact(self.width.max(1)) {
            self.rest.iter().for_each(|columns| values.extend_from_slice(&row[columns.clone()]));
        }
        values
    }

    /// The rows of a matrix `[width, output]` that belong to columns in no block, one below the other.
    pub fn rest_rows(&self, matrix: &[f32], output: usize) -> Vec<f32> {
        let rows = |columns: &Range<usize>| &matrix[columns.start * output..columns.end * output];
        self.rest.iter().flat_map(rows).copied().collect()
    }
}

impl Block {
    fn new(x: &[f32], width: usize, repeats: &Repeats) -> Self {
        let Repeats { columns, index, first } = repeats.clone();
        let mut starts = vec![0; first.len() + 1];
        index.iter().for_each(|&number| starts[number as usize + 1] += 1);
        for number in 0..first.len() {
            starts[number + 1] += starts[number];
        }
        let (mut next, mut by_distinct) = (starts.clone(), vec![0; index.len()]);
        for (row, &number) in (0..).zip(&index) {
            let next = &mut next[number as usize];
            by_distinct[*next as usize] = row;
            *next += 1;
        }
        let values = first.iter().flat_map(|&row| &x[row as usize * width..][columns.clone()]).copied().collect();
        Self { columns, index, first, by_distinct, starts, values }
    }

    /// Number of distinct rows.
    pub fn distinct(&self) -> usize {
        self.first.len()
    }

    /// The rows of the batch that are a distinct one.
    pub fn rows_of(&self, distinct: usize) -> &[u32] {
        &self.by_distinct[self.starts[distinct] as usize..self.starts[distinct + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_are_numbered_as_they_first_appear() {
        let keys = [4, 1, 4, 4, 1, 4, 4, 1];
        let repeats = Repeats::of(1..17, &keys, 5).unwrap();
        assert_eq!(repeats.index, [0, 1, 0, 0, 1, 0, 0, 1]);
        assert_eq!(repeats.first, [0, 1]);
    }

    #[test]
    fn what_repeats_too_little_or_is_too_narrow_is_left_alone() {
        let keys: Vec<u32> = (0..100).map(|row| row % 50).collect();
        assert!(Repeats::of(0..16, &keys, 50).is_some(), "half of the rows are distinct");
        let keys: Vec<u32> = (0..100).map(|row| row % 51).collect();
        assert!(Repeats::of(0..16, &keys, 51).is_none());
        assert!(Repeats::of(0..64, &keys, 51).is_some(), "wider rows are worth more");
        assert!(Repeats::of(0..4, &[0; 100], 1).is_none(), "narrow ones are worth nothing");
        assert!(Repeats::of(0..16, &[], 0).unwrap().first.is_empty());
    }

    #[test]
    fn blocks_and_the_rest_are_the_input() {
        let x: Vec<f32> = (0..4).flat_map(|row| [row as f32, 7.0, 8.0, -(row as f32), 9.0]).collect();
        let x = Tensor::from_vec(x, (4, 5), &Device::Cpu).unwrap();
        let repeats = Repeats { columns: 1..3, index: vec![0; 4], first: vec![0] };
        let last = Repeats { columns: 4..5, index: vec![0, 0, 1, 0], first: vec![0, 2] };
        let parted = Parted::new(&x, &[repeats, last]).unwrap();
        assert_eq!(parted.rest, [0..1, 3..4]);
        assert_eq!(parted.rest_values, [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0]);
        assert_eq!(parted.blocks[0].values, [7.0, 8.0]);
        assert_eq!(parted.blocks[1].values, [9.0, 9.0]);
        assert_eq!([parted.blocks[1].rows_of(0), parted.blocks[1].rows_of(1)], [&[0, 1, 3][..], &[2]]);
        let weight: Vec<f32> = (0..10).map(|number| number as f32).collect();
        assert_eq!(parted.rest_rows(&weight, 2), [0.0, 1.0, 6.0, 7.0]);
    }
}
