//! Loops over rows on all threads of the rank, with the same bits on any number of them.
//!
//! Rows are cut into blocks of a fixed size, never into one piece per thread: an element-wise result does
//! not depend on the cut, and a sum adds its blocks in order. Blocks run in the [widest](simd::widest) vector instructions,
//! for which a closure given to these loops is marked `#[inline(always)]`, like what it calls for every number.

use crate::simd;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a block.
const BLOCK_ROWS: usize = 128;
/// Below this many numbers a loop is faster on one thread than the threads are to wake.
const SMALL: usize = 1 << 15;

/// Calls `f(row, row of out)` for every row of the matrix `out` of `width` columns.
pub(crate) fn rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let width = width.max(1);
    let block = |index: usize, rows: &mut [f32]| {
        simd::widest(
            #[inline(always)]
            || {
                for (i, row) in rows.chunks_mut(width).enumerate() {
                    f(index * BLOCK_ROWS + i, row);
                }
            },
        );
    };
    if out.len() < SMALL {
        out.chunks_mut(width * BLOCK_ROWS).enumerate().for_each(|(i, rows)| block(i, rows));
    } else {
        out.par_chunks_mut(width * BLOCK_ROWS).enumerate().for_each(|(i, rows)| block(i, rows));
    }
}

/// A new matrix of `count` rows: `f` is given each row filled with zeros, just before it is needed, so that the zeros
/// are in the cache. Clearing all of it first would go through the memory twice.
pub(crate) fn new_rows(count: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out: Vec<f32> = Vec::with_capacity(count * width);
    let block = |index: usize, rows: &mut [MaybeUninit<f32>]| {
        simd::widest(
            #[inline(always)]
            || {
                for (i, row) in rows.chunks_mut(width.max(1)).enumerate() {
                    f(index * BLOCK_ROWS + i, zeroed(row));
                }
            },
        );
    };
    let room = &mut out.spare_capacity_mut()[..count * width];
    let size = width.max(1) * BLOCK_ROWS;
    if room.len() < SMALL {
        room.chunks_mut(size).enumerate().for_each(|(i, rows)| block(i, rows));
    } else {
        room.par_chunks_mut(size).enumerate().for_each(|(i, rows)| block(i, rows));
    }
    // SAFETY: the blocks, which `zeroed` wrote, cover `room`.
    unsafe { out.set_len(count * width) };
    out
}

/// Two new matrices with the same number of rows, as [`new_rows`].
pub(crate) fn new_row_pairs(
    count: usize,
    width: (usize, usize),
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let (mut first, mut second) = (Vec::with_capacity(count * width.0), Vec::with_capacity(count * width.1));
    let block = |index: usize, first: &mut [MaybeUninit<f32>], second: &mut [MaybeUninit<f32>]| {
        simd::widest(
            #[inline(always)]
            || {
                for (i, (a, b)) in first.chunks_mut(width.0).zip(second.chunks_mut(width.1)).enumerate() {
                    f(index * BLOCK_ROWS + i, zeroed(a), zeroed(b));
                }
            },
        );
    };
    assert!(width.0 > 0 && width.1 > 0, "pairs of rows without columns");
    {
        let a = &mut Vec::<f32>::spare_capacity_mut(&mut first)[..count * width.0];
        let b = &mut Vec::<f32>::spare_capacity_mut(&mut second)[..count * width.1];
        let (size_a, size_b) = (width.0 * BLOCK_ROWS, width.1 * BLOCK_ROWS);
        if a.len() + b.len() < SMALL {
            let blocks = a.chunks_mut(size_a).zip(b.chunks_mut(size_b)).enumerate();
            blocks.for_each(|(i, (a, b))| block(i, a, b));
        } else {
            let blocks = a.par_chunks_mut(size_a).zip(b.par_chunks_mut(size_b)).enumerate();
            blocks.for_each(|(i, (a, b))| block(i, a, b));
        }
    }
    // SAFETY: both are cut into the same number of blocks, which cover them and which `zeroed` wrote.
    unsafe {
        first.set_len(count * width.0);
        second.set_len(count * width.1);
    }
    (first, second)
}

