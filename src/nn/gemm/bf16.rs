//! Matrix products of bf16 factors with sums in f32, on AMX or AVX-512-BF16.
//!
//! Both factors are packed in words of two neighbours along k, which is what the instructions take:
//!
//! ```text
//! A  [m, k]  rows of words       a[row][word]              ([`Rows`]: also how a layer's bf16 output lies in memory)
//! B  [k, n]  panels of 16        b[panel][word][column]    ([`Panels`])
//! C  [m, n]  blocks of 32 × 32 leave the kernel in f32, for a closure to finish and store
//! ```
//!
//! Words are filled up to a multiple of 16 with zeros, which add nothing; rows and columns to a multiple of 32 with
//! anything, which is not stored.

mod amx;
mod avx512;
mod pack;

pub use pack::{Panels, Rows, words_of};

use super::Matrix;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Columns of a panel of B: one register of f32.
const PANEL: usize = 16;
/// Rows and columns of a block of C.
pub const BLOCK: usize = 32;
/// Words of k multiplied before C is written, where it can be added to: factors of a block are then 128 KiB.
pub const WORDS: usize = 512;
/// Most rows of C that a thread takes at a time; A's part of them stays in a second-level cache.
const BLOCK_ROWS: usize = 256;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Tiles of 16 × 16.
    Amx,
    /// Vectors of 16.
    Avx512,
}

impl Unit {
    /// The fastest that this CPU has, if it has any.
    pub fn available() -> Option<Self> {
        let vectors = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16");
        match vectors {
            // Packing is in vectors for both.
            true if amx::available() => Some(Self::Amx),
            true => Some(Self::Avx512),
            false => None,
        }
    }
}

/// Some numbers of C.
pub struct Block<'a> {
    /// Row-major, [`BLOCK`] a row.
    pub sums: &'a mut [f32; BLOCK * BLOCK],
    /// First row.
    pub row: usize,
    /// First column.
    pub column: usize,
    /// Rows that are there.
    pub rows: usize,
    /// Columns that are there.
    pub columns: usize,
    /// Whether these are the first words of k: else the sums add to what was stored.
    pub first: bool,
}

/// `out` = or += `a` · `b`, where the rows of `out` start `stride` floats apart, on `threads` threads. The caller has
/// checked that everything fits.
pub fn multiply(threads: usize, out: &mut [f32], stride: usize, a: Matrix, b: Matrix, add: bool) {
    let (a, b) = (Rows::pack(a), Panels::pack(b));
    product(threads, &a, 0, &b, WORDS, out, stride, |block, out| store(block, out, stride, add));
}

/// a · b, block by block: `finish(block, out)` is given the rows of `out`, `stride` numbers apart, from the block's first
/// row on. The product reads the words of `a` from `word` on, as many as `b` has; at most `most_words` at a time.
/// Every block is computed by one thread, in one order.
#[allow(clippy::too_many_arguments)]
pub fn product<T: Send>(
    threads: usize,
    a: &Rows,
    word: usize,
    b: &Panels,
    most_words: usize,
    out: &mut [T],
    stride: usize,
    finish: impl Fn(Block, &mut [T]) + Sync,
) {
    let unit = Unit::available().expect("the caller asked whether this CPU multiplies bf16");
    assert!(word + b.len() <= a.len() && word.is_multiple_of(PANEL), "a product past the end of its factor");
    let rows = a.rows();
    let height = rows.div_ceil(threads).next_multiple_of(BLOCK).min(BLOCK_ROWS);
    let chunks = out.par_chunks_mut((height * stride).max(1)).take(rows.div_ceil(height)).enumerate();
    chunks.for_each(|(index, out)| {
        let range = index * height..rows.min((index + 1) * height);
        let blocks = Blocks { unit, a, word, b, most_words };
        blocks.each(range.clone(), |block| {
            let start = (block.row - range.start) * stride;
            finish(block, &mut out[start..]);
        });
    });
}

/// The blocks of a product.
struct Blocks<'a> {
    unit: Unit,
    a: &'a Rows,
    word: usize,
    b: &'a Panels,
    most_words: usize,
}

