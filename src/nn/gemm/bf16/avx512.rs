//! What is written in AVX-512-BF16's instructions: the inner loop, and rounding while packing.

use super::super::Matrix;
use super::{Operands, PANEL, ROWS, load, load_column, store};
use std::arch::x86_64::*;

/// 8 rows × `WIDTH` panels of C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn tile<const WIDTH: usize>(operands: &Operands) -> [[__m512; WIDTH]; ROWS] {
    let &Operands { a, next_row, next_word, b, next_panel, words } = operands;
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    for word in 0..words {
        let mut panels = [_mm512_setzero_si512(); WIDTH];
        for (j, panel) in panels.iter_mut().enumerate() {
            // SAFETY: the last panel's last word is at the end of `b`.
            *panel = unsafe { _mm512_loadu_si512(b.as_ptr().add(j * next_panel + word * PANEL).cast()) };
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the last row's last word is at the end of `a`.
            let a = _mm512_set1_epi32(unsafe { *a.get_unchecked(i * next_row + word * next_word) } as i32);
            for (sum, &panel) in sums.iter_mut().zip(&panels) {
                *sum = _mm512_dpbf16_ps(*sum, pairs(a), pairs(panel));
            }
        }
    }
    sums
}

#[target_feature(enable = "avx512f")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits of plain data.
    unsafe { std::mem::transmute(words) }
}

/// Sixteen numbers of `low`, then sixteen of `high`.
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 512 bits of plain data.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 16 words from the beginning of `numbers`; zeros where there are less.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn read_words(numbers: &[f32]) -> __m512i {
    rounded(load(numbers), load(numbers.get(16..).unwrap_or_default()))
}

/// Packs a row whose numbers are neighbours.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn pack_row(numbers: &[f32], out: &mut [u32]) {
    for (out, numbers) in out.chunks_mut(PANEL).zip(numbers.chunks(2 * PANEL)) {
        store(out, read_words(numbers));
    }
}

/// 16 words, from `word` on, of the rows of `a` from `first` on, up to 16; for rows whose numbers are neighbours.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn read_rows(a: Matrix, first: usize, word: usize) -> [__m512i; PANEL] {
    let mut rows = [_mm512_setzero_si512(); PANEL];
    for (row, out) in (first..a.rows).zip(&mut rows) {
        *out = read_words(&a.data[row * a.row_stride..][2 * word..a.columns]);
    }
    rows
}

/// [`read_rows`] turned round, one register for each word; for columns whose numbers are neighbours.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn read_columns(a: Matrix, first: usize, word: usize) -> [__m512i; PANEL] {
    // Sixteen of one column and sixteen of the next, turned into sixteen pairs.
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0,
    );
    let mut columns = [_mm512_setzero_si512(); PANEL];
    for (i, out) in columns.iter_mut().enumerate() {
        let column = 2 * (word + i);
        let both = rounded(load_column(a, first, column), load_column(a, first, column + 1));
        *out = _mm512_permutexvar_epi16(order, both);
    }
    columns
}
