//! What is written in AVX-512-BF16's instructions: rounding while packing, and a product's inner loop.

use super::super::Matrix;
use super::{BLOCK, PANEL, mask};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Rows of C that are kept in registers beside two panels: 16 sums.
const ROWS: usize = 8;

/// The product of 32 rows of A and two panels of B; operands as for [`super::amx::Tiles::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn product(
    (a, a_stride): (&[u32], usize),
    (b, next_panel): (&[u32], usize),
    words: usize,
    out: &mut [f32; BLOCK * BLOCK],
) {
    assert!(a.len() >= (BLOCK - 1) * a_stride + words && b.len() >= next_panel + words * PANEL);
    for (rows, out) in out.chunks_exact_mut(ROWS * BLOCK).enumerate() {
        let a = &a[rows * ROWS * a_stride..];
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for word in 0..words {
            // SAFETY: the assertion above.
            let panels =
                [0, next_panel].map(|panel| unsafe { _mm512_loadu_si512(b.as_ptr().add(panel + word * PANEL).cast()) });
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the same.
                let a = _mm512_set1_epi32(unsafe { *a.get_unchecked(i * a_stride + word) } as i32);
                for (sum, panel) in sums.iter_mut().zip(panels) {
                    *sum = _mm512_dpbf16_ps(*sum, pairs(a), pairs(panel));
                }
            }
        }
        for (sum, out) in sums.iter().flatten().zip(out.chunks_exact_mut(PANEL)) {
            // SAFETY: `out` has 16 numbers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
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

/// As many of the 16 words as `out` has room for.
#[target_feature(enable = "avx512f")]
fn store(out: &mut [u32], words: __m512i) {
    // SAFETY: the mask ends where `out` does.
    unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), mask(out.len()), words) };
}

/// The first 16 of `numbers`, and zeros where there are less.
#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32]) -> __m512 {
    // SAFETY: the mask ends where `numbers` does.
    unsafe { _mm512_maskz_loadu_ps(mask(numbers.len()), numbers.as_ptr()) }
}

/// The numbers of rows of 16 words, `stride` words apart; as many rows as `out` has, 32 numbers each.
#[target_feature(enable = "avx512f")]
pub fn widen_rows(words: &[u32], stride: usize, out: &mut [f32]) {
    for (words, out) in words.chunks(stride).zip(out.chunks_exact_mut(BLOCK)) {
        let words = &words[..PANEL];
        // SAFETY: `words` is 16 words, and `out` 32 numbers.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            _mm512_storeu_ps(out.as_mut_ptr(), widened(_mm512_castsi512_si256(words)));
            _mm512_storeu_ps(out.as_mut_ptr().add(PANEL), widened(_mm512_extracti64x4_epi64(words, 1)));
        }
    }
}

/// Sixteen numbers of bf16 as f32.
#[target_feature(enable = "avx512f")]
fn widened(halves: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))
}

/// 16 words from the beginning of `numbers`; zeros where there are less.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn read_words(numbers: &[f32]) -> __m512i {
    rounded(load(numbers), load(numbers.get(16..).unwrap_or_default()))
}

/// Packs a row whose numbers are neighbours; zeros where `out` has room for more.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn pack_row(numbers: &[f32], out: &mut [u32]) {
    for (i, out) in out.chunks_mut(PANEL).enumerate() {
        store(out, read_words(numbers.get(2 * PANEL * i..).unwrap_or_default()));
    }
}

/// The first `columns` numbers of the first `rows` rows of `sums` to rows of `out`, `stride` numbers apart; or added.
///
/// # Safety
/// With `add`, the numbers that are added to must have been written.
#[target_feature(enable = "avx512f")]
pub unsafe fn store_rows(
    sums: &[f32; BLOCK * BLOCK],
    rows: usize,
    columns: usize,
    out: &mut [MaybeUninit<f32>],
    stride: usize,
    add: bool,
) {
    for (sums, out) in sums.chunks_exact(BLOCK).zip(out.chunks_mut(stride)).take(rows) {
        for (sums, out) in sums.chunks_exact(PANEL).zip(out[..columns].chunks_mut(PANEL)) {
            let kept = mask(out.len());
            // SAFETY: the mask ends where `out` does, and `sums` has 16 numbers.
            unsafe {
                let sums = _mm512_loadu_ps(sums.as_ptr());
                let at: *mut f32 = out.as_mut_ptr().cast();
                let old = if add { _mm512_maskz_loadu_ps(kept, at) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(at, kept, _mm512_add_ps(old, sums));
            }
        }
    }
}

/// The first `columns` numbers of the first `rows` rows of `sums`, rounded, and zeros after them, to rows of `out`,
/// `stride` words apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn round_rows(sums: &[f32; BLOCK * BLOCK], rows: usize, columns: usize, out: &mut [u32], stride: usize) {
    for (sums, out) in sums.chunks_exact(BLOCK).zip(out.chunks_mut(stride)).take(rows) {
        store(&mut out[..PANEL], read_words(&sums[..columns]));
    }
}

/// 16 words, from `word` on, of the rows of `a` from `first` on, up to 16; for rows whose numbers are neighbours.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn read_rows(a: Matrix, first: usize, word: usize) -> [__m512i; PANEL] {
    let mut rows = [_mm512_setzero_si512(); PANEL];
    for (row, out) in (first..a.rows).zip(&mut rows) {
        *out = read_words(&a.data[row * a.row_stride..][2 * word..a.columns]);
    }
    rows
}

