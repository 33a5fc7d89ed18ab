//! Scenarios: the values of the column `data.scenario` in the training rows, numbered.
//!
//! ```text
//! values of the column, nulls left out    18  25  35  …      sorted: integers as numbers, everything else as text
//! number                                   0   1   2  …  S−1
//! null, or a value that training has not seen             S      "other"
//! ```
//!
//! Each row group is read by one rank, and the sets of values are joined on every rank: the numbers do not depend on
//! how many ranks there are. They are saved with the statistics, because a model has parameters by number.

use super::columns::{self, DictionaryHashes};
use super::lanes::Piece;
use super::reader::Files;
use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};
use arrow::util::display::array_value_to_string;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Most scenarios of a job. Each has parameters of its own, and metrics of every task.
pub const MAX_SCENARIOS: usize = 1000;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 8192;

/// The scenarios of a job, in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenarios {
    /// The values as text.
    names: Vec<String>,
    /// Their ids, as of any id column.
    ids: Vec<u64>,
}

impl Scenarios {
    /// Names by number, without "other".
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of what has no name.
    pub fn other(&self) -> u32 {
        self.names.len() as u32
    }

    /// The number of each id.
    pub fn numbers(&self) -> HashMap<u64, u32> {
        self.ids.iter().copied().zip(0..).collect()
    }

    /// Reads the scenario column of all row groups, each on one rank; `None` where the job has no such column.
    /// Collective.
    ///
    /// # Errors
    /// More than [`MAX_SCENARIOS`] values, or none at all.
    pub fn collect(comm: &dyn Communicator, files: &Files) -> Result<Option<Self>> {
        let Some(column) = files.schema().scenario else { return Ok(None) };
        let name = &files.schema().columns[column].name;
        let groups = files.plan().row_groups.len() as u32;
        let mine: Vec<u32> = (comm.rank() as u32..groups).step_by(comm.size()).collect();
        let read: Vec<_> = mine.par_iter().map(|&group| values_of(files, column, group)).collect();
        let read = read.into_iter().collect::<Result<Vec<_>>>().and_then(|read| joined(read, name));
        let mine = collectives::agree(comm, read)?;
        let sent = serde_json::to_vec(&mine).map_err(|e| Error::internal(format!("scenarios cannot be sent: {e}")))?;
        let all = collectives::all_gather_messages(comm, &sent)?;
        let all = all.iter().map(|message| {
            let unreadable = |e| Error::comm(format!("a rank sent scenarios that cannot be read: {e}"));
            serde_json::from_slice::<BTreeMap<u64, String>>(message).map_err(unreadable)
        });
        let all = joined(all.collect::<Result<Vec<_>>>()?, name).map_err(Error::agreed)?;
        match all.is_empty() {
            true => Err(no_value(name).agreed()),
            false => Ok(Some(Self::of(all))),
        }
    }

    /// Numbers the values.
    fn of(values: BTreeMap<u64, String>) -> Self {
        let mut values: Vec<(u64, String)> = values.into_iter().collect();
        let numbers: Option<Vec<i128>> = values.iter().map(|(_, name)| name.parse().ok()).collect();
        match numbers {
            Some(_) => values.sort_by_cached_key(|(id, name)| (name.parse::<i128>().unwrap_or_default(), *id)),
            None => values.sort_by(|(a, x), (b, y)| (x, a).cmp(&(y, b))),
        }
        let (ids, names) = values.into_iter().unzip();
        Self { names, ids }
    }
}

