//! Pooling: from the distinct rows of a table to the vectors of features, and the gradient back.
//!
//! ```text
//! positions of a bag   [ row 0: 4 4 1 | row 1: | row 2: 7 ]   indices into the distinct rows of its table
//! pooled[0] = r4 + r4 + r1   pooled[1] = 0   pooled[2] = r7
//! ```

use super::spec::{BagKind, Pool};
use crate::data::batch::IdColumn;
use crate::error::{Error, Result};
use std::borrow::Cow;

/// Where the ids of one bag's rows are among the distinct rows of its table.
#[derive(Debug, Default)]
pub struct BagRoute {
    /// Row `i` has `positions[offsets[i]..offsets[i + 1]]`; empty where every row has one, as in [`IdColumn`].
    offsets: Vec<u32>,
    pub positions: Vec<u32>,
}

impl BagRoute {
    /// Takes the ids that the bag uses (the last `max_len` of a sequence), each through `position_of`.
    pub fn read(&mut self, ids: &IdColumn, kind: BagKind, mut position_of: impl FnMut(u64) -> u32) {
        self.positions.clear();
        self.offsets.clear();
        match kind {
            BagKind::Pooled(_) => {
                self.offsets.extend_from_slice(ids.offsets().unwrap_or_default());
                self.positions.extend(ids.ids().iter().map(|&id| position_of(id)));
            }
            BagKind::Sequence { max_len } => {
                self.offsets.push(0);
                for row in 0..ids.rows() {
                    let all = ids.row(row);
                    let used = &all[all.len().saturating_sub(max_len)..];
                    self.positions.extend(used.iter().map(|&id| position_of(id)));
                    self.offsets.push(self.positions.len() as u32);
                }
            }
        }
    }

    #[inline]
    fn row(&self, row: usize) -> &[u32] {
        match self.offsets.as_slice() {
            [] => &self.positions[row..=row],
            offsets => &self.positions[offsets[row] as usize..offsets[row + 1] as usize],
        }
    }

    /// The position of each row's id, `none` for a row without one; `None` if a row has several.
    pub fn single(&self, none: u32) -> Option<Cow<'_, [u32]>> {
        if self.offsets.is_empty() {
            return Some(Cow::Borrowed(&self.positions));
        }
        let of_row = |row: usize| match self.row(row) {
            [] => Some(none),
            [only] => Some(*only),
            _ => None,
        };
        (0..self.offsets.len() - 1).map(of_row).collect::<Option<_>>().map(Cow::Owned)
    }

    /// Pools batch rows `first..` into columns `start..start + dim` of `out`, whose rows are `width` wide.
    /// `distinct` holds the table's distinct rows; `out` must be zero.
    pub fn pool(
        &self,
        pool: Pool,
        distinct: &[f32],
        dim: usize,
        first: usize,
        out: &mut [f32],
        columns: (usize, usize),
    ) {
        let (start, width) = columns;
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let positions = self.row(first + i);
            let out = &mut out[start..start + dim];
            let Some((&head, rest)) = positions.split_first() else {
                continue;
            };
            out.copy_from_slice(nth(distinct, head, dim));
            for &position in rest {
                add(out, nth(distinct, position, dim));
            }
            if pool == Pool::Mean && !rest.is_empty() {
                let scale = 1.0 / positions.len() as f32;
                out.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }

    /// Adds the gradient of the pooled columns `start..start + dim` to the distinct rows' gradients.
    pub fn unpool(&self, pool: Pool, d_pooled: &[f32], columns: (usize, usize), dim: usize, d_distinct: &mut [f32]) {
        let (start, width) = columns;
        for (i, d) in d_pooled.chunks_exact(width).enumerate() {
            let positions = self.row(i);
            let d = &d[start..start + dim];
            let scale = if pool == Pool::Mean { 1.0 / positions.len().max(1) as f32 } else { 1.0 };
            for &position in positions {
                add_scaled(nth_mut(d_distinct, position, dim), d, scale);
            }
        }
    }

    /// Copies rows to `values` (rows × L × dim) and sets `mask` (rows × L) to 1 where there is one. Both must be zero.
    pub fn unroll(&self, distinct: &[f32], dim: usize, max_len: usize, values: &mut [f32], mask: &mut [f32]) {
        for (i, mask) in mask.chunks_exact_mut(max_len).enumerate() {
            let values = &mut values[i * max_len * dim..(i + 1) * max_len * dim];
            for ((&position, value), mask) in self.row(i).iter().zip(values.chunks_exact_mut(dim)).zip(mask) {
                value.copy_from_slice(nth(distinct, position, dim));
                *mask = 1.0;
            }
        }
    }

    /// Adds the gradient of an unrolled sequence to the distinct rows' gradients; padding is ignored.
    pub fn roll(&self, d_values: &[f32], dim: usize, max_len: usize, d_distinct: &mut [f32]) {
        for (i, d_row) in d_values.chunks_exact(max_len * dim).enumerate() {
            for (&position, d) in self.row(i).iter().zip(d_row.chunks_exact(dim)) {
                add(nth_mut(d_distinct, position, dim), d);
            }
        }
    }
}

