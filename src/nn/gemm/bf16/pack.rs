//! The factors of a product, packed in words.

use super::super::Matrix;
use super::avx512;
use super::{BLOCK, PANEL};
use rayon::prelude::*;
use std::cell::RefCell;

/// Rows that a thread packs at a time.
const GROUP: usize = 128;

/// A left-hand factor: rows of words.
#[derive(Debug)]
pub struct Rows {
    words: Words,
    rows: usize,
    /// Words of a row, a multiple of 16.
    len: usize,
    stride: usize,
}

/// A right-hand factor: panels of 16 columns.
#[derive(Debug)]
pub struct Panels {
    words: Words,
    columns: usize,
    /// Words of a column, a multiple of 16.
    len: usize,
}

impl Rows {
    /// Room for `rows` rows of `len` words, a multiple of 16. What they hold is left to the caller to write.
    pub fn room(rows: usize, len: usize) -> Self {
        debug_assert!(len.is_multiple_of(PANEL));
        // One cache line more than needed: at a stride of a power of two, all rows would share a few lines of the cache.
        let stride = len + PANEL;
        Self { words: Words::take(rows.next_multiple_of(BLOCK) * stride), rows, len, stride }
    }

    /// Rounds and packs the rows of `a`.
    pub fn pack(a: Matrix) -> Self {
        let mut out = Self::room(a.rows, words_of(a.columns));
        let (len, stride) = (out.len, out.stride);
        out.words.par_chunks_mut(GROUP * stride).enumerate().for_each(|(group, out)| {
            let first = group * GROUP;
            match a.column_stride {
                1 => {
                    for (row, out) in (first..a.rows).zip(out.chunks_exact_mut(stride)) {
                        // SAFETY: products are made only where the CPU has the instructions; so below.
                        unsafe { avx512::pack_row(&a.data[row * a.row_stride..][..a.columns], &mut out[..len]) };
                    }
                }
                _ => squares(out, stride, len, |row, word, out| unsafe {
                    avx512::rows_of_columns(a, first + row, word, out, stride);
                }),
            }
        });
        out
    }

    /// The columns of these rows from word `word` on, `columns` of them, as rows; after them a row of ones if `ones`,
    /// whose product with B is the sum of B's columns.
    pub fn transposed(&self, word: usize, columns: usize, ones: bool) -> Self {
        let mut out = Self::room(columns + usize::from(ones), words_of(self.rows));
        let (len, stride) = (out.len, out.stride);
        out.words.par_chunks_mut(GROUP * stride).enumerate().for_each(|(group, out)| {
            let first = word + group * GROUP / 2;
            squares(out, stride, len, |row, pair, out| unsafe {
                avx512::rows_of_pairs(self.source(), first + row / 2, 2 * pair, out, stride);
            });
        });
        if ones {
            // 1 in bf16, twice; the last is alone where the number of rows is odd.
            let out = &mut out.words[columns * stride..][..len];
            out.fill(0);
            out[..self.rows / 2].fill(0x3f80_3f80);
            if self.rows % 2 == 1 {
                out[self.rows / 2] = 0x3f80;
            }
        }
        out
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Words of a row.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Words from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// All words, row after row.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// All words, to be written.
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    /// 32 rows from `row` on, from word `word` on, and how far apart they are.
    pub(super) fn at(&self, row: usize, word: usize) -> (&[u32], usize) {
        (&self.words[row * self.stride + word..], self.stride)
    }

    fn source(&self) -> avx512::Source<'_> {
        avx512::Source { words: &self.words, stride: self.stride, rows: self.rows }
    }
}

impl Panels {
    fn room(columns: usize, len: usize) -> Self {
        // Blocks have two panels; one line more, as for rows.
        let words = Words::take(columns.next_multiple_of(BLOCK) / PANEL * (len + 1) * PANEL);
        Self { words, columns, len }
    }

    /// Rounds and packs the columns of `b`.
    pub fn pack(b: Matrix) -> Self {
        let b = b.t();
        let mut out = Self::room(b.rows, words_of(b.columns));
        // SAFETY: products are made only where the CPU has the instructions; so below.
        out.fill(|column, word, out| unsafe { avx512::panel_of_rows(b, column, word, out) });
        out
    }

    /// As a factor whose rows, k, are those of `rows`: its columns from word `word` on, `columns` of them.
    pub fn of_rows(rows: &Rows, word: usize, columns: usize) -> Self {
        let mut out = Self::room(columns, words_of(rows.rows));
        out.fill(|column, pair, out| unsafe {
            avx512::panel_of_pairs(rows.source(), word + column / 2, 2 * pair, out);
        });
        out
    }

    /// Writes all panels: `square(column, word, out)` writes 16 words of 16 columns.
    fn fill(&mut self, square: impl Fn(usize, usize, &mut [u32]) + Sync) {
        let (len, stride) = (self.len, self.next_panel());
        self.words.par_chunks_mut(GROUP / PANEL * stride).enumerate().for_each(|(group, out)| {
            for word in (0..len).step_by(PANEL) {
                for (panel, out) in out.chunks_exact_mut(stride).enumerate() {
                    square(group * GROUP + panel * PANEL, word, &mut out[word * PANEL..][..PANEL * PANEL]);
                }
            }
        });
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Words of a column.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The two panels from `column` on, from word `word` on, and how far apart they are.
    pub(super) fn at(&self, column: usize, word: usize) -> (&[u32], usize) {
        (&self.words[column / PANEL * self.next_panel() + word * PANEL..], self.next_panel())
    }

    fn next_panel(&self) -> usize {
        (self.len + 1) * PANEL
    }
}

/// Goes over squares of 16 words of 16 rows: `square(row, word, out)` writes one, whose rows are `stride` words apart.
fn squares(out: &mut [u32], stride: usize, len: usize, square: impl Fn(usize, usize, &mut [u32])) {
    for (block, out) in out.chunks_mut(PANEL * stride).enumerate() {
        for word in (0..len).step_by(PANEL) {
            square(block * PANEL, word, &mut out[word..]);
        }
    }
}

/// Words that hold `numbers` numbers, filled up to a multiple of 16.
pub fn words_of(numbers: usize) -> usize {
    numbers.div_ceil(2).next_multiple_of(PANEL)
}

/// Memory for words that goes from product to product: clearing and faulting it in takes as long as filling it.
#[derive(Debug)]
struct Words {
    memory: Vec<u32>,
    len: usize,
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers that a thread keeps.
const MOST_SPARE: usize = 64;

impl Words {
    /// `len` words with anything in them: of the spare buffers the smallest that has room and is not mostly unused.
    fn take(len: usize) -> Self {
        let spare = SPARE.with_borrow_mut(|spare| {
            let fits = spare.iter().enumerate().filter(|(_, words)| (len..=4 * len).contains(&words.len()));
            let best = fits.min_by_key(|(_, words)| words.len()).map(|(index, _)| index);
            best.map(|index| spare.swap_remove(index))
        });
        Self { memory: spare.unwrap_or_else(|| vec![0; len]), len }
    }
}

impl std::ops::Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.memory[..self.len]
    }
}

impl std::ops::DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // A thread that is ending has no place to keep it any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() == MOST_SPARE {
                spare.remove(0);
            }
            spare.push(memory);
        });
    }
}