/// New matrices of `count` rows, of `widths` columns: `f(i, row, row of matrix i)` is given each row filled with zeros. All
/// matrices' rows of a block are written before the next block's, so that what they read in common is in a cache near the
/// core after the first.
pub(crate) fn new_matrices(
    count: usize,
    widths: &[usize],
    f: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = widths.iter().map(|width| Vec::with_capacity(count * width)).collect();
    let mut blocks: Vec<Vec<&mut [MaybeUninit<f32>]>> = Vec::new();
    blocks.resize_with(count.div_ceil(BLOCK_ROWS), || Vec::with_capacity(widths.len()));
    for (matrix, &width) in all.iter_mut().zip(widths) {
        assert!(width > 0, "a matrix without columns");
        let room = &mut matrix.spare_capacity_mut()[..count * width];
        room.chunks_mut(width * BLOCK_ROWS).zip(&mut blocks).for_each(|(chunk, block)| block.push(chunk));
    }
    let run = |(index, mut block): (usize, Vec<&mut [MaybeUninit<f32>]>)| {
        simd::widest(
            #[inline(always)]
            || {
                for (matrix, rows) in block.iter_mut().enumerate() {
                    for (i, row) in rows.chunks_mut(widths[matrix]).enumerate() {
                        f(matrix, index * BLOCK_ROWS + i, zeroed(row));
                    }
                }
            },
        );
    };
    if count * widths.iter().sum::<usize>() < SMALL {
        blocks.into_iter().enumerate().for_each(run);
    } else {
        blocks.into_par_iter().enumerate().for_each(run);
    }
    for (matrix, width) in all.iter_mut().zip(widths) {
        // SAFETY: its blocks, which `zeroed` wrote, cover all rows.
        unsafe { matrix.set_len(count * width) };
    }
    all
}

#[inline(always)]
fn zeroed(room: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    room.fill(MaybeUninit::new(0.0));
    // SAFETY: all of it was written just now.
    unsafe { &mut *(std::ptr::from_mut(room) as *mut [f32]) }
}

/// [`rows`] over two matrices with the same number of rows and `width.0` and `width.1` columns.
pub(crate) fn row_pairs(
    first: &mut [f32],
    second: &mut [f32],
    width: (usize, usize),
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let width = (width.0.max(1), width.1.max(1));
    debug_assert_eq!(first.len() / width.0, second.len() / width.1);
    let block = |index: usize, first: &mut [f32], second: &mut [f32]| {
        simd::widest(
            #[inline(always)]
            || {
                for (i, (a, b)) in first.chunks_mut(width.0).zip(second.chunks_mut(width.1)).enumerate() {
                    f(index * BLOCK_ROWS + i, a, b);
                }
            },
        );
    };
    let (size_a, size_b) = (width.0 * BLOCK_ROWS, width.1 * BLOCK_ROWS);
    if first.len() + second.len() < SMALL {
        let blocks = first.chunks_mut(size_a).zip(second.chunks_mut(size_b)).enumerate();
        blocks.for_each(|(i, (a, b))| block(i, a, b));
    } else {
        let blocks = first.par_chunks_mut(size_a).zip(second.par_chunks_mut(size_b)).enumerate();
        blocks.for_each(|(i, (a, b))| block(i, a, b));
    }
}

/// Calls `f(segment, its rows of out)` for every segment: those rows of the matrix `out` of `width` columns that lie between
/// two neighbours of `starts`, which begins with 0 and ends with the number of rows.
pub(crate) fn segments(out: &mut [f32], width: usize, starts: &[usize], f: impl Fn(usize, &mut [f32]) + Sync) {
    let small = out.len() < SMALL;
    let mut blocks = Vec::new();
    let mut rest = out;
    for first in (0..starts.len() - 1).step_by(BLOCK_ROWS) {
        let end = (first + BLOCK_ROWS).min(starts.len() - 1);
        let (block, tail) = rest.split_at_mut((starts[end] - starts[first]) * width);
        blocks.push((first..end, block));
        rest = tail;
    }
    let run = |(segments, block): (Range<usize>, &mut [f32])| {
        simd::widest(
            #[inline(always)]
            || {
                let mut rest = &mut *block;
                for segment in segments.clone() {
                    let rows = starts[segment + 1] - starts[segment];
                    let (own, tail) = std::mem::take(&mut rest).split_at_mut(rows * width);
                    f(segment, own);
                    rest = tail;
                }
            },
        );
    };
    if small {
        blocks.into_iter().for_each(run);
    } else {
        blocks.into_par_iter().for_each(run);
    }
}

/// [`rows`] that also sums `sums` numbers over the rows, in blocks: `f(first row, rows of out, sums)`.
pub(crate) fn rows_and_sums(
    out: &mut [f32],
    width: usize,
    sums: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let size = width.max(1) * BLOCK_ROWS;
    let block = |(index, rows): (usize, &mut [f32])| {
        let mut partial = vec![0.0; sums];
        simd::widest(
            #[inline(always)]
            || f(index * BLOCK_ROWS, rows, &mut partial),
        );
        partial
    };
    let partial: Vec<Vec<f32>> = if out.len() < SMALL {
        out.chunks_mut(size).enumerate().map(block).collect()
    } else {
        out.par_chunks_mut(size).enumerate().map(block).collect()
    };
    add_up(&partial, sums)
}

