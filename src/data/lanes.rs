//! Lanes: how the rows of an epoch are cut into logical readers. Nothing here knows the ranks.
//!
//! ```text
//! row groups of the plan   0 1 2 3 4 5 …         permuted by (seed, epoch)
//! the epoch's sequence     3 5 0 4 1 2 …         N rows
//! lanes                    |  0  |  1  |  2  |   L spans of N/L rows, equal to within one
//! windows of a lane        |w|  w  |  w  |       each permuted by (seed, epoch, lane, window)
//! step s                   rows [s·b, (s+1)·b) of every lane
//! ```
//!
//! A rank hosts a range of lanes, so every row is seen once an epoch, all ranks run the same number of
//! steps, and `(epoch, rows taken from each lane)` is a position in the data at any number of ranks.

use super::plan::Plan;
use crate::error::{Error, Result};
use crate::random;
use rand::RngCore;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// More lanes than this are never chosen by [`auto_lanes`].
const AUTO_LANES_LIMIT: usize = 64;

/// A position in the data: everything the data needs to resume, at any number of ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Epochs completed.
    pub epoch: u64,
    /// Rows taken from every lane in this epoch (a lane with fewer rows is used up).
    pub taken: u64,
}

/// How N rows are cut into lanes and steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Rows of an epoch (N).
    pub rows: u64,
    /// Number of lanes (L).
    pub lanes: usize,
    /// Rows that one step takes from each lane (b).
    pub rows_per_lane: usize,
}

/// The number of lanes for `lanes: auto`: the largest divisor of `global_batch` that is at most 64 and
/// leaves each lane a row.
///
/// A run can use as many ranks as it has lanes, and the number of lanes cannot change between a
/// checkpoint and its resume, so more is better; but each lane holds one decoded window in memory and
/// keeps a file open, and 64 of them still fit one small machine.
pub fn auto_lanes(global_batch: usize, rows: u64) -> usize {
    let limit = rows.min(AUTO_LANES_LIMIT as u64) as usize;
    (1..=limit.min(global_batch)).rev().find(|lanes| global_batch.is_multiple_of(*lanes)).unwrap_or(1)
}

impl Layout {
    /// The layout of training: `lanes` as the job sets them, else [`auto_lanes`].
    pub fn train(rows: u64, global_batch: usize, lanes: Option<usize>) -> Result<Self> {
        let wrong = |what: String, fix: String| Err(Error::job(what).at("key", "data.lanes").fix(fix));
        if global_batch == 0 {
            return Err(Error::job("a batch needs at least one row").at("key", "train.global_batch"));
        }
        let lanes = lanes.unwrap_or_else(|| auto_lanes(global_batch, rows));
        if lanes == 0 {
            return wrong("there must be at least one lane".to_string(), "leave `lanes` out to have it chosen".into());
        }
        if !global_batch.is_multiple_of(lanes) {
            return wrong(
                format!("{lanes} lanes do not divide a global batch of {global_batch} rows"),
                format!("use a divisor, such as {}", auto_lanes(global_batch, lanes as u64)),
            );
        }
        Ok(Self { rows, lanes, rows_per_lane: global_batch / lanes })
    }

    /// The layout of evaluation, where only the union of rows matters: batches of about `global_batch` rows over all
    /// `lanes`.
    pub fn evaluate(rows: u64, global_batch: usize, lanes: usize) -> Self {
        Self { rows, lanes, rows_per_lane: global_batch.div_ceil(lanes).max(1) }
    }

    /// Rows of a lane, as positions in the epoch's sequence.
    pub fn span(&self, lane: usize) -> Range<u64> {
        let cut = |lane: usize| (u128::from(self.rows) * lane as u128 / self.lanes as u128) as u64;
        cut(lane)..cut(lane + 1)
    }

    /// Steps of a whole epoch: enough for the longest lane.
    pub fn steps(&self) -> u64 {
        self.steps_after(0)
    }

    /// Steps left once `taken` rows of each lane are used.
    pub fn steps_after(&self, taken: u64) -> u64 {
        let longest = self.rows.div_ceil(self.lanes as u64);
        longest.saturating_sub(taken).div_ceil(self.rows_per_lane as u64)
    }

    /// Rows over all lanes of the step that begins after `taken` rows of each lane.
    pub fn rows_in_step(&self, taken: u64) -> u64 {
        let left = |lane| span_length(self.span(lane)).saturating_sub(taken);
        (0..self.lanes).map(|lane| left(lane).min(self.rows_per_lane as u64)).sum()
    }