/// [`read_rows`] turned round, one register for each word; for columns whose numbers are neighbours.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn read_columns(a: Matrix, first: usize, word: usize) -> [__m512i; PANEL] {
    let mut columns = [_mm512_setzero_si512(); PANEL];
    for (i, out) in columns.iter_mut().enumerate() {
        let column = 2 * (word + i);
        *out = paired(rounded(load_column(a, first, column), load_column(a, first, column + 1)));
    }
    columns
}

/// The numbers of the rows of `a` from `first` on, up to 16, in one column; for columns whose numbers are neighbours.
#[target_feature(enable = "avx512f")]
fn load_column(a: Matrix, first: usize, column: usize) -> __m512 {
    if column >= a.columns || first >= a.rows {
        return _mm512_setzero_ps();
    }
    load(&a.data[column * a.column_stride..][first..a.rows])
}

/// Sixteen of one kind and sixteen of the next, turned into sixteen pairs.
#[target_feature(enable = "avx512f,avx512bw")]
fn paired(both: __m512i) -> __m512i {
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0,
    );
    _mm512_permutexvar_epi16(order, both)
}

/// Rows of words in memory.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Row after row.
    pub words: &'a [u32],
    /// Words from one row to the next.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
}

/// The 16 numbers from word `word` on, of 32 rows from `row` on, as pairs of two rows: a register for each pair. Rows
/// after the last are zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn read_pairs(source: Source, word: usize, row: usize) -> [__m512i; PANEL] {
    let half = |row: usize| -> __m256i {
        if row >= source.rows {
            return _mm256_setzero_si256();
        }
        let numbers = &source.words[row * source.stride + word..][..PANEL / 2];
        // SAFETY: `numbers` is 256 bits.
        unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
    };
    let mut out = [_mm512_setzero_si512(); PANEL];
    for (i, out) in out.iter_mut().enumerate() {
        let (even, odd) = (half(row + 2 * i), half(row + 2 * i + 1));
        *out = paired(_mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1));
    }
    out
}

/// A square of 16 words of 16 rows of `a` to rows of `out`, `stride` words apart, from row `first` and word `word` on; for
/// columns whose numbers are neighbours.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn rows_of_columns(a: Matrix, first: usize, word: usize, out: &mut [u32], stride: usize) {
    store_square(transposed(read_columns(a, first, word)), out, stride);
}

/// A square of the transpose of `source`: its columns from word `word` on as rows, its rows from `row` on as pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn rows_of_pairs(source: Source, word: usize, row: usize, out: &mut [u32], stride: usize) {
    store_square(transposed(read_pairs(source, word, row)), out, stride);
}

/// A square of a panel: 16 words of 16 rows of `a`, the first word of all 16, then the second.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn panel_of_rows(a: Matrix, first: usize, word: usize, out: &mut [u32]) {
    let words = match a.column_stride {
        1 => transposed(read_rows(a, first, word)),
        _ => read_columns(a, first, word),
    };
    store_square(words, out, PANEL);
}

/// The same of the columns of `source` as rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn panel_of_pairs(source: Source, word: usize, row: usize, out: &mut [u32]) {
    store_square(read_pairs(source, word, row), out, PANEL);
}

/// Sixteen registers to `out`, `stride` words apart.
#[target_feature(enable = "avx512f")]
fn store_square(words: [__m512i; PANEL], out: &mut [u32], stride: usize) {
    for (words, out) in words.into_iter().zip(out.chunks_mut(stride)) {
        let out = &mut out[..PANEL];
        // SAFETY: `out` has 16 words.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words) };
    }
}

/// The 16 × 16 words turned round: first inside groups of 2 and 4 rows, then the groups.
#[target_feature(enable = "avx512f")]
fn transposed(r: [__m512i; PANEL]) -> [__m512i; PANEL] {
    let mut two = r;
    for i in (0..16).step_by(2) {
        two[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        two[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    // four[4g + c] holds, in each 128-bit part p, column 4p + c of rows 4g … 4g + 3.
    let mut four = two;
    for i in (0..16).step_by(4) {
        four[i] = _mm512_unpacklo_epi64(two[i], two[i + 2]);
        four[i + 1] = _mm512_unpackhi_epi64(two[i], two[i + 2]);
        four[i + 2] = _mm512_unpacklo_epi64(two[i + 1], two[i + 3]);
        four[i + 3] = _mm512_unpackhi_epi64(two[i + 1], two[i + 3]);
    }
    let mut out = four;
    for c in 0..4 {
        let low02 = _mm512_shuffle_i32x4(four[c], four[4 + c], 0b10_00_10_00);
        let low13 = _mm512_shuffle_i32x4(four[c], four[4 + c], 0b11_01_11_01);
        let high02 = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], 0b10_00_10_00);
        let high13 = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], 0b11_01_11_01);
        out[c] = _mm512_shuffle_i32x4(low02, high02, 0b10_00_10_00);
        out[4 + c] = _mm512_shuffle_i32x4(low13, high13, 0b10_00_10_00);
        out[8 + c] = _mm512_shuffle_i32x4(low02, high02, 0b11_01_11_01);
        out[12 + c] = _mm512_shuffle_i32x4(low13, high13, 0b11_01_11_01);
    }
    out
}