/// Sums `width` numbers over `rows` rows: `f(row, sums)` adds one row. `work` is the number of floats
/// read, which decides whether threads are worth it.
pub(crate) fn sums<T>(rows: usize, width: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) -> Vec<T>
where
    T: Copy + Default + Send + std::ops::AddAssign,
{
    let block = |index: usize| {
        let mut sums = vec![T::default(); width];
        simd::widest(
            #[inline(always)]
            || {
                for row in index * BLOCK_ROWS..rows.min((index + 1) * BLOCK_ROWS) {
                    f(row, &mut sums);
                }
            },
        );
        sums
    };
    let blocks = rows.div_ceil(BLOCK_ROWS);
    let partial: Vec<Vec<T>> =
        if work < SMALL { (0..blocks).map(block).collect() } else { (0..blocks).into_par_iter().map(block).collect() };
    add_up(&partial, width)
}

/// Blocks are added in order.
fn add_up<T: Copy + Default + std::ops::AddAssign>(partial: &[Vec<T>], width: usize) -> Vec<T> {
    let mut total = vec![T::default(); width];
    for part in partial {
        for (sum, &value) in total.iter_mut().zip(part) {
            *sum += value;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_visited_once_with_its_index() {
        for (count, width) in [(0, 3), (1, 1), (129, 5), (1000, 40)] {
            let mut out = vec![-1.0; count * width];
            rows(&mut out, width, |row, out| out.fill(row as f32));
            assert!(out.iter().enumerate().all(|(i, &v)| v == (i / width) as f32), "{count} x {width}");

            let made = new_rows(count, width, |row, out| out.iter_mut().for_each(|out| *out += row as f32));
            assert_eq!(made, out, "{count} x {width}");
            let (a, b) = new_row_pairs(count, (width, 2), |row, a, b| {
                a.iter_mut().for_each(|a| *a += row as f32);
                b.fill(row as f32);
            });
            assert_eq!((a, b.len()), (out.clone(), 2 * count), "{count} x {width}");
            assert!(b.iter().enumerate().all(|(i, &v)| v == (i / 2) as f32), "{count} x {width}");

            let [c, d] = new_matrices(count, &[width, 3], |matrix, row, out| out.fill((10 * row + matrix) as f32))
                .try_into()
                .unwrap();
            assert_eq!((c.len(), d.len()), (count * width, count * 3));
            assert!(c.iter().enumerate().all(|(i, &v)| v == (10 * (i / width)) as f32), "{count} x {width}");
            assert!(d.iter().enumerate().all(|(i, &v)| v == (10 * (i / 3) + 1) as f32), "{count} x {width}");

            let mut other = vec![0.0; count * 2];
            row_pairs(&mut out, &mut other, (width, 2), |row, a, b| {
                a.fill(0.0);
                b.fill(row as f32);
            });
            assert!(other.iter().enumerate().all(|(i, &v)| v == (i / 2) as f32), "{count} x {width}");
        }
    }

    #[test]
    fn every_segment_gets_its_own_rows() {
        for (count, width) in [(0, 3), (1, 1), (130, 2), (2000, 20)] {
            let mut starts = vec![0];
            (0..count).for_each(|i| starts.push(starts[i] + i % 4));
            let mut out = vec![-1.0; starts[count] * width];
            segments(&mut out, width, &starts, |segment, own| {
                assert_eq!(own.len(), segment % 4 * width);
                own.fill(segment as f32);
            });
            let of_row = |row: usize| (0..count).find(|&i| starts[i] <= row && row < starts[i + 1]).unwrap();
            assert!((0..starts[count]).step_by(7).all(|row| out[row * width] == of_row(row) as f32));
        }
    }

    #[test]
    fn rows_are_written_and_summed_at_once() {
        for (count, width) in [(0, 3), (129, 5), (900, 40)] {
            let mut out = vec![0.0; count * width];
            let total = rows_and_sums(&mut out, width, 2, |first, rows, sums| {
                for (i, row) in rows.chunks_mut(width).enumerate() {
                    row.fill((first + i) as f32);
                    sums[0] += 1.0;
                    sums[1] += (first + i) as f32;
                }
            });
            assert!(out.iter().enumerate().all(|(i, &v)| v == (i / width) as f32));
            assert_eq!(total, [count as f32, (0..count).sum::<usize>() as f32]);
        }
    }

    #[test]
    fn sums_have_the_same_bits_on_one_thread_and_on_many() {
        let values: Vec<f32> = (0..300 * 7).map(|i| (i as f32 * 0.37).sin()).collect();
        let add = |row: usize, sums: &mut [f32]| {
            for (sum, &value) in sums.iter_mut().zip(&values[row * 7..]) {
                *sum += value;
            }
        };
        assert_eq!(sums(300, 7, 0, add), sums(300, 7, usize::MAX, add));
        let total: f32 = sums(300, 7, 0, add).iter().sum();
        assert!((total - values.iter().sum::<f32>()).abs() < 1e-2);
    }
}
