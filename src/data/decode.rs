//! From Arrow columns to rows of a [`Batch`]: ids, transformed numbers, checked labels.
//!
//! Training, evaluation and prediction all decode here. Whatever a row holds that cannot be used is an
//! error with the row's address.

mod targets;
#[cfg(test)]
mod tests;

use super::batch::{Batch, IdColumn, Origin};
use super::columns::{self, DictionaryHashes};
use super::pairs::Pairing;
use super::place::{Place, not_finite};
use super::schema::{DenseFeature, IdFeature, IdSource, Schema};
use super::statistics::{Numeric, Statistics};
use crate::error::{Error, Result};
use crate::random::mix;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use std::collections::HashMap;
use std::sync::Arc;

/// Stands for a null in a cross, and as the group of rows whose GAUC key is null.
pub const NULL_ID: u64 = 0x6e75_6c6c_0000_0000;

/// The id of a cross: [`crate::random::hash`] under seed 0 of the ids of its columns, a null being
/// [`NULL_ID`].
pub fn cross_id(parts: &[u64]) -> u64 {
    crate::random::hash(0, parts)
}

/// Decodes columns. Keeps dictionary hashes and scratch space between calls, so one decoder serves one
/// reader.
pub struct Decoder {
    schema: Arc<Schema>,
    /// Statistics of each dense feature; `None` for vectors.
    dense: Vec<Option<Numeric>>,
    /// Statistics of each id feature; `None` unless it is a quantile.
    quantile: Vec<Option<Numeric>>,
    /// Numbers of the scenarios by id, and that of any other id.
    scenarios: (HashMap<u64, u32>, u32),
    hashes: Vec<DictionaryHashes>,
    pairing: Pairing,
    ids: Vec<u64>,
    numbers: Vec<f64>,
}

/// One column while it is being decoded.
struct Input<'a> {
    array: &'a ArrayRef,
    nulls: Option<NullBuffer>,
    name: &'a str,
}

impl Input<'_> {
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }
}

impl Decoder {
    /// A decoder; fails if a numeric feature has no statistics, or the job's scenarios are not known.
    pub fn new(schema: Arc<Schema>, statistics: &Statistics) -> Result<Self> {
        let of = |name: &str| statistics.get(name).cloned().map(Some);
        let dense = schema.dense_features.iter().map(|f| if f.transform.is_some() { of(&f.name) } else { Ok(None) });
        let dense = dense.collect::<Result<_>>()?;
        let is_quantile = |f: &IdFeature| matches!(f.source, IdSource::Quantile { .. });
        let quantile = schema.id_features.iter().map(|f| if is_quantile(f) { of(&f.name) } else { Ok(None) });
        let quantile = quantile.collect::<Result<_>>()?;
        let scenarios = match (schema.scenario, statistics.scenarios()) {
            (None, _) => (HashMap::new(), 0),
            (Some(_), Some(scenarios)) => (scenarios.numbers(), scenarios.other()),
            (Some(_), None) => return Err(Error::internal("rows have scenarios that no pass has numbered")),
        };
        let hashes = schema.columns.iter().map(|_| DictionaryHashes::default()).collect();
        let pairing = Pairing::default();
        Ok(Self { schema, dense, quantile, scenarios, hashes, pairing, ids: Vec::new(), numbers: Vec::new() })
    }

    /// Draws what the pairs of a training row need.
    #[must_use]
    pub fn with_pairing(self, pairing: Pairing) -> Self {
        Self { pairing, ..self }
    }

    /// A batch of no rows, for [`Decoder::append`]: its ids are those of the features.
    pub fn empty(&self) -> Batch {
        let Schema { id_features, tasks, group_columns, .. } = self.schema.as_ref();
        Batch::empty(id_features.len(), tasks.len(), group_columns.len())
    }

    /// What a batch becomes once all its rows are appended: where tasks are pairs, its ids are those of the pairs.
    pub fn finish(&self, batch: Batch) -> Result<Batch> {
        self.pairing.apply(&self.schema, batch)
    }

    /// Decodes a whole record batch, whose columns are found by name: slots count from 0.
    pub fn record_batch(&mut self, rows: &RecordBatch, place: &Place) -> Result<Batch> {
        let column = |name: &String| {
            rows.column_by_name(name).cloned().ok_or_else(|| {
                Error::data(format!("no column `{name}`")).at("file", place.file).fix("correct the name in the job")
            })
        };
        let names = self.schema.columns.iter().map(|column| &column.name);
        let arrays = names.map(column).collect::<Result<Vec<_>>>()?;
        self.whole_batch(&arrays, rows.num_rows(), place)
    }

    /// [`Decoder::record_batch`] where the columns are at hand, in the order of the schema's.
    pub fn whole_batch(&mut self, arrays: &[ArrayRef], rows: usize, place: &Place) -> Result<Batch> {
        let mut batch = self.empty();
        self.append(arrays, rows, place, &mut batch)?;
        batch.slots = (0..rows as u32).collect();
        self.finish(batch)
    }

