//! Paged storage: a row keeps its place for ever, and growth allocates one page instead of twice the table.
//!
//! ```text
//! slot = page · page_rows + row in page          page: page_rows × stride elements, contiguous
//! ```
//!
//! A snapshot shares the pages. Whoever writes to a shared page copies it first, so that a snapshot costs as much memory
//! and time as what is changed while somebody reads it.

use std::collections::TryReserveError;
use std::sync::Arc;

/// A page holds as many rows as fit here. Allocators round sizes up, by an eighth if one is unlucky; a power
/// of two they leave as it is.
const PAGE_BYTES: usize = 256 << 10;

/// Rows of `stride` elements each.
#[derive(Debug)]
pub struct Arena<T> {
    stride: usize,
    page_rows: u32,
    pages: Vec<Page<T>>,
    rows: usize,
}

#[derive(Debug)]
enum Page<T> {
    Own(Vec<T>),
    /// Of a snapshot, too.
    Shared(Arc<Vec<T>>),
}

impl<T: Copy> Page<T> {
    #[inline]
    fn elements(&self) -> &[T] {
        match self {
            Self::Own(page) => page,
            Self::Shared(page) => page,
        }
    }

    /// The page for writing, of `capacity` elements: a copy, while a snapshot reads it.
    #[inline]
    fn own(&mut self, capacity: usize) -> &mut Vec<T> {
        if let Self::Shared(page) = self {
            *self = Self::Own(Arc::try_unwrap(std::mem::take(page)).unwrap_or_else(|shared| {
                let mut copy = Vec::with_capacity(capacity);
                copy.extend_from_slice(&shared);
                copy
            }));
        }
        match self {
            Self::Own(page) => page,
            Self::Shared(_) => unreachable!("it was made its own"),
        }
    }

    /// The same page for a snapshot.
    fn share(&mut self) -> Self {
        if let Self::Own(page) = self {
            *self = Self::Shared(Arc::new(std::mem::take(page)));
        }
        match self {
            Self::Shared(page) => Self::Shared(page.clone()),
            Self::Own(_) => unreachable!("it was shared"),
        }
    }
}

impl<T: Copy> Arena<T> {
    /// An empty arena.
    pub fn new(stride: usize) -> Self {
        let page_rows = (PAGE_BYTES / (stride * size_of::<T>())).max(1) as u32;
        Self { stride, page_rows, pages: Vec::new(), rows: 0 }
    }

    /// Elements of a row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Rows pushed so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.stride * size_of::<T>()
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.page_rows as usize * self.row_bytes()
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.page_bytes()
    }

    /// Whether the next [`Arena::push`] needs [`Arena::grow`] first.
    pub fn is_full(&self) -> bool {
        self.rows == self.pages.len() * self.page_rows as usize
    }

    /// Allocates one more page, or says that there is no memory for it.
    pub fn grow(&mut self) -> Result<(), TryReserveError> {
        let mut page = Vec::new();
        page.try_reserve_exact(self.page_rows as usize * self.stride)?;
        self.pages.try_reserve(1)?;
        self.pages.push(Page::Own(page));
        Ok(())
    }

    /// Appends a row filled with `value`. The arena must not be full.
    pub fn push(&mut self, value: T) {
        debug_assert!(!self.is_full());
        let capacity = self.page_rows as usize * self.stride;
        let page = self.pages[self.rows / self.page_rows as usize].own(capacity);
        page.resize(page.len() + self.stride, value);
        self.rows += 1;
    }

    /// The rows as they are now, which stay so.
    pub fn snapshot(&mut self) -> Self {
        let Self { stride, page_rows, rows, .. } = *self;
        Self { stride, page_rows, rows, pages: self.pages.iter_mut().map(Page::share).collect() }
    }

    /// The row in `slot`.
    #[inline]
    pub fn row(&self, slot: u32) -> &[T] {
        let start = (slot % self.page_rows) as usize * self.stride;
        &self.pages[(slot / self.page_rows) as usize].elements()[start..start + self.stride]
    }

    /// The row in `slot`, for writing.
    #[inline]
    pub fn row_mut(&mut self, slot: u32) -> &mut [T] {
        let start = (slot % self.page_rows) as usize * self.stride;
        let capacity = self.page_rows as usize * self.stride;
        &mut self.pages[(slot / self.page_rows) as usize].own(capacity)[start..start + self.stride]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_place_while_pages_are_added() {
        let mut arena = Arena::new(3);
        let page_rows = PAGE_BYTES / 12;
        for i in 0..page_rows * 2 + 5 {
            if arena.is_full() {
                arena.grow().unwrap();
            }
            arena.push(i as f32);
        }
        let first = arena.row(0).as_ptr();
        arena.grow().unwrap();
        assert_eq!(first, arena.row(0).as_ptr());
        for slot in [0, 1, page_rows - 1, page_rows, page_rows * 2 + 4] {
            assert_eq!(arena.row(slot as u32), [slot as f32; 3]);
        }
        arena.row_mut(4)[2] = -1.0;
        assert_eq!(arena.row(4), [4.0, 4.0, -1.0]);
        assert_eq!(arena.row(5), [5.0; 3]);
        assert_eq!(arena.bytes(), 4 * page_rows * 12);
    }

    #[test]
    fn a_snapshot_stays_as_it_was_and_costs_the_pages_that_change() {
        let mut arena = Arena::new(2);
        let page_rows = PAGE_BYTES / 8;
        for i in 0..page_rows * 2 + 1 {
            if arena.is_full() {
                arena.grow().unwrap();
            }
            arena.push(i as f32);
        }
        let places = |arena: &Arena<f32>| [0, page_rows, 2 * page_rows].map(|slot| arena.row(slot as u32).as_ptr());
        let before = places(&arena);
        let snapshot = arena.snapshot();
        assert_eq!((places(&arena), places(&snapshot)), (before, before), "nothing is copied yet");
        arena.row_mut(1)[0] = -1.0;
        arena.row_mut(1)[1] = -2.0;
        arena.push(7.0);
        assert_eq!((snapshot.row(1), arena.row(1)), ([1.0; 2].as_slice(), [-1.0, -2.0].as_slice()));
        assert_eq!((snapshot.rows(), arena.row(2 * page_rows as u32 + 1)), (2 * page_rows + 1, [7.0; 2].as_slice()));
        assert_eq!(places(&snapshot), before);
        assert_eq!(places(&arena)[1], before[1], "a page that nobody wrote to is there once");
        drop(snapshot);
        arena.row_mut(page_rows as u32)[0] = 9.0;
        assert_eq!(places(&arena)[1], before[1], "nobody reads it any more");
        // A snapshot of a snapshot's pages, of which some are its own again.
        let again = arena.snapshot();
        assert_eq!((again.row(1), again.row(page_rows as u32)[0]), ([-1.0, -2.0].as_slice(), 9.0));
    }

    #[test]
    fn a_row_larger_than_a_page_is_a_page() {
        let mut arena = Arena::new(PAGE_BYTES);
        for i in 0..3 {
            assert!(arena.is_full());
            arena.grow().unwrap();
            arena.push(i as f32);
        }
        assert_eq!((arena.row(1)[0], arena.row(2)[PAGE_BYTES - 1]), (1.0, 2.0));
    }
}
