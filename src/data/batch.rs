//! One step's rows on one rank, as columns: what decoding produces and the step consumes.
//!
//! ```text
//!            row 0      row 1        …
//! ids[f]     [7, 7, 3]  []           lists of ids              (categorical, sequence, cross, quantile)
//! dense      x₀ x₁ … xₙ | x₀ x₁ … xₙ  rows × dense_width        (numeric, vector), transformed
//! targets[k] y, weight  | y, 0        weight 0 = no label (null, or `where` is false)
//! scenarios  number of the row's scenario           (where the job names a column of them)
//! slots      position of the row in the global batch, whatever the number of ranks
//! ```

pub use super::ids::IdColumn;
use super::schema::Schema;
use std::ops::Range;

/// Labels of one task for every row of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Target {
    /// The label; its value is meaningless where `weight` is 0.
    pub label: Vec<f32>,
    /// Row weight, or 0 where this row carries no label for the task.
    pub weight: Vec<f32>,
}

/// The rows that one rank trains on, or evaluates, in one step.
///
/// A batch has at least one row: where a rank has none left in the last step of an epoch, it holds one
/// padding row (`present` false, every target weight 0), so that every rank runs the same step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Number of rows, padding included.
    pub rows: usize,
    /// One entry per id feature, in the order of `Schema::id_features`.
    pub ids: Vec<IdColumn>,
    /// `rows × dense_width` numbers, row-major.
    pub dense: Vec<f32>,
    /// One entry per task.
    pub targets: Vec<Target>,
    /// Position of each row in the *global* batch: `lane × rows_per_lane + row in lane`. With the step it
    /// names the row to random draws (dropout, negatives) without knowing the ranks.
    pub slots: Vec<u32>,
    /// False for padding.
    pub present: Vec<bool>,
    /// Number of each row's scenario ([`super::scenarios`]); empty where the job has none.
    pub scenarios: Vec<u32>,
    /// Keys of the GAUC columns: one vector per distinct `gauc:` column, in the order of
    /// `Schema::group_columns`. Empty in training.
    pub groups: Vec<Vec<u64>>,
    /// Where each row comes from, for messages.
    pub origin: Vec<Origin>,
}

/// The address of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Index into `Plan::row_groups`.
    pub row_group: u32,
    /// Row inside the row group.
    pub row: u32,
}

impl Batch {
    /// A batch of no rows, ready to be appended to.
    pub fn empty(id_features: usize, tasks: usize, groups: usize) -> Self {
        Self {
            ids: vec![IdColumn::default(); id_features],
            targets: vec![Target::default(); tasks],
            groups: vec![Vec::new(); groups],
            ..Self::default()
        }
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.iter_mut().for_each(IdColumn::clear);
        for Target { label, weight } in &mut self.targets {
            label.clear();
            weight.clear();
        }
        self.groups.iter_mut().for_each(Vec::clear);
        self.dense.clear();
        self.slots.clear();
        self.present.clear();
        self.scenarios.clear();
        self.origin.clear();
        self.rows = 0;
    }

    /// Appends some rows of `block`, in the order given: column by column, so that it is fast where a column of
    /// `block` fits a cache. Slots are the caller's to append.
    pub fn append_rows(&mut self, block: &Self, rows: &[u32]) {
        let width = block.dense.len().checked_div(block.rows).unwrap_or(0);
        for (out, column) in self.ids.iter_mut().zip(&block.ids) {
            out.append_rows(column, rows);
        }
        self.dense.reserve(rows.len() * width);
        for &row in rows {
            self.dense.extend_from_slice(&block.dense[row as usize * width..][..width]);
        }
        for (out, target) in self.targets.iter_mut().zip(&block.targets) {
            out.label.extend(rows.iter().map(|&row| target.label[row as usize]));
            out.weight.extend(rows.iter().map(|&row| target.weight[row as usize]));
        }
        for (out, group) in self.groups.iter_mut().zip(&block.groups) {
            out.extend(rows.iter().map(|&row| group[row as usize]));
        }
        if !block.scenarios.is_empty() {
            self.scenarios.extend(rows.iter().map(|&row| block.scenarios[row as usize]));
        }
        self.origin.extend(rows.iter().map(|&row| block.origin[row as usize]));
        self.present.resize(self.present.len() + rows.len(), true);
        self.rows += rows.len();
    }

