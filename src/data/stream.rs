//! One lane: reads its pieces of row groups in order, decodes window by window, and hands out rows in the
//! shuffled order.

use super::batch::Batch;
use super::decode::Decoder;
use super::lanes::{Cursor, Layout, Order, Piece, pieces, span_length};
use super::plan::Plan;
use super::reader::{Files, PieceReader};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;

/// Small windows are decoded together, up to this many rows: a row at a time would be slow.
const BLOCK_ROWS: u64 = 4096;

/// Rows of one decoded block, in the order they are to be read.
pub(super) struct Part {
    pub block: Arc<Batch>,
    pub rows: Vec<u32>,
}

/// A lane being read.
pub(super) struct LaneStream {
    files: Arc<Files>,
    layout: Layout,
    order: Order,
    epoch: u64,
    lane: usize,
    /// Rows of this lane.
    length: u64,
    /// Row of the lane up to which blocks have been decoded.
    decoded: u64,
    decoder: Decoder,
    columns: Vec<usize>,
    /// What is still to be read after `reader`.
    pieces: VecDeque<Piece>,
    reader: Option<PieceReader>,
    /// The decoded block, its reading order, and how much of that is taken.
    block: Arc<Batch>,
    sequence: Vec<u32>,
    position: usize,
}

/// What a lane reads from `cursor` on. `sequence` is the epoch's sequence of row groups.
pub(super) fn pieces_left(
    plan: &Plan,
    layout: &Layout,
    order: &Order,
    sequence: &[u32],
    lane: usize,
    cursor: Cursor,
) -> Vec<Piece> {
    let (_, start) = starting_point(layout, order, lane, cursor);
    let span = layout.span(lane);
    pieces(plan, sequence, span.start + start..span.end)
}

/// `(rows of the lane taken before, row of the lane at which reading starts)`: a shuffled window can only be rebuilt
/// whole, so reading starts at the window of the cursor.
fn starting_point(layout: &Layout, order: &Order, lane: usize, cursor: Cursor) -> (u64, u64) {
    let length = span_length(layout.span(lane));
    let taken = cursor.taken.min(length);
    (taken, if taken < length { order.window_at(layout, lane, taken).1.start } else { length })
}

impl LaneStream {
    /// The lane from `cursor` on; `pieces` are its [`pieces_left`].
    pub fn new(
        files: Arc<Files>,
        decoder: Decoder,
        layout: Layout,
        order: Order,
        pieces: Vec<Piece>,
        lane: usize,
        cursor: Cursor,
    ) -> Result<Self> {
        let (taken, start) = starting_point(&layout, &order, lane, cursor);
        Ok(Self {
            pieces: pieces.into(),
            columns: (0..files.schema().columns.len()).collect(),
            block: Arc::new(decoder.empty()),
            position: (taken - start) as usize,
            epoch: cursor.epoch,
            decoded: start,
            sequence: Vec::new(),
            reader: None,
            files,
            layout,
            order,
            lane,
            length: span_length(layout.span(lane)),
            decoder,
        })
    }

    /// The next `rows` rows; fewer, or none, at the end of the lane.
    pub fn take(&mut self, rows: usize) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut wanted = rows;
        while wanted > 0 {
            // A cursor inside the first window leaves `position` beyond a block that is yet to be decoded.
            while self.position >= self.sequence.len() && self.decoded < self.length {
                self.position -= self.sequence.len();
                self.decode_block()?;
            }
            let left = self.sequence.get(self.position..).unwrap_or(&[]);
            let some = &left[..wanted.min(left.len())];
            if some.is_empty() {
                break;
            }
            parts.push(Part { block: self.block.clone(), rows: some.to_vec() });
            self.position += some.len();
            wanted -= some.len();
        }
        Ok(parts)
    }

    /// Names the file being read in an error that names none: that of a panic.
    pub fn named(&self, error: Error) -> Error {
        match &self.reader {
            Some(reader) if error.place("file").is_none() => error.at("file", reader.place(0).file),
            _ => error,
        }
    }

    fn decode_block(&mut self) -> Result<()> {
        let base = self.decoded;
        self.sequence.clear();
        while self.decoded < self.length && self.decoded - base < BLOCK_ROWS {
            let window = self.order.window_at(&self.layout, self.lane, self.decoded);
            self.decoded = window.1.end;
            self.order.window_rows(self.epoch, self.lane, window, base, &mut self.sequence);
        }
        let mut block = self.decoder.empty();
        let rows = (self.decoded - base) as usize;
        while block.rows < rows {
            self.read_into(&mut block, rows)?;
        }
        self.block = Arc::new(self.decoder.finish(block)?);
        Ok(())
    }

    /// Decodes what the current piece has of `rows` rows, or opens the next piece.
    fn read_into(&mut self, block: &mut Batch, rows: usize) -> Result<()> {
        if let Some(reader) = &mut self.reader
            && let Some(slice) = reader.take(rows - block.rows)?
        {
            return self.decoder.append(&slice.columns, slice.batch.num_rows(), &reader.place(slice.first_row), block);
        }
        let Some(piece) = self.pieces.pop_front() else {
            return Err(Error::internal(format!("lane {} ends before its {} rows", self.lane, self.length)));
        };
        let unit = (self.order.window as u64).clamp(BLOCK_ROWS, 16 * BLOCK_ROWS);
        self.reader = Some(self.files.read(piece, &self.columns, unit as usize)?);
        Ok(())
    }
}