    /// The lanes that `rank` of `ranks` hosts.
    pub fn hosted(&self, rank: usize, ranks: usize) -> Result<Range<usize>> {
        if ranks > self.lanes {
            return Err(Error::job(format!(
                "{ranks} ranks cannot share {} lanes: each needs at least one",
                self.lanes
            ))
            .at("key", "data.lanes")
            .fix(format!("start at most {} ranks, or set `data.lanes` to {ranks} or more", self.lanes)));
        }
        Ok(self.lanes * rank / ranks..self.lanes * (rank + 1) / ranks)
    }

    /// The rows of some lanes that follow each other.
    pub fn spans(&self, lanes: &Range<usize>) -> Range<u64> {
        self.span(lanes.start).start..self.span(lanes.end).start
    }
}

/// In what order the rows of an epoch are read: a pure function of `(seed, epoch)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Seed of the job.
    pub seed: u64,
    /// Rows of a lane that are permuted among themselves; 1 keeps their order.
    pub window: usize,
    /// Whether the row groups are permuted each epoch.
    pub permute_groups: bool,
}

impl Order {
    /// The order of training.
    pub fn shuffled(seed: u64, window: usize) -> Self {
        Self { seed, window: window.max(1), permute_groups: true }
    }

    /// The order of the files, for evaluation and prediction.
    pub fn sequential() -> Self {
        Self { seed: 0, window: 1, permute_groups: false }
    }

    /// The epoch's sequence of row groups, as indices into [`Plan::row_groups`].
    pub fn row_groups(&self, count: usize, epoch: u64) -> Vec<u32> {
        let mut sequence: Vec<u32> = (0..count as u32).collect();
        if self.permute_groups {
            shuffle(&mut sequence, self.seed, &[random::text("row groups"), epoch]);
        }
        sequence
    }

    /// The window of a lane that holds its row `row`: its number and its rows.
    ///
    /// The first window of lane `l` is shortened to (l + 1)/L of the others, so that the lanes reach their
    /// next windows at different steps, and decoding is spread evenly instead of coming in bursts.
    pub fn window_at(&self, layout: &Layout, lane: usize, row: u64) -> (u64, Range<u64>) {
        let size = self.window as u64;
        let first = (self.window as u128 * (lane as u128 + 1)).div_ceil(layout.lanes as u128) as u64;
        let length = span_length(layout.span(lane));
        if row < first {
            return (0, 0..first.min(length));
        }
        let number = (row - first) / size;
        let start = first + number * size;
        (number + 1, start..(start + size).min(length))
    }

    /// Appends to `out` the order in which the rows of a window are read, as positions in the lane less
    /// `base`.
    pub fn window_rows(
        &self,
        epoch: u64,
        lane: usize,
        (number, rows): (u64, Range<u64>),
        base: u64,
        out: &mut Vec<u32>,
    ) {
        let from = out.len();
        out.extend((rows.start - base) as u32..(rows.end - base) as u32);
        if self.window > 1 {
            shuffle(&mut out[from..], self.seed, &[random::text("window"), epoch, lane as u64, number]);
        }
    }
}

/// Length of a span.
pub fn span_length(span: Range<u64>) -> u64 {
    span.end - span.start
}

/// Fisher-Yates from a stream that is a pure function of `(seed, key)`. Written out, so that no release of
/// a library can change the order of an epoch under a resumed run.
fn shuffle(items: &mut [u32], seed: u64, key: &[u64]) {
    let mut stream = random::stream(seed, key);
    for i in (1..items.len()).rev() {
        // The high half of a 64 × 64 bit product maps to 0..=i with a bias below 2⁻³².
        let j = (u128::from(stream.next_u64()) * (i as u128 + 1)) >> 64;
        items.swap(i, j as usize);
    }
}

/// Consecutive rows of one row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index into [`Plan::row_groups`].
    pub row_group: u32,
    /// First row inside the row group.
    pub start: u32,
    /// Number of rows, at least 1.
    pub rows: u32,
}

