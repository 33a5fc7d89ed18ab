//! Few large reads in place of many small ones, for files that are far away.
//!
//! A Parquet reader asks for a page at a time, a few KiB of one column and then of the next; each of these would be a request of its
//! own. Of every column chunk that is going to be read a window is held here. All first windows are asked for at once, so that the
//! store can join those that lie near each other, and a chunk that fits its window is asked for once.
//!
//! ```text
//! row group   | chunk of `user`      | not read | chunk of `history`                     |
//! windows     [ whole, one request   ]          [ first MiB  ]→[ next MiB ]→ …
//! ```

use super::store::Blob;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes held for one row group that is being read.
const BUDGET: u64 = 32 << 20;

/// A window is not smaller than this, unless its chunk is.
const LEAST: u64 = 256 << 10;

/// A blob of which some ranges are read through windows.
pub struct Windows {
    blob: Arc<dyn Blob>,
    chunks: Vec<Chunk>,
}

struct Chunk {
    range: Range<u64>,
    window: u64,
    held: Mutex<Held>,
}

/// What is held of a chunk.
#[derive(Default)]
struct Held {
    start: u64,
    bytes: Bytes,
}

impl Windows {
    /// Asks for the first windows of `chunks`.
    pub fn open(blob: Arc<dyn Blob>, mut chunks: Vec<Range<u64>>) -> std::io::Result<Self> {
        chunks.sort_unstable_by_key(|chunk| chunk.start);
        let share = (BUDGET / chunks.len().max(1) as u64).max(LEAST);
        let total: u64 = chunks.iter().map(|chunk| chunk.end.saturating_sub(chunk.start)).fold(0, u64::saturating_add);
        let window = if total <= BUDGET { u64::MAX } else { share };
        let first: Vec<Range<u64>> =
            chunks.iter().map(|chunk| chunk.start..chunk.end.min(chunk.start.saturating_add(window))).collect();
        let held = blob.read_ranges(&first)?;
        let chunks = chunks.into_iter().zip(first).zip(held).map(|((range, first), bytes)| Chunk {
            range,
            window,
            held: Mutex::new(Held { start: first.start, bytes }),
        });
        Ok(Self { chunks: chunks.collect(), blob })
    }
}

impl Blob for Windows {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_range(&self, start: u64, length: usize) -> std::io::Result<Bytes> {
        match self.chunks.iter().find(|chunk| chunk.range.contains(&start)) {
            Some(chunk) => chunk.read(self.blob.as_ref(), start, length),
            None => self.blob.read_range(start, length),
        }
    }
}

impl Chunk {
    fn read(&self, blob: &dyn Blob, start: u64, length: usize) -> std::io::Result<Bytes> {
        let end = start.saturating_add(length as u64).min(blob.size());
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let covered = |held: &Held| held.start <= start && end <= held.start + held.bytes.len() as u64;
        if !covered(&held) {
            // A page can be longer than the window.
            let until = end.max(self.range.end.min(start.saturating_add(self.window)));
            *held = Held { start, bytes: blob.read_range(start, (until - start) as usize)? };
        }
        let from = (start - held.start) as usize;
        let until = ((end - held.start) as usize).min(held.bytes.len());
        Ok(held.bytes.slice(from.min(until)..until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A blob of numbered bytes that counts what it is asked for.
    #[derive(Default)]
    struct Counted {
        size: u64,
        asked: Mutex<Vec<Range<u64>>>,
    }

    impl Blob for Counted {
        fn size(&self) -> u64 {
            self.size
        }

        fn read_range(&self, start: u64, length: usize) -> std::io::Result<Bytes> {
            let end = (start + length as u64).min(self.size);
            self.asked.lock().unwrap().push(start..end);
            Ok((start.min(end)..end).map(|i| (i % 251) as u8).collect())
        }
    }

    fn blob(size: u64) -> Arc<Counted> {
        Arc::new(Counted { size, ..Counted::default() })
    }

    #[test]
    fn small_chunks_are_asked_for_once() {
        let blob = blob(1000);
        let windows = Windows::open(blob.clone(), vec![600..900, 0..200]).unwrap();
        for start in (0..200).step_by(10).chain((600..900).step_by(7)) {
            assert_eq!(windows.read_range(start, 5).unwrap()[0], (start % 251) as u8);
        }
        assert_eq!(*blob.asked.lock().unwrap(), [0..200, 600..900]);
        windows.read_range(300, 10).unwrap();
        assert_eq!(blob.asked.lock().unwrap().len(), 3, "what lies between is read as ever");
    }

    #[test]
    fn large_chunks_are_read_window_by_window() {
        let size = 4 * BUDGET;
        let blob = blob(size);
        let windows = Windows::open(blob.clone(), vec![0..size / 2, size / 2..size]).unwrap();
        let mut at = 0;
        while at < size / 2 {
            let page = windows.read_range(at, 100_000).unwrap();
            assert_eq!(page[0], (at % 251) as u8);
            at += page.len() as u64;
        }
        let asked = blob.asked.lock().unwrap();
        assert!(asked.len() < 10, "{asked:?}");
        assert!(asked.iter().all(|range| range.end - range.start <= BUDGET / 2));
    }

    proptest! {
        #[test]
        fn any_reads_give_the_bytes_of_the_blob(
            cuts in prop::collection::btree_set(0u64..3000, 2..8),
            reads in prop::collection::vec((0u64..3100, 0usize..700), 1..30),
        ) {
            let blob = blob(3000);
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let windows = Windows::open(blob.clone(), cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect()).unwrap();
            for (start, length) in reads {
                prop_assert_eq!(windows.read_range(start, length).unwrap(), blob.read_range(start, length).unwrap());
            }
        }
    }
}
