//! Matrix products of bf16 factors with sums in f32, on AVX-512-BF16.
//!
//! Both factors are rounded while they are packed, into words of two neighbours along k, which is what `vdpbf16ps` takes
//! (16 sums, each of two products). Odd k and incomplete panels are filled up with zeros.
//!
//! ```text
//! A  [m, k] → rows of words       a[row][word]                 or, if its columns are what lies together in memory,
//!             panels of 16 rows   a[panel][word][row]
//! B  [k, n] → panels of 16        b[panel][word][column]
//! C  [m, n]   8 rows × 3 panels at a time stay in registers while k runs
//! ```

mod avx512;

use super::Matrix;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::cell::Cell;

/// Columns of a panel of B: one register of f32.
const PANEL: usize = 16;
/// Rows and panels of C that are kept in registers: 24 sums, 3 panels, one word of A.
const ROWS: usize = 8;
const PANELS: usize = 3;
/// Words of k multiplied before C is written: three panels of them are a tenth of a second-level cache.
const WORDS: usize = 512;
/// Most rows of C that a thread takes at a time; A's part of them stays in a second-level cache.
const BLOCK_ROWS: usize = 256;
/// Rows, or columns, that a thread packs at a time.
const GROUP: usize = 128;

thread_local! {
    /// Packing buffers, kept from product to product.
    static BUFFERS: Cell<(Vec<u32>, Vec<u32>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Whether this CPU has the instructions.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// `out` = or += `a` · `b`, where the rows of `out` start `stride` floats apart, on `threads` threads. The caller has
/// checked that everything fits.
pub fn multiply(threads: usize, out: &mut [f32], stride: usize, a: Matrix, b: Matrix, add: bool) {
    assert!(available(), "this CPU has no AVX-512-BF16");
    let (mut a_words, mut b_words) = BUFFERS.take();
    let (rows, columns) = (a.rows, b.columns);
    // SAFETY: the CPU has the instructions.
    let (a, b) = unsafe { (pack_rows(a, &mut a_words), pack_panels(b.t(), &mut b_words)) };
    let product = Product { columns, a, b };
    let block = rows.div_ceil(threads).next_multiple_of(ROWS).min(BLOCK_ROWS);
    let blocks = out.par_chunks_mut(block * stride).take(rows.div_ceil(block)).enumerate();
    blocks.for_each(|(index, out)| product.rows_of(index * block..rows.min((index + 1) * block), out, stride, add));
    BUFFERS.set((a_words, b_words));
}

/// Two packed factors, with the same number of words.
struct Product<'a> {
    columns: usize,
    a: Packed<'a>,
    /// Always in panels.
    b: Packed<'a>,
}

/// A packed factor: of each row of A, or column of B, its words along k.
struct Packed<'a> {
    words: &'a [u32],
    /// Words of a row.
    len: usize,
    layout: Layout,
}

/// Where a factor's words stand.
#[derive(Clone, Copy)]
enum Layout {
    /// Row after row, `stride` apart: how a row-major A is packed without turning it round.
    Rows { stride: usize },
    /// Panels of 16 rows (or columns of B), `stride` apart: the first word of all 16, the second of all 16, …
    Panels { stride: usize },
}

impl Layout {
    /// Where row `row`, a multiple of 8, has its word `word`; and how far apart its next row and its next word are.
    fn place(self, row: usize, word: usize) -> (usize, usize, usize) {
        match self {
            Self::Rows { stride } => (row * stride + word, stride, 1),
            Self::Panels { stride } => (row / PANEL * stride + word * PANEL + row % PANEL, 1, PANEL),
        }
    }
}

/// What one run of a kernel reads: 8 rows of A and some panels of B, over a range of words.
struct Operands<'a> {
    a: &'a [u32],
    /// How far apart A's rows and words are.
    next_row: usize,
    next_word: usize,
    b: &'a [u32],
    /// How far apart B's panels are.
    next_panel: usize,
    words: usize,
}