impl Blocks<'_> {
    /// Those of the rows `range`: a row of blocks at a time, so that A's 32 rows stay in a near cache, and what `f` writes
    /// goes along the rows of its matrix.
    fn each(&self, range: Range<usize>, mut f: impl FnMut(Block)) {
        let tiles = (self.unit == Unit::Amx).then(amx::Tiles::configure);
        let mut sums = [0.0; BLOCK * BLOCK];
        let steps = self.b.len() / PANEL;
        let parts = self.b.len().div_ceil(self.most_words);
        for part in 0..parts {
            let words = steps * part / parts * PANEL..steps * (part + 1) / parts * PANEL;
            for row in range.clone().step_by(BLOCK) {
                let a = self.a.at(row, self.word + words.start);
                for column in (0..self.b.columns()).step_by(BLOCK) {
                    let b = self.b.at(column, words.start);
                    match &tiles {
                        Some(tiles) => tiles.product(a, b, words.len(), &mut sums),
                        // SAFETY: the unit says that the CPU has the instructions.
                        None => unsafe { avx512::product(a, b, words.len(), &mut sums) },
                    }
                    let (rows, columns) = ((range.end - row).min(BLOCK), (self.b.columns() - column).min(BLOCK));
                    f(Block { sums: &mut sums, row, column, rows, columns, first: part == 0 });
                }
            }
        }
    }
}

/// Writes the block to a matrix of f32, or adds it.
pub fn store(block: Block, out: &mut [f32], stride: usize, add: bool) {
    let Block { sums, column, rows, columns, first, .. } = block;
    let add = add || !first;
    // SAFETY: a block exists only where the CPU has the instructions.
    unsafe { avx512::store_rows(sums, rows, columns, written(&mut out[column..]), stride, add) };
}

/// Numbers as a place for numbers.
fn written(numbers: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: the layout is the same, and only numbers are written through it (`avx512::store_rows`).
    unsafe { &mut *(std::ptr::from_mut(numbers) as *mut [MaybeUninit<f32>]) }
}

/// Writes the block, of whichever part of k, to a matrix that nothing was written to before.
pub fn store_new(block: Block, out: &mut [MaybeUninit<f32>], stride: usize) {
    let Block { sums, column, rows, columns, first, .. } = block;
    // SAFETY: as above; what is added to was written by the first part.
    unsafe { avx512::store_rows(sums, rows, columns, &mut out[column..], stride, !first) };
}

/// Rounds the block into rows of words, which start `stride` words apart; the columns up to the block's end are zeros.
/// `first_word` is that of column 0.
pub fn store_rounded(block: Block, out: &mut [u32], stride: usize, first_word: usize) {
    let Block { sums, column, rows, columns, .. } = block;
    // SAFETY: as above.
    unsafe { avx512::round_rows(sums, rows, columns, &mut out[first_word + column / 2..], stride) };
}

/// Rounds a row of numbers; zeros where `words` has room for more.
pub fn round_row(numbers: &[f32], words: &mut [u32]) {
    // SAFETY: products are made only where the CPU has the instructions.
    unsafe { avx512::pack_row(numbers, words) };
}

/// The numbers of rows of 16 words, `stride` words apart; as many rows as `numbers` has, 32 each.
pub fn widen_rows(words: &[u32], stride: usize, numbers: &mut [f32]) {
    // SAFETY: as above.
    unsafe { avx512::widen_rows(words, stride, numbers) };
}

/// The first `count` lanes, up to 16.
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_and_vectors_give_the_same_sums() {
        if Unit::available() != Some(Unit::Amx) {
            return eprintln!("SKIPPED: this CPU has no AMX");
        }
        let draw = |seed| move |i| crate::random::unit(seed, &[i as u64]) as f32 - 0.5;
        for k in [1, 32, 95, 700] {
            let a: Vec<f32> = (0..BLOCK * k).map(draw(1)).collect();
            let b: Vec<f32> = (0..k * BLOCK).map(draw(2)).collect();
            let (a, b) = (Rows::pack(Matrix::new(&a, BLOCK, k, k)), Panels::pack(Matrix::new(&b, k, BLOCK, BLOCK)));
            let (mut tiles, mut vectors) = ([f32::NAN; BLOCK * BLOCK], [f32::NAN; BLOCK * BLOCK]);
            amx::Tiles::configure().product(a.at(0, 0), b.at(0, 0), b.len(), &mut tiles);
            // SAFETY: a CPU with AMX has the instructions.
            unsafe { avx512::product(a.at(0, 0), b.at(0, 0), b.len(), &mut vectors) };
            for (tiles, vectors) in tiles.iter().zip(vectors) {
                assert!((tiles - vectors).abs() <= 1e-6 * k as f32, "{k}: {tiles} {vectors}");
            }
        }
    }
}
