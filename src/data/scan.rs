//! Rows in the order of the files, with all their columns: what `predict` reads.

use super::batch::Batch;
use super::decode::Decoder;
use super::lanes::{Layout, Piece};
use super::loader::Source;
use super::plan::Plan;
use super::reader::{Columns, Files, PieceReader};
use crate::error::Result;
use arrow::array::RecordBatch;
use std::collections::VecDeque;
use std::ops::Range;

/// Reads pieces of row groups one after another. A batch never crosses a row group.
pub struct Scan {
    files: Files,
    decoder: Decoder,
    columns: Vec<usize>,
    pieces: VecDeque<Piece>,
    reader: Option<PieceReader>,
    batch_rows: usize,
}

/// Consecutive rows as they were written, and decoded.
pub struct Scanned {
    /// Index into `Plan::row_groups`.
    pub row_group: u32,
    /// Row of the first, inside the row group.
    pub first_row: u32,
    /// All columns of the file, as they were written.
    pub input: RecordBatch,
    /// The same rows, decoded; slots count from 0.
    pub batch: Batch,
}

/// The rows of `rank` of `ranks`: consecutive, equal to within one.
pub fn share(plan: &Plan, rank: usize, ranks: usize) -> Vec<Piece> {
    share_of(&remaining(plan, &[]), rank, ranks)
}

/// The same of some of the rows.
pub fn share_of(pieces: &[Piece], rank: usize, ranks: usize) -> Vec<Piece> {
    let rows = pieces.iter().map(|piece| u64::from(piece.rows)).sum();
    let span: Range<u64> = Layout { rows, lanes: ranks, rows_per_lane: 1 }.span(rank);
    let (mut mine, mut position) = (Vec::new(), 0);
    for piece in pieces {
        let (first, end) = (span.start.max(position), span.end.min(position + u64::from(piece.rows)));
        if first < end {
            let start = piece.start + (first - position) as u32;
            mine.push(Piece { row_group: piece.row_group, start, rows: (end - first) as u32 });
        }
        position += u64::from(piece.rows);
    }
    mine
}

/// All rows without those of `done`, in order.
pub fn remaining(plan: &Plan, done: &[Piece]) -> Vec<Piece> {
    let mut done = done.to_vec();
    done.sort_unstable_by_key(|piece| (piece.row_group, piece.start));
    let mut left = Vec::new();
    let mut done = done.into_iter().peekable();
    for (row_group, group) in (0..).zip(&plan.row_groups) {
        let mut start = 0;
        while let Some(piece) = done.next_if(|piece| piece.row_group == row_group) {
            if piece.start > start {
                left.push(Piece { row_group, start, rows: piece.start - start });
            }
            start = start.max(piece.start + piece.rows);
        }
        if start < group.rows {
            left.push(Piece { row_group, start, rows: group.rows - start });
        }
    }
    left
}

/// How many batches [`Scan::next`] gives for `pieces`. Ranks that exchange rows at every batch all run the
/// largest number, the last ones on padding.
pub fn steps(pieces: &[Piece], batch_rows: usize) -> usize {
    pieces.iter().map(|piece| (piece.rows as usize).div_ceil(batch_rows.max(1))).sum()
}

impl Scan {
    /// Reads `pieces` in batches of at most `batch_rows` rows.
    pub fn new(source: Source, pieces: Vec<Piece>, batch_rows: usize) -> Result<Self> {
        let Source { store, plan, schema, statistics, .. } = source;
        Ok(Self {
            decoder: Decoder::new(schema.clone(), &statistics)?,
            columns: (0..schema.columns.len()).collect(),
            files: Files::new(store, plan, schema, Columns::All),
            pieces: pieces.into(),
            reader: None,
            batch_rows: batch_rows.max(1),
        })
    }

    /// The next rows; `None` at the end.
    #[allow(clippy::should_implement_trait)] // an iterator of results would let a caller skip an error
    pub fn next(&mut self) -> Result<Option<Scanned>> {
        loop {
            if let Some(reader) = &mut self.reader
                && let Some(slice) = reader.take(self.batch_rows)?
            {
                let place = reader.place(slice.first_row);
                let batch = self.decoder.whole_batch(&slice.columns, slice.batch.num_rows(), &place)?;
                let (row_group, first_row) = (place.row_group, slice.first_row);
                return Ok(Some(Scanned { row_group, first_row, input: slice.batch, batch }));
            }
            let Some(piece) = self.pieces.pop_front() else {
                return Ok(None);
            };
            self.reader = Some(self.files.read(piece, &self.columns, self.batch_rows)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::RowGroup;
    use super::*;
    use proptest::prelude::*;

    fn plan(rows: &[u32]) -> Plan {
        let group = |(index, &rows): (u32, &u32)| RowGroup { file: 0, index, rows, bytes: 1 };
        let row_groups = (0..).zip(rows).map(group).collect();
        Plan { row_groups, rows: rows.iter().map(|&rows| u64::from(rows)).sum(), ..Plan::default() }
    }

    /// Every row by its row group and place.
    fn rows(pieces: &[Piece]) -> Vec<(u32, u32)> {
        pieces.iter().flat_map(|p| (p.start..p.start + p.rows).map(|row| (p.row_group, row))).collect()
    }

    proptest! {
        #[test]
        fn what_is_done_and_what_is_left_are_all_rows_once(
            groups in prop::collection::vec(1u32..9, 1..6),
            cuts in prop::collection::vec((0u32..6, 0u32..9, 1u32..9), 0..4),
            ranks in 1usize..5,
        ) {
            let plan = plan(&groups);
            let mut done: Vec<Piece> = Vec::new();
            for (row_group, start, rows) in cuts {
                let Some(&size) = groups.get(row_group as usize) else { continue };
                let piece = Piece { row_group, start, rows: rows.min(size.saturating_sub(start)) };
                let apart = |other: &Piece| other.row_group != row_group || other.start + other.rows <= start
                    || start + piece.rows <= other.start;
                if piece.rows > 0 && done.iter().all(apart) {
                    done.push(piece);
                }
            }
            let left = remaining(&plan, &done);
            prop_assert!(rows(&left).is_sorted());
            let mut all = [rows(&left), rows(&done)].concat();
            all.sort_unstable();
            let expected = groups.iter().zip(0..).flat_map(|(&n, group)| (0..n).map(move |row| (group, row)));
            prop_assert_eq!(all, expected.collect::<Vec<_>>());
            let shared: Vec<Piece> = (0..ranks).flat_map(|rank| share_of(&left, rank, ranks)).collect();
            prop_assert_eq!(rows(&shared), rows(&left));
        }
    }
}