/// The values of one row group, by id.
fn values_of(files: &Files, column: usize, row_group: u32) -> Result<BTreeMap<u64, String>> {
    let name = &files.schema().columns[column].name;
    let piece = Piece { row_group, start: 0, rows: files.plan().row_groups[row_group as usize].rows };
    let mut reader = files.read(piece, &[column], BATCH_ROWS)?;
    let (mut hashes, mut ids) = (DictionaryHashes::default(), Vec::new());
    let mut found: HashMap<u64, String> = HashMap::new();
    while let Some(slice) = reader.take(BATCH_ROWS)? {
        let array = &slice.columns[0];
        let place = reader.place(slice.first_row);
        ids.clear();
        columns::ids(array, &mut hashes, &mut ids).map_err(|e| place.unreadable(name, &e))?;
        let nulls = columns::nulls(array);
        for (row, &id) in ids.iter().enumerate() {
            if found.contains_key(&id) || nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            found.insert(id, array_value_to_string(array, row).map_err(|e| place.unreadable(name, &e))?);
            if found.len() > MAX_SCENARIOS {
                return Err(too_many(name));
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// All values of several sets.
fn joined(sets: Vec<BTreeMap<u64, String>>, column: &str) -> Result<BTreeMap<u64, String>> {
    let all: BTreeMap<u64, String> = sets.into_iter().flatten().collect();
    if all.len() > MAX_SCENARIOS { Err(too_many(column)) } else { Ok(all) }
}

fn too_many(column: &str) -> Error {
    Error::data(format!("the scenario column has more than {MAX_SCENARIOS} values in the training rows"))
        .at("column", column)
        .at("key", "data.scenario")
        .fix("name a column with few values, such as a page or a country, or write one that groups these")
}

fn no_value(column: &str) -> Error {
    Error::data("the scenario column has no value in the training rows")
        .at("column", column)
        .at("key", "data.scenario")
        .fix("write the scenario of each row into this column, or remove `data.scenario`")
}

#[cfg(test)]
mod tests {
    use super::super::plan::Plan;
    use super::super::reader::Columns;
    use super::super::store::Local;
    use super::super::testing::{TestFile, ints, schema};
    use super::*;
    use crate::comm::threads;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Arc;

    const JOB: &str = "data: {train: unused, scenario: page}\nfeatures: []\ntasks: []";

    /// The scenarios of files with these columns, found by `ranks` ranks.
    fn collect(columns: &[ArrayRef], ranks: usize) -> Vec<Result<Option<Scenarios>>> {
        let folder = tempfile::tempdir().unwrap();
        for (i, column) in columns.iter().enumerate() {
            let file = TestFile::new(&[("page", column.clone())]).row_group_rows(7);
            file.write(&folder.path().join(format!("{i}.parquet")));
        }
        threads::ranks(ranks, |comm| {
            let schema = Arc::new(schema(JOB));
            let plan = Plan::read(comm, &Local, &[folder.path().display().to_string()], &schema)?;
            Scenarios::collect(comm, &Files::new(Arc::new(Local), Arc::new(plan), schema, Columns::Needed))
        })
    }

    fn names(columns: &[ArrayRef], ranks: usize) -> Vec<String> {
        let found = collect(columns, ranks);
        let found: Vec<Scenarios> = found.into_iter().map(|found| found.unwrap().unwrap()).collect();
        assert!(found.iter().all(|scenarios| *scenarios == found[0]));
        found[0].names().to_vec()
    }

    #[test]
    fn values_are_numbered_in_their_order_on_any_number_of_ranks() {
        let numbers: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(100), None, Some(-3), Some(9)])),
            ints((0..30).map(|i| [9, 56, 18][i % 3])),
        ];
        let words: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("shop"), None, Some("home")])),
            Arc::new(StringArray::from(vec!["9", "home", "10", "shop"])),
        ];
        for ranks in 1..=4 {
            assert_eq!(names(&numbers, ranks), ["-3", "9", "18", "56", "100"]);
            assert_eq!(names(&words, ranks), ["10", "9", "home", "shop"]);
        }
    }

    #[test]
    fn ids_lead_to_numbers() {
        let found = collect(&[ints([7, 3, 7, 5])], 1).remove(0).unwrap().unwrap();
        assert_eq!((found.numbers(), found.other()), (HashMap::from([(3, 0), (5, 1), (7, 2)]), 3));
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Scenarios>(&text).unwrap(), found);
    }

    #[test]
    fn too_many_and_none_are_errors_on_every_rank() {
        let many = |range: std::ops::Range<i64>| ints(range);
        // Neither file has too many, only both together.
        for columns in [vec![many(0..1001)], vec![many(0..600), many(500..1001)]] {
            for error in collect(&columns, 2) {
                let error = error.unwrap_err();
                assert!(error.to_string().contains("more than 1000"), "{error}");
                assert_eq!(error.place("key"), Some("data.scenario"));
            }
        }
        assert_eq!(names(&[many(0..1000)], 3).len(), 1000);
        let empty: ArrayRef = Arc::new(Int64Array::from(vec![None, None]));
        for error in collect(&[empty], 2) {
            assert!(error.unwrap_err().to_string().contains("has no value"));
        }
    }
}