    /// Decodes `rows` rows and appends them to `out`. `arrays` are in the order of `Schema::columns`. After
    /// an error `out` is left uneven and must be dropped. Slots are the caller's to append.
    pub fn append(&mut self, arrays: &[ArrayRef], rows: usize, place: &Place, out: &mut Batch) -> Result<()> {
        let schema = self.schema.clone();
        let input = |column: usize| Input {
            array: &arrays[column],
            nulls: columns::nulls(&arrays[column]),
            name: &schema.columns[column].name,
        };
        for (index, feature) in schema.id_features.iter().enumerate() {
            match &feature.source {
                IdSource::Ids { column, last } => {
                    self.append_ids(&input(*column), *column, feature.max_len, *last, place, &mut out.ids[index])?;
                }
                IdSource::Cross { columns } => {
                    let parts = columns.iter().map(|&column| (column, input(column)));
                    self.append_cross(parts, rows, place, &mut out.ids[index])?;
                }
                IdSource::Quantile { column, .. } => {
                    self.append_buckets(&input(*column), index, place, &mut out.ids[index])?;
                }
            }
        }
        let first = out.dense.len();
        out.dense.resize(first + rows * schema.dense_width, 0.0);
        for (index, feature) in schema.dense_features.iter().enumerate() {
            let block = &mut out.dense[first..];
            match self.dense[index].clone() {
                Some(numeric) => self.fill_number(&input(feature.column), feature, &numeric, place, block)?,
                None => self.fill_vector(&input(feature.column), feature, place, block)?,
            }
        }
        self.append_targets(input, rows, place, out)?;
        for (group, &column) in out.groups.iter_mut().zip(schema.group_indices()) {
            self.scalar_ids(&input(column), column, place)?;
            group.append(&mut self.ids);
        }
        if let Some(column) = schema.scenario {
            self.append_scenarios(&input(column), column, place, &mut out.scenarios)?;
        }
        out.origin.extend((0..rows as u32).map(|i| Origin { row_group: place.row_group, row: place.first_row + i }));
        out.present.resize(out.present.len() + rows, true);
        out.rows += rows;
        Ok(())
    }

    /// Fills `self.ids` with one id a row, nulls as [`NULL_ID`].
    fn scalar_ids(&mut self, input: &Input, column: usize, place: &Place) -> Result<()> {
        self.ids.clear();
        columns::ids(input.array, &mut self.hashes[column], &mut self.ids)
            .map_err(|e| place.unreadable(input.name, &e))?;
        if let Some(nulls) = &input.nulls {
            self.ids.iter_mut().enumerate().filter(|(row, _)| nulls.is_null(*row)).for_each(|(_, id)| *id = NULL_ID);
        }
        Ok(())
    }

    /// One number a row; nulls and ids that training has not seen have that of "other".
    fn append_scenarios(&mut self, input: &Input, column: usize, place: &Place, out: &mut Vec<u32>) -> Result<()> {
        self.scalar_ids(input, column, place)?;
        let (numbers, other) = &self.scenarios;
        let number = |(row, id): (usize, &u64)| match input.is_null(row) {
            true => *other,
            false => numbers.get(id).copied().unwrap_or(*other),
        };
        out.extend(self.ids.iter().enumerate().map(number));
        Ok(())
    }

    /// Fills `self.numbers` with the elements of `array`.
    fn read_numbers(&mut self, array: &ArrayRef, name: &str, place: &Place) -> Result<()> {
        self.numbers.clear();
        columns::numbers(array, &mut self.numbers).map_err(|e| place.unreadable(name, &e))
    }

    fn append_ids(
        &mut self,
        input: &Input,
        column: usize,
        max_len: Option<usize>,
        last: bool,
        place: &Place,
        out: &mut IdColumn,
    ) -> Result<()> {
        let Some(lists) = columns::lists(input.array) else {
            if input.nulls.is_none() {
                return out
                    .append_one_each(|ids| columns::ids(input.array, &mut self.hashes[column], ids))
                    .map_err(|e| place.unreadable(input.name, &e));
            }
            self.scalar_ids(input, column, place)?;
            for (row, &id) in self.ids.iter().enumerate() {
                out.push_all((!input.is_null(row)).then_some(id).into_iter());
            }
            return Ok(());
        };
        let items = Input { array: &lists.values, nulls: columns::nulls(&lists.values), name: input.name };
        self.scalar_ids(&items, column, place)?;
        let limit = max_len.unwrap_or(usize::MAX);
        for row in 0..input.array.len() {
            let (start, end) = (lists.offsets[row], lists.offsets[row + 1]);
            let end = if input.is_null(row) { start } else { end };
            push_list(&self.ids, start, end, items.nulls.as_ref(), limit, last, out);
        }
        Ok(())
    }

