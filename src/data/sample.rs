//! What some rows of a log hold, read before a run that would take hours: nulls, numbers that are not finite, labels, ids.
//!
//! Row groups are picked evenly over the log, and the first rows of each are read, up to a limit in all. The rows are decoded as in
//! training, so that what training would refuse is found with its own words; what a column holds is counted beside that,
//! because one bad value hides the rest of its rows from the decoder.

use super::batch::Batch;
use super::columns;
use super::decode::Decoder;
use super::lanes::Piece;
use super::place::Place;
use super::plan::Plan;
use super::reader::{Columns, Files, Slice};
use super::scenarios::Scenarios;
use super::schema::Schema;
use super::statistics::{Numeric, Statistics};
use super::store::Store;
use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Row groups looked into, at most.
const GROUPS_LIMIT: usize = 64;

/// Rows decoded at a time: those that a bad value hides.
const BATCH_ROWS: usize = 512;

/// Errors kept, each of another column or kind.
const ERRORS_LIMIT: usize = 20;

/// What a sample holds.
#[derive(Debug, Default)]
pub struct Sample {
    /// Row groups looked into.
    pub row_groups: usize,
    /// Rows read.
    pub rows: u64,
    /// Those of them that can be trained on.
    pub decoded: u64,
    /// By column of the schema.
    pub columns: Vec<ColumnCounts>,
    /// By task.
    pub labels: Vec<LabelCounts>,
    /// Occurrences of ids, by table of the job; crosses and buckets of numbers are ids too.
    pub ids: BTreeMap<String, HashMap<u64, u32>>,
    /// What training would end on, once each.
    pub errors: Vec<Error>,
}

/// What one column holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnCounts {
    /// Rows with a value.
    pub values: u64,
    /// Rows without.
    pub nulls: u64,
    /// Rows with a number that is not finite.
    pub not_finite: u64,
    /// The first of those.
    pub first: Option<(String, u32, u32)>,
    /// Smallest and largest finite number; of a column that is read as numbers.
    pub range: Option<(f64, f64)>,
}

/// What the labels of one task are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelCounts {
    /// Rows that carry one.
    pub labelled: u64,
    /// How often each label occurs; of a regression only its smallest and its largest.
    pub values: BTreeMap<i64, u64>,
    /// Smallest and largest.
    pub range: Option<(f32, f32)>,
}

impl Sample {
    /// Reads at most about `limit` rows.
    ///
    /// # Errors
    /// Only what keeps all of it from being read; a bad row or row group is a part of the result.
    pub fn take(store: Arc<dyn Store>, plan: Arc<Plan>, schema: Arc<Schema>, limit: u64) -> Result<Self> {
        let files = Files::new(store, plan.clone(), schema.clone(), Columns::Needed);
        let statistics = made_up(&schema);
        let pieces = pick(&plan, limit);
        let parts: Vec<Self> =
            pieces.par_iter().map(|&piece| Self::of_piece(&files, &statistics, piece)).collect::<Result<_>>()?;
        let mut whole = Self::empty(&schema);
        parts.into_iter().for_each(|part| whole.merge(part));
        whole.row_groups = pieces.len();
        Ok(whole)
    }

    fn empty(schema: &Schema) -> Self {
        Self {
            columns: vec![ColumnCounts::default(); schema.columns.len()],
            labels: vec![LabelCounts::default(); schema.tasks.len()],
            ids: schema.id_features.iter().map(|feature| (feature.table.clone(), HashMap::new())).collect(),
            ..Self::default()
        }
    }

    fn of_piece(files: &Files, statistics: &Statistics, piece: Piece) -> Result<Self> {
        let schema = files.schema();
        let mut sample = Self::empty(schema);
        let mut decoder = Decoder::new(schema.clone(), statistics)?;
        let all: Vec<usize> = (0..schema.columns.len()).collect();
        let mut reader = match files.read(piece, &all, BATCH_ROWS) {
            Ok(reader) => reader,
            Err(error) => {
                sample.errors.push(error);
                return Ok(sample);
            }
        };
        loop {
            match reader.take(BATCH_ROWS) {
                Ok(Some(slice)) => sample.add(schema, &mut decoder, &slice, &reader.place(slice.first_row)),
                Ok(None) => return Ok(sample),
                Err(error) => {
                    sample.errors.push(error);
                    return Ok(sample);
                }
            }
        }
    }