/// Checks that a column fits the batch.
pub fn check_column(ids: &IdColumn, rows: usize, name: &str) -> Result<()> {
    match ids.rows() == rows {
        true => Ok(()),
        false => Err(Error::internal("a feature has another number of rows than the batch").at("feature", name)),
    }
}

#[inline]
fn nth(rows: &[f32], i: u32, dim: usize) -> &[f32] {
    &rows[i as usize * dim..][..dim]
}

#[inline]
fn nth_mut(rows: &mut [f32], i: u32, dim: usize) -> &mut [f32] {
    &mut rows[i as usize * dim..][..dim]
}

/// `sum += part`, element by element.
#[inline]
pub fn add(sum: &mut [f32], part: &[f32]) {
    for (a, &b) in sum.iter_mut().zip(part) {
        *a += b;
    }
}

#[inline]
fn add_scaled(sum: &mut [f32], part: &[f32], scale: f32) {
    for (a, &b) in sum.iter_mut().zip(part) {
        *a += scale * b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: BagKind) -> BagRoute {
        let ids = IdColumn::lists(vec![0, 3, 3, 4], vec![2, 2, 0, 1]);
        let mut route = BagRoute::default();
        route.read(&ids, kind, |id| id as u32);
        route
    }

    const DISTINCT: [f32; 6] = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];

    #[test]
    fn sums_and_means() {
        for (pool, want) in [(Pool::Sum, [7.0, 70.0]), (Pool::Mean, [7.0 * (1.0 / 3.0), 70.0 * (1.0 / 3.0)])] {
            let mut out = [0.0; 9];
            route(BagKind::Pooled(pool)).pool(pool, &DISTINCT, 2, 0, &mut out, (1, 3));
            assert_eq!(out, [0.0, want[0], want[1], 0.0, 0.0, 0.0, 0.0, 2.0, 20.0]);
        }
    }

    #[test]
    fn gradients_of_sums_and_means() {
        let d_pooled = [9.0, 3.0, 6.0, 9.0, 5.0, 5.0, 9.0, 1.0, 2.0];
        for (pool, share) in [(Pool::Sum, 1.0), (Pool::Mean, 1.0 / 3.0)] {
            let mut d = [0.0; 6];
            route(BagKind::Pooled(pool)).unpool(pool, &d_pooled, (1, 3), 2, &mut d);
            assert_eq!(d, [3.0 * share, 6.0 * share, 1.0, 2.0, 6.0 * share, 12.0 * share]);
        }
    }

    #[test]
    fn one_id_a_row_is_told_from_several() {
        let read = |offsets: &[u32], ids: &[u64]| {
            let mut route = BagRoute::default();
            let ids = IdColumn::lists(offsets.to_vec(), ids.to_vec());
            route.read(&ids, BagKind::Pooled(Pool::Sum), |id| id as u32);
            route.single(9).map(Cow::into_owned)
        };
        assert_eq!(read(&[0, 1, 2], &[4, 2]), Some(vec![4, 2]));
        assert_eq!(read(&[0, 1, 1, 2], &[4, 2]), Some(vec![4, 9, 2]));
        assert_eq!(read(&[0, 1, 3], &[4, 2, 2]), None);
    }

    #[test]
    fn sequences_keep_the_last_and_pad_the_end() {
        let route = route(BagKind::Sequence { max_len: 2 });
        let (mut values, mut mask) = ([0.0; 12], [0.0; 6]);
        route.unroll(&DISTINCT, 2, 2, &mut values, &mut mask);
        assert_eq!(values, [3.0, 30.0, 1.0, 10.0, 0.0, 0.0, 0.0, 0.0, 2.0, 20.0, 0.0, 0.0]);
        assert_eq!(mask, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);

        let mut d = [0.0; 6];
        route.roll(&[1.0, 2.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0, 5.0, 6.0, 9.0, 9.0], 2, 2, &mut d);
        assert_eq!(d, [3.0, 4.0, 5.0, 6.0, 1.0, 2.0]);
    }
}
