//! One lane: reads its pieces of row groups in order, decodes window by window, and hands out rows in the
//! shuffled order.

use super::batch::Batch;
use super::decode::Decoder;
use super::lanes::{Cursor, Layout, Order, Piece, pieces, span_length};
use super::plan::Plan;
use super::reader::{Files, PieceReader};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Small windows are decoded together, up to this many rows: a row at a time would be slow.
const BLOCK_ROWS: u64 = 4096;

/// Rows of one decoded block.
pub(super) struct Part {
    pub block: Arc<Batch>,
    pub rows: Range<usize>,
}

/// Memory that a decoding thread keeps from block to block.
#[derive(Default)]
pub(super) struct Scratch {
    /// A block in the order of the file, of whichever lane is being decoded.
    file_order: Option<Batch>,
    /// The order in which its rows are read.
    sequence: Vec<u32>,
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
    /// The decoded block, in the order it is read, and how much of it is taken.
    block: Arc<Batch>,
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
            reader: None,
            files,
            layout,
            order,
            lane,
            length: span_length(layout.span(lane)),
            decoder,
        })
    }

    /// The next `rows` rows; fewer, or none, at the end of the lane. `scratch` is for memory only.
    pub fn take(&mut self, rows: usize, scratch: &mut Scratch) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut wanted = rows;
        while wanted > 0 {
            // A cursor inside the first window leaves `position` beyond a block that is yet to be decoded.
            while self.position >= self.block.rows && self.decoded < self.length {
                self.position -= self.block.rows;
                self.decode_block(scratch)?;
            }
            let some = wanted.min(self.block.rows.saturating_sub(self.position));
            if some == 0 {
                break;
            }
            parts.push(Part { block: self.block.clone(), rows: self.position..self.position + some });
            self.position += some;
            wanted -= some;
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

    /// Decodes one block and puts it in order at once, while it is in the cache: rows that are picked out of many
    /// lanes' blocks step after step would each be fetched from memory.
    fn decode_block(&mut self, scratch: &mut Scratch) -> Result<()> {
        let base = self.decoded;
        let Scratch { sequence, file_order } = scratch;
        let shuffled = self.order.window > 1;
        sequence.clear();
        while shuffled && self.decoded < self.length && self.decoded - base < BLOCK_ROWS {
            let window = self.order.window_at(&self.layout, self.lane, self.decoded);
            self.decoded = window.1.end;
            self.order.window_rows(self.epoch, self.lane, window, base, sequence);
        }
        if !shuffled {
            self.decoded = self.length.min(base + BLOCK_ROWS);
        }
        let file_order = file_order.get_or_insert_with(|| self.decoder.empty());
        file_order.clear();
        let rows = (self.decoded - base) as usize;
        while file_order.rows < rows {
            self.read_into(file_order, rows)?;
        }
        let mut block = self.used_block().unwrap_or_else(|| self.decoder.empty());
        if shuffled {
            block.append_rows(file_order, sequence);
        } else {
            std::mem::swap(&mut block, file_order);
        }
        self.block = Arc::new(self.decoder.finish(block)?);
        Ok(())
    }

    /// The block before, empty, for its memory, unless rows of it are still to be put in a batch.
    fn used_block(&mut self) -> Option<Batch> {
        let mut block = Arc::into_inner(std::mem::take(&mut self.block))?;
        block.clear();
        // Where tasks are pairs, the columns of a finished block are theirs.
        (!self.files.schema().has_pairs()).then_some(block)
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