impl Product<'_> {
    /// The rows `range` of C, which start at `out`.
    fn rows_of(&self, range: std::ops::Range<usize>, out: &mut [f32], stride: usize, add: bool) {
        let panels = self.columns.div_ceil(PANEL);
        let parts = self.b.len.div_ceil(WORDS);
        for part in 0..parts {
            let words = self.b.len * part / parts..self.b.len * (part + 1) / parts;
            for panel in (0..panels).step_by(PANELS) {
                let width = (panels - panel).min(PANELS);
                let columns = (self.columns - panel * PANEL).min(width * PANEL);
                for row in range.clone().step_by(ROWS) {
                    let rows = (range.end - row).min(ROWS);
                    let out = &mut out[(row - range.start) * stride + panel * PANEL..];
                    let out = Out { numbers: out, stride, rows, columns, add: add || part > 0 };
                    let operands = self.operands(row, panel, width, words.clone());
                    // SAFETY: `multiply` checked that the CPU has the instructions.
                    unsafe {
                        match width {
                            1 => out.write(&avx512::tile::<1>(&operands)),
                            2 => out.write(&avx512::tile::<2>(&operands)),
                            _ => out.write(&avx512::tile::<PANELS>(&operands)),
                        }
                    }
                }
            }
        }
    }

    fn operands(&self, row: usize, panel: usize, width: usize, words: std::ops::Range<usize>) -> Operands<'_> {
        let last_word = words.end - 1;
        let (a, next_row, next_word) = self.a.layout.place(row, words.start);
        let a_end = a + (ROWS - 1) * next_row + (last_word - words.start) * next_word;
        let b_at = |panel: usize, word| self.b.layout.place(panel * PANEL, word).0;
        let b = b_at(panel, words.start);
        Operands {
            a: &self.a.words[a..=a_end],
            next_row,
            next_word,
            b: &self.b.words[b..b_at(panel + width - 1, last_word) + PANEL],
            next_panel: b_at(panel + 1, words.start) - b,
            words: words.len(),
        }
    }
}

/// The part of C that a tile is.
struct Out<'a> {
    numbers: &'a mut [f32],
    stride: usize,
    rows: usize,
    columns: usize,
    add: bool,
}

impl Out<'_> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn write<const WIDTH: usize>(self, sums: &[[__m512; WIDTH]; ROWS]) {
        for (i, sums) in sums.iter().enumerate().take(self.rows) {
            let row = &mut self.numbers[i * self.stride..][..self.columns];
            for (panel, &sum) in row.chunks_mut(PANEL).zip(sums) {
                let kept = mask(panel.len());
                // SAFETY: the mask ends where `panel` does.
                unsafe {
                    let at = panel.as_mut_ptr();
                    let old = if self.add { _mm512_maskz_loadu_ps(kept, at) } else { _mm512_setzero_ps() };
                    _mm512_mask_storeu_ps(at, kept, _mm512_add_ps(old, sum));
                }
            }
        }
    }
}

/// The first `count` lanes, up to 16.
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Packs the rows of `a`, filled up to 8: what is added there is not written to C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_rows<'a>(a: Matrix, out: &'a mut Vec<u32>) -> Packed<'a> {
    if a.column_stride != 1 {
        return pack_panels(a, out);
    }
    let len = a.columns.div_ceil(2);
    // One cache line more than needed: at a stride of a power of two, all rows would share a few lines of the cache.
    let stride = len.next_multiple_of(PANEL) + PANEL;
    out.resize(a.rows.next_multiple_of(ROWS) * stride, 0);
    out[a.rows * stride..].fill(0);
    out[..a.rows * stride].par_chunks_mut(GROUP * stride).enumerate().for_each(|(group, out)| {
        for (i, out) in out.chunks_exact_mut(stride).enumerate() {
            let numbers = &a.data[(group * GROUP + i) * a.row_stride..][..a.columns];
            avx512::pack_row(numbers, &mut out[..len]);
        }
    });
    Packed { words: out, len, layout: Layout::Rows { stride } }
}

/// Packs the rows of `a` in panels; zeros after the last.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_panels<'a>(a: Matrix, out: &'a mut Vec<u32>) -> Packed<'a> {
    let len = a.columns.div_ceil(2);
    // Again one line more.
    let stride = (len + 1) * PANEL;
    out.resize(a.rows.div_ceil(PANEL) * stride, 0);
    out.par_chunks_mut(GROUP / PANEL * stride).enumerate().for_each(|(group, out)| {
        for word in (0..len).step_by(PANEL) {
            for (panel, out) in out.chunks_exact_mut(stride).enumerate() {
                let first = group * GROUP + panel * PANEL;
                let columns = match a.column_stride {
                    1 => transposed(avx512::read_rows(a, first, word)),
                    _ => avx512::read_columns(a, first, word),
                };
                for (out, column) in out[word * PANEL..len * PANEL].chunks_exact_mut(PANEL).zip(columns) {
                    store(out, column);
                }
            }
        }
    });
    Packed { words: out, len, layout: Layout::Panels { stride } }
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

/// The numbers of the rows of `a` from `first` on, up to 16, in one column; for columns whose numbers are neighbours.
#[target_feature(enable = "avx512f")]
fn load_column(a: Matrix, first: usize, column: usize) -> __m512 {
    if column >= a.columns {
        return _mm512_setzero_ps();
    }
    load(&a.data[column * a.column_stride..][first..a.rows])
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