    /// Folds [`cross_id`] column by column.
    fn append_cross<'a>(
        &mut self,
        parts: impl Iterator<Item = (usize, Input<'a>)>,
        rows: usize,
        place: &Place,
        out: &mut IdColumn,
    ) -> Result<()> {
        out.append_one_each(|ids| {
            let first = ids.len();
            ids.resize(first + rows, mix(0));
            for (column, input) in parts {
                self.scalar_ids(&input, column, place)?;
                for (hash, &part) in ids[first..].iter_mut().zip(&self.ids) {
                    *hash = mix(*hash ^ mix(part));
                }
            }
            Ok(())
        })
    }

    fn append_buckets(&mut self, input: &Input, feature: usize, place: &Place, out: &mut IdColumn) -> Result<()> {
        self.read_numbers(input.array, input.name, place)?;
        let Some(numeric) = &self.quantile[feature] else {
            return Err(Error::internal("a quantile feature without statistics"));
        };
        let bucket = |(row, &x): (usize, &f64)| match x.is_finite() {
            _ if input.is_null(row) => Ok(numeric.null_bucket()),
            true => Ok(numeric.bucket(x)),
            false => Err(not_finite(x, input.name, row, place)),
        };
        for bucket in self.numbers.iter().enumerate().map(bucket) {
            out.push(&[bucket?]);
        }
        Ok(())
    }

    fn fill_number(
        &mut self,
        input: &Input,
        feature: &DenseFeature,
        numeric: &Numeric,
        place: &Place,
        block: &mut [f32],
    ) -> Result<()> {
        let Some(transform) = feature.transform else {
            return Err(Error::internal("a number without a transform"));
        };
        self.read_numbers(input.array, input.name, place)?;
        let (numbers, width) = (&self.numbers, self.schema.dense_width);
        let cells = block.chunks_exact_mut(width).map(|row| &mut row[feature.start]);
        let finite = numeric.apply_all(transform, numbers, cells);
        if let Some(nulls) = &input.nulls {
            let fill = numeric.fill(transform);
            let cells = block.chunks_exact_mut(width).enumerate();
            cells.filter(|(row, _)| nulls.is_null(*row)).for_each(|(_, cells)| cells[feature.start] = fill);
        }
        // What stands in the place of a null does not matter.
        let wrong = |row: &usize| !input.is_null(*row) && !numeric.applies(transform, numbers[*row]);
        match (0..numbers.len()).find(|row| !finite && wrong(row)) {
            Some(row) => Err(not_finite(numbers[row], input.name, row, place)),
            None => Ok(()),
        }
    }

    fn fill_vector(&mut self, input: &Input, feature: &DenseFeature, place: &Place, block: &mut [f32]) -> Result<()> {
        let Some(lists) = columns::lists(input.array) else {
            if input.array.logical_null_count() == input.array.len() {
                return Ok(()); // a column of nulls has no type of its own
            }
            return Err(place.error("a vector must be a list".to_string(), input.name, 0));
        };
        let item_nulls = columns::nulls(&lists.values);
        self.read_numbers(&lists.values, input.name, place)?;
        for (row, cells) in block.chunks_exact_mut(self.schema.dense_width).enumerate() {
            if input.is_null(row) {
                continue; // zeros
            }
            let (start, end) = (lists.offsets[row], lists.offsets[row + 1]);
            if end - start != feature.width {
                let what = format!("a vector of {} numbers where `length` is {}", end - start, feature.width);
                return Err(place
                    .error(what, input.name, row)
                    .fix("set `length` to what the file holds, or mend the file"));
            }
            for (cell, i) in cells[feature.start..].iter_mut().zip(start..end) {
                if item_nulls.as_ref().is_some_and(|nulls| nulls.is_null(i)) {
                    let what = "a null inside a vector".to_string();
                    return Err(place.error(what, input.name, row).fix("make the whole vector null, or fill it in"));
                }
                *cell = self.numbers[i] as f32;
                if !cell.is_finite() {
                    return Err(not_finite(self.numbers[i], input.name, row, place));
                }
            }
        }
        Ok(())
    }
}

/// A batch of no rows that [finished](Decoder::finish) ones of `schema` can be appended to.
pub fn empty_batch(schema: &Schema) -> Batch {
    Batch::empty(schema.id_columns().len(), schema.tasks.len(), schema.group_columns.len())
}

/// Appends a row of at most `limit` non-null ids of `all[start..end]`: the last ones or the first.
fn push_list(
    all: &[u64],
    start: usize,
    end: usize,
    nulls: Option<&NullBuffer>,
    limit: usize,
    last: bool,
    out: &mut IdColumn,
) {
    let Some(nulls) = nulls else {
        let kept = limit.min(end - start);
        let from = if last { end - kept } else { start };
        return out.push(&all[from..from + kept]);
    };
    let valid = |i: &usize| nulls.is_valid(*i);
    let from = match last {
        true => (start..end).rev().filter(valid).take(limit).last().unwrap_or(end),
        false => start,
    };
    out.push_all((from..end).filter(valid).take(limit).map(|i| all[i]));
}
