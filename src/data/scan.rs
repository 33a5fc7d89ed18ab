//! Rows in the order of the files, with all their columns: what `predict` reads.

use super::batch::Batch;
use super::decode::Decoder;
use super::lanes::{Layout, Order, Piece, pieces};
use super::loader::Source;
use super::plan::Plan;
use super::reader::{Columns, Files, PieceReader};
use crate::error::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
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
    /// All columns of the file.
    pub input: RecordBatch,
    /// The same rows, decoded; slots count from 0.
    pub batch: Batch,
}

/// The rows of `rank` of `ranks`: consecutive, equal to within one.
pub fn share(plan: &Plan, rank: usize, ranks: usize) -> Vec<Piece> {
    let layout = Layout { rows: plan.rows, lanes: ranks, rows_per_lane: 1 };
    let sequence = Order::sequential().row_groups(plan.row_groups.len(), 0);
    let span: Range<u64> = layout.span(rank);
    pieces(plan, &sequence, span)
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

    /// Columns of the file that holds a row group, as they were written.
    pub fn arrow_schema(&self, row_group: u32) -> Result<SchemaRef> {
        self.files.arrow_schema(self.files.plan().row_groups[row_group as usize].file)
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