    fn add(&mut self, schema: &Schema, decoder: &mut Decoder, slice: &Slice, place: &Place) {
        let rows = slice.batch.num_rows();
        self.rows += rows as u64;
        for (counts, array) in self.columns.iter_mut().zip(&slice.columns) {
            counts.add(array, place);
        }
        let mut batch = decoder.empty();
        match decoder.append(&slice.columns, rows, place, &mut batch) {
            Ok(()) => self.add_batch(schema, &batch),
            Err(error) => self.errors.push(error),
        }
    }

    fn add_batch(&mut self, schema: &Schema, batch: &Batch) {
        self.decoded += batch.rows as u64;
        for (counts, target) in self.labels.iter_mut().zip(&batch.targets) {
            for (&label, _) in target.label.iter().zip(&target.weight).filter(|(_, weight)| **weight > 0.0) {
                counts.add(label);
            }
        }
        for (feature, column) in schema.id_features.iter().zip(&batch.ids) {
            let Some(counts) = self.ids.get_mut(&feature.table) else { continue };
            for &id in column.ids() {
                *counts.entry(id).or_default() += 1;
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.decoded += other.decoded;
        self.columns.iter_mut().zip(other.columns).for_each(|(counts, other)| counts.merge(other));
        self.labels.iter_mut().zip(other.labels).for_each(|(counts, other)| counts.merge(other));
        for (table, ids) in other.ids {
            let known = self.ids.entry(table).or_default();
            ids.into_iter().for_each(|(id, count)| *known.entry(id).or_default() += count);
        }
        for error in other.errors {
            let same = |known: &Error| known.place("column") == error.place("column") && known.kind() == error.kind();
            if self.errors.len() < ERRORS_LIMIT && !self.errors.iter().any(same) {
                self.errors.push(error);
            }
        }
    }
}

impl ColumnCounts {
    fn add(&mut self, array: &ArrayRef, place: &Place) {
        let nulls = columns::nulls(array);
        let null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        let absent = nulls.as_ref().map_or(0, |nulls| nulls.null_count());
        self.nulls += absent as u64;
        self.values += (array.len() - absent) as u64;
        let lists = columns::lists(array);
        let mut numbers = Vec::new();
        // Text has no numbers, and nothing here that is not finite.
        if columns::numbers(lists.as_ref().map_or(array, |lists| &lists.values), &mut numbers).is_err() {
            return;
        }
        let of = |row: usize| lists.as_ref().map_or(row..row + 1, |lists| lists.offsets[row]..lists.offsets[row + 1]);
        for row in (0..array.len()).filter(|&row| !null(row)) {
            let numbers = &numbers[of(row)];
            if numbers.iter().any(|x| !x.is_finite()) {
                self.not_finite += 1;
                let at = || (place.file.to_string(), place.number, place.first_row + row as u32);
                self.first.get_or_insert_with(at);
            }
            for &x in numbers.iter().filter(|x| x.is_finite()) {
                let (low, high) = self.range.unwrap_or((x, x));
                self.range = Some((low.min(x), high.max(x)));
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.values += other.values;
        self.nulls += other.nulls;
        self.not_finite += other.not_finite;
        self.first = self.first.take().or(other.first);
        self.range = match (self.range, other.range) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
}

impl LabelCounts {
    /// Labels told apart: those of a regression can be as many as its rows.
    const VALUES_LIMIT: usize = 10_000;

    fn add(&mut self, label: f32) {
        self.labelled += 1;
        let (low, high) = self.range.unwrap_or((label, label));
        self.range = Some((low.min(label), high.max(label)));
        if label.fract() == 0.0 && self.values.len() < Self::VALUES_LIMIT {
            *self.values.entry(label as i64).or_default() += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        self.labelled += other.labelled;
        other.values.into_iter().for_each(|(label, count)| *self.values.entry(label).or_default() += count);
        self.range = match (self.range, other.range) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
}

/// Statistics that let every number and scenario be decoded.
fn made_up(schema: &Schema) -> Statistics {
    let mut statistics = Statistics::default();
    for feature in schema.numeric_features() {
        statistics.insert(feature.name, Numeric { std: 1.0, max: 1.0, ..Numeric::default() });
    }
    if schema.scenario.is_some() {
        statistics.set_scenarios(Scenarios::default());
    }
    statistics
}

/// Row groups spread evenly over the plan, and as many rows of each as the limit leaves.
fn pick(plan: &Plan, limit: u64) -> Vec<Piece> {
    let groups = plan.row_groups.len();
    if plan.rows <= limit && groups <= GROUPS_LIMIT {
        return (0..).zip(&plan.row_groups).map(|(row_group, g)| Piece { row_group, start: 0, rows: g.rows }).collect();
    }
    let wanted = groups.min(GROUPS_LIMIT);
    let rows = (limit / wanted as u64).clamp(1, u64::from(u32::MAX)) as u32;
    let picked = (0..wanted).map(|i| (i * groups / wanted) as u32);
    picked
        .map(|row_group| Piece { row_group, start: 0, rows: plan.row_groups[row_group as usize].rows.min(rows) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::store::Local;
    use super::super::testing::{TestFile, ints, schema};
    use super::*;
    use crate::comm::solo::Solo;
    use arrow::array::Float64Array;

    const JOB: &str = "
features:
  - {name: user, kind: categorical}
  - {name: age, kind: numeric}
tasks: [{name: click, label: click}]";

    /// 100 rows in row groups of 20; `age` is NaN in row 45 and null in every tenth, `click` is 2 in row 90.
    fn sample(limit: u64) -> Sample {
        let folder = tempfile::tempdir().unwrap();
        let age = (0..100).map(|row| match row {
            45 => Some(f64::NAN),
            row if row % 10 == 0 => None,
            row => Some(row as f64),
        });
        let age: ArrayRef = Arc::new(age.collect::<Float64Array>());
        let click = ints((0..100).map(|row| if row == 90 { 2 } else { i64::from(row % 4 == 0) }));
        let columns = [("user", ints((0..100).map(|row| row % 30))), ("age", age), ("click", click)];
        TestFile::new(&columns).row_group_rows(20).write(&folder.path().join("a.parquet"));
        let schema = schema(JOB);
        let plan = Plan::read(&Solo, &Local, &[folder.path().display().to_string()], &schema).unwrap();
        Sample::take(Arc::new(Local), Arc::new(plan), Arc::new(schema), limit).unwrap()
    }

    #[test]
    fn a_small_log_is_read_whole_and_counted() {
        let sample = sample(1000);
        assert_eq!((sample.rows, sample.row_groups), (100, 5));
        let [user, age, click] = &sample.columns[..] else { panic!("three columns") };
        assert_eq!((user.values, user.nulls, user.not_finite), (100, 0, 0));
        assert_eq!((age.values, age.nulls, age.not_finite, age.range), (90, 10, 1, Some((1.0, 99.0))));
        let (file, group, row) = age.first.clone().unwrap();
        assert!(file.ends_with("a.parquet") && (group, row) == (2, 5));
        assert_eq!(click.range, Some((0.0, 2.0)));
        // What training refuses, in its words.
        let errors: Vec<String> = sample.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains("the value is NaN") && errors[1].contains("neither 0 nor 1"), "{errors:?}");
        assert_eq!((sample.decoded, sample.labels[0].labelled), (60, 60));
        assert_eq!(sample.ids["user"].len(), 30);
    }

    #[test]
    fn a_large_log_is_read_evenly_up_to_the_limit() {
        let sample = sample(50);
        assert_eq!((sample.rows, sample.row_groups), (50, 5));
        assert_eq!(sample.labels[0].values, BTreeMap::from([(0, 28), (1, 12)]));
        let plan = |groups: usize, rows: u32| {
            let group = super::super::plan::RowGroup { file: 0, index: 0, rows, bytes: 1 };
            Plan { row_groups: vec![group; groups], rows: groups as u64 * u64::from(rows), ..Plan::default() }
        };
        let picked = pick(&plan(1000, 500), 6400);
        assert_eq!(picked.len(), 64);
        assert!(picked.iter().all(|piece| piece.rows == 100));
        assert_eq!((picked[0].row_group, picked[63].row_group), (0, 984));
    }
}
