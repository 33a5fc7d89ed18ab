//! The ids of one feature, row after row.

use std::ops::Range;

/// The ids of one feature for every row of a batch. Most features have one id in every row; only where one has not are the
/// ends of rows kept.
#[derive(Debug, Clone, Default)]
pub struct IdColumn {
    /// Integers are taken as they are, strings and crosses are hashed to 64 bits.
    ids: Vec<u64>,
    /// `offsets[i]..offsets[i + 1]` are the positions of row `i` in `ids`; empty as long as every row has one id.
    offsets: Vec<u32>,
}

impl IdColumn {
    /// One id a row.
    pub fn one_each(ids: Vec<u64>) -> Self {
        Self { ids, offsets: Vec::new() }
    }

    /// Row `i` has `ids[offsets[i]..offsets[i + 1]]`. Offsets start at 0, do not fall, and end at the number of ids.
    pub fn lists(offsets: Vec<u32>, ids: Vec<u64>) -> Self {
        let one_each = offsets.len() == ids.len() + 1 && (0..).zip(&offsets).all(|(row, &offset)| row == offset);
        Self { ids, offsets: if one_each { Vec::new() } else { offsets } }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        if self.offsets.is_empty() { self.ids.len() } else { self.offsets.len() - 1 }
    }

    /// The ids of all rows.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Where rows begin, and the last ends; `None` where every row has one id.
    pub fn offsets(&self) -> Option<&[u32]> {
        (!self.offsets.is_empty()).then_some(&self.offsets)
    }

    /// The ids of one row.
    pub fn row(&self, row: usize) -> &[u64] {
        match self.offsets() {
            None => &self.ids[row..=row],
            Some(offsets) => &self.ids[offsets[row] as usize..offsets[row + 1] as usize],
        }
    }

    /// Appends a row.
    pub fn push(&mut self, ids: &[u64]) {
        let first = self.ids.len();
        match ids {
            // Copying a slice is slow for one.
            &[id] => self.ids.push(id),
            ids => self.ids.extend_from_slice(ids),
        }
        self.end_row(first);
    }

    /// [`IdColumn::push`] of what an iterator gives.
    pub fn push_all(&mut self, ids: impl Iterator<Item = u64>) {
        let first = self.ids.len();
        self.ids.extend(ids);
        self.end_row(first);
    }

    /// Appends rows of one id each, by giving `append` the ids of all rows so far to append to.
    pub fn append_one_each<T>(&mut self, append: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        let (first, result) = (self.ids.len(), append(&mut self.ids));
        if !self.offsets.is_empty() {
            self.offsets.extend((first + 1..=self.ids.len()).map(|end| end as u32));
        }
        result
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.offsets.clear();
    }

    /// Appends some rows of `column`, in the order given.
    pub fn append_rows(&mut self, column: &Self, rows: &[u32]) {
        if column.offsets.is_empty() {
            self.append_one_each(|ids| ids.extend(rows.iter().map(|&row| column.ids[row as usize])));
            return;
        }
        self.ids.reserve(column.ids.len());
        rows.iter().for_each(|&row| self.push(column.row(row as usize)));
    }

    /// Appends consecutive rows of `column`.
    pub fn append_range(&mut self, column: &Self, rows: Range<usize>) {
        let Some(offsets) = column.offsets() else {
            return self.append_one_each(|ids| ids.extend_from_slice(&column.ids[rows]));
        };
        self.keep_offsets(self.ids.len());
        let offsets = &offsets[rows.start..=rows.end];
        let (first, end) = (offsets[0], self.ids.len() as u32);
        self.ids.extend_from_slice(&column.ids[first as usize..offsets[rows.len()] as usize]);
        self.offsets.extend(offsets[1..].iter().map(|&offset| offset - first + end));
    }

    /// Ends a row whose ids are those from position `first` on.
    fn end_row(&mut self, first: usize) {
        if self.offsets.is_empty() {
            if self.ids.len() == first + 1 {
                return;
            }
            self.keep_offsets(first);
        }
        self.offsets.push(self.ids.len() as u32);
    }

    /// From here on: of `rows` rows of one id each so far.
    fn keep_offsets(&mut self, rows: usize) {
        if self.offsets.is_empty() {
            self.offsets.extend(0..=rows as u32);
        }
    }
}

/// By rows: offsets that say that every row has one id are as good as none.
impl PartialEq for IdColumn {
    fn eq(&self, other: &Self) -> bool {
        let same_length = |row| self.row(row).len() == other.row(row).len();
        self.ids == other.ids && self.rows() == other.rows() && (0..self.rows()).all(same_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(rows: &[Vec<u64>]) -> IdColumn {
        let mut column = IdColumn::default();
        rows.iter().for_each(|ids| column.push(ids));
        column
    }

    fn rows(column: &IdColumn) -> Vec<Vec<u64>> {
        (0..column.rows()).map(|row| column.row(row).to_vec()).collect()
    }

    #[test]
    fn offsets_are_kept_from_the_first_row_that_has_not_one_id() {
        let mut column = IdColumn::one_each(vec![7, 8]);
        column.append_one_each(|ids| ids.push(9));
        assert!(column.offsets().is_none());
        column.push_all(std::iter::empty());
        column.append_one_each(|ids| ids.push(10));
        assert_eq!(column.offsets(), Some(&[0, 1, 2, 3, 3, 4][..]));
        assert_eq!(rows(&column), [vec![7], vec![8], vec![9], vec![], vec![10]]);
        column.clear();
        assert_eq!((column.rows(), column.offsets()), (0, None));
        column.push(&[1, 2]);
        assert_eq!(rows(&column), [[1, 2]]);
    }

    #[test]
    fn lists_of_one_id_each_are_one_id_a_row() {
        assert!(IdColumn::lists(vec![0, 1, 2], vec![5, 6]).offsets().is_none());
        assert!(IdColumn::lists(vec![0], vec![]).offsets().is_none());
        for (offsets, ids) in [(vec![0, 2], vec![5, 6]), (vec![0, 0, 2], vec![5, 6]), (vec![0, 0], vec![])] {
            assert_eq!(IdColumn::lists(offsets.clone(), ids).offsets(), Some(&offsets[..]));
        }
    }

    proptest! {
        #[test]
        fn any_way_of_appending_gives_the_rows(
            before in prop::collection::vec(prop::collection::vec(0u64..9, 0..3), 0..5),
            lists in prop::collection::vec(prop::collection::vec(0u64..9, 0..4), 1..12),
            one_each: bool,
            ends in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let lists = if one_each { lists.into_iter().map(|ids| vec![ids.len() as u64]).collect() } else { lists };
            let (a, b) = (ends.0.index(lists.len() + 1), ends.1.index(lists.len() + 1));
            let (range, from) = (a.min(b)..a.max(b), column(&lists));
            let expected = [&before[..], &lists[range.clone()]].concat();

            let (mut by_range, mut by_rows, mut by_iterator) = (column(&before), column(&before), column(&before));
            by_range.append_range(&from, range.clone());
            by_rows.append_rows(&from, &range.clone().map(|row| row as u32).collect::<Vec<_>>());
            range.for_each(|row| by_iterator.push_all(from.row(row).iter().copied()));
            for column in [&by_range, &by_rows, &by_iterator] {
                prop_assert_eq!(&rows(column), &expected);
                prop_assert_eq!(column, &by_range);
            }
        }
    }
}