/// Cuts `span` of the epoch's sequence into pieces of row groups.
pub fn pieces(plan: &Plan, sequence: &[u32], span: Range<u64>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut position = 0;
    for &row_group in sequence {
        let group = position..position + u64::from(plan.row_groups[row_group as usize].rows);
        position = group.end;
        let (start, end) = (group.start.max(span.start), group.end.min(span.end));
        if start < end {
            pieces.push(Piece { row_group, start: (start - group.start) as u32, rows: (end - start) as u32 });
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::super::plan::RowGroup;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn auto_lanes_divide_the_batch() {
        assert_eq!(auto_lanes(4096, 1_000_000), 64);
        assert_eq!(auto_lanes(4096, 10), 8);
        assert_eq!(auto_lanes(100, 1_000_000), 50);
        assert_eq!(auto_lanes(97, 1_000_000), 1);
        assert_eq!(auto_lanes(7, 1_000_000), 7);
        assert_eq!(auto_lanes(4096, 0), 1);
    }

    #[test]
    fn impossible_layouts_say_what_to_change() {
        let message = |result: Result<Layout>| result.unwrap_err().to_string();
        assert!(message(Layout::train(10, 100, Some(3))).contains("data.lanes"));
        assert!(message(Layout::train(10, 100, Some(0))).contains("at least one lane"));
        assert!(message(Layout::train(10, 0, None)).contains("train.global_batch"));
        let layout = Layout::train(1000, 64, Some(4)).unwrap();
        let error = layout.hosted(0, 5).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("`data.lanes` to 5"), "{error}");
    }

    fn plan(rows: &[u32]) -> Plan {
        let group = |(index, &rows): (usize, &u32)| RowGroup { file: 0, index: index as u32, rows, bytes: 1 };
        let row_groups: Vec<_> = rows.iter().enumerate().map(group).collect();
        Plan { files: Vec::new(), row_groups, rows: rows.iter().map(|&r| u64::from(r)).sum() }
    }

    proptest! {
        #[test]
        fn lanes_and_ranks_cover_every_row_once(
            groups in prop::collection::vec(1u32..40, 1..12), lanes in 1usize..9, b in 1usize..6, epoch in 0u64..3,
        ) {
            let plan = plan(&groups);
            let layout = Layout { rows: plan.rows, lanes, rows_per_lane: b };
            let sequence = Order::shuffled(7, 4).row_groups(groups.len(), epoch);
            let mut seen = std::collections::BTreeSet::new();
            for ranks in 1..=lanes {
                let hosted: Vec<usize> = (0..ranks).flat_map(|r| layout.hosted(r, ranks).unwrap()).collect();
                prop_assert_eq!(hosted, (0..lanes).collect::<Vec<_>>());
            }
            for lane in 0..lanes {
                let length = span_length(layout.span(lane));
                prop_assert!(length.abs_diff(plan.rows / lanes as u64) <= 1);
                prop_assert!(length <= layout.steps() * b as u64);
                for piece in pieces(&plan, &sequence, layout.span(lane)) {
                    for row in piece.start..piece.start + piece.rows {
                        prop_assert!(seen.insert((piece.row_group, row)));
                    }
                }
            }
            prop_assert_eq!(seen.len() as u64, plan.rows);
            prop_assert_eq!(layout.spans(&(0..lanes)), 0..plan.rows);
        }

        #[test]
        fn windows_tile_a_lane(rows in 1u64..300, lanes in 1usize..6, window in 1usize..50, lane in 0usize..6) {
            let layout = Layout { rows, lanes, rows_per_lane: 1 };
            let lane = lane % lanes;
            let order = Order::shuffled(3, window);
            let length = span_length(layout.span(lane));
            let (mut row, mut expected, mut read) = (0, 0, Vec::new());
            while row < length {
                let (number, range) = order.window_at(&layout, lane, row);
                prop_assert_eq!((number, range.start), (expected, row));
                prop_assert_eq!(order.window_at(&layout, lane, range.end - 1), (number, range.clone()));
                prop_assert!(range.end - range.start <= window as u64);
                order.window_rows(0, lane, (number, range.clone()), 0, &mut read);
                (row, expected) = (range.end, expected + 1);
            }
            read.sort_unstable();
            prop_assert_eq!(read, (0..length as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn orders_differ_by_epoch_and_evaluation_keeps_the_files() {
        let order = Order::shuffled(17, 4096);
        assert_eq!(order.row_groups(100, 1), order.row_groups(100, 1));
        assert_ne!(order.row_groups(100, 1), order.row_groups(100, 2));
        assert_ne!(order.row_groups(100, 1), Order::shuffled(18, 4096).row_groups(100, 1));
        assert_eq!(Order::sequential().row_groups(100, 3), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn every_order_of_a_window_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for key in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut items, 1, &[key]);
            *counts.entry(items).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&n| (850..1150).contains(&n)), "{counts:?}");
    }
}