    /// Appends consecutive rows of `block`. Slots are the caller's to append.
    pub fn append_range(&mut self, block: &Self, rows: Range<usize>) {
        let width = block.dense.len().checked_div(block.rows).unwrap_or(0);
        for (out, column) in self.ids.iter_mut().zip(&block.ids) {
            out.append_range(column, rows.clone());
        }
        self.dense.extend_from_slice(&block.dense[rows.start * width..rows.end * width]);
        for (out, target) in self.targets.iter_mut().zip(&block.targets) {
            out.label.extend_from_slice(&target.label[rows.clone()]);
            out.weight.extend_from_slice(&target.weight[rows.clone()]);
        }
        for (out, group) in self.groups.iter_mut().zip(&block.groups) {
            out.extend_from_slice(&group[rows.clone()]);
        }
        if !block.scenarios.is_empty() {
            self.scenarios.extend_from_slice(&block.scenarios[rows.clone()]);
        }
        self.origin.extend_from_slice(&block.origin[rows.clone()]);
        self.present.resize(self.present.len() + rows.len(), true);
        self.rows += rows.len();
    }

    /// Appends one padding row, which carries no ids and no labels; its scenario is the first.
    pub fn append_padding(&mut self, schema: &Schema, slot: u32) {
        self.ids.iter_mut().for_each(|column| column.push(&[]));
        self.dense.resize(self.dense.len() + schema.dense_width, 0.0);
        self.scenarios.extend(schema.scenario.map(|_| 0));
        for target in &mut self.targets {
            target.label.push(0.0);
            target.weight.push(0.0);
        }
        for group in &mut self.groups {
            group.push(0);
        }
        self.slots.push(slot);
        self.present.push(false);
        self.origin.push(Origin::default());
        self.rows += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A batch whose rows have `lists` of ids in a first column and one id in a second.
    fn batch(lists: &[Vec<u64>]) -> Batch {
        let mut batch = Batch::empty(2, 1, 1);
        for (row, ids) in lists.iter().enumerate() {
            for (column, ids) in batch.ids.iter_mut().zip([ids.as_slice(), &[row as u64 + 100]]) {
                column.push(ids);
            }
            batch.dense.extend([row as f32, -(row as f32)]);
            batch.targets[0].label.push(row as f32 + 0.5);
            batch.targets[0].weight.push(1.0 / (row as f32 + 1.0));
            batch.groups[0].push(row as u64 + 1000);
            batch.scenarios.push(row as u32 % 3);
            batch.origin.push(Origin { row_group: 3, row: row as u32 });
            batch.present.push(true);
        }
        batch.rows = lists.len();
        batch
    }

    proptest! {
        #[test]
        fn rows_arrive_whole_and_in_order(
            lists in prop::collection::vec(prop::collection::vec(0u64..9, 0..4), 1..20),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let block = batch(&lists);
            let picks: Vec<u32> = picks.iter().map(|pick| pick.index(lists.len()) as u32).collect();
            let mut picked = batch(&lists[..1]);
            picked.append_rows(&block, &picks);
            for (row, &from) in std::iter::once(&0).chain(&picks).enumerate() {
                let from = from as usize;
                for (out, column) in picked.ids.iter().zip(&block.ids) {
                    prop_assert_eq!(out.row(row), column.row(from));
                }
                prop_assert_eq!(&picked.dense[2 * row..2 * row + 2], &block.dense[2 * from..2 * from + 2]);
                let target = |batch: &Batch, row: usize| (batch.targets[0].label[row], batch.targets[0].weight[row]);
                prop_assert_eq!(target(&picked, row), target(&block, from));
                prop_assert_eq!((picked.groups[0][row], picked.origin[row]), (block.groups[0][from], block.origin[from]));
                prop_assert_eq!(picked.scenarios[row], block.scenarios[from]);
            }
            prop_assert_eq!((picked.rows, picked.present.len()), (1 + picks.len(), 1 + picks.len()));
        }

        #[test]
        fn a_range_is_its_rows_one_by_one(
            lists in prop::collection::vec(prop::collection::vec(0u64..9, 0..4), 1..20),
            ends in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let block = batch(&lists);
            let (a, b) = (ends.0.index(lists.len() + 1), ends.1.index(lists.len() + 1));
            let range = a.min(b)..a.max(b);
            let rows: Vec<u32> = range.clone().map(|row| row as u32).collect();
            let (mut by_range, mut by_row) = (batch(&lists[..1]), batch(&lists[..1]));
            by_range.append_range(&block, range);
            by_row.append_rows(&block, &rows);
            prop_assert_eq!(by_range, by_row);
        }
    }
}
