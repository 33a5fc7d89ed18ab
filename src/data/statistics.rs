//! Statistics of numeric features, from one pass over the training rows split over ranks; with the scenarios.
//!
//! Each row group is summed up on its own (float64; means and squared deviations merged as in Chan, Golub
//! & LeVeque 1979), the summaries are gathered, and every rank merges them in the order of the row groups:
//! the same bits on every rank, and at any number of ranks. Quantiles come from a sample of rows that is a
//! pure function of the rows' addresses: all rows of a small data set, else about 200,000.

use super::lanes::Piece;
use super::place::{Place, not_finite};
use super::reader::Files;
use super::scenarios::Scenarios;
use super::schema::NumericFeature;
use crate::comm::{Communicator, collectives};
use crate::config::job::Transform;
use crate::error::{Error, Result};
use crate::random;
use arrow::array::{Array, ArrayRef};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rows sampled for quantiles, about.
const SAMPLE_ROWS: u64 = 200_000;

/// Rows summed up at a time.
const BATCH_ROWS: usize = 8192;

/// Statistics of every numeric feature, by its name. Saved in checkpoints and exports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    features: BTreeMap<String, Numeric>,
    /// Where the job names a scenario column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scenarios: Option<Scenarios>,
}

/// Statistics of one numeric feature over the training rows where it is not null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Numeric {
    /// Values.
    pub count: u64,
    /// Nulls.
    pub nulls: u64,
    /// Mean; 0 without values.
    pub mean: f64,
    /// Standard deviation (dividing by `count`); 1 where all values are equal.
    pub std: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// `transform: quantile`: increasing lower bounds of the buckets after the first. Fewer than asked for
    /// where many values are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boundaries: Vec<f64>,
}

impl Statistics {
    /// The statistics of a feature.
    pub fn get(&self, feature: &str) -> Result<&Numeric> {
        self.features.get(feature).ok_or_else(|| {
            Error::checkpoint(format!("no statistics of the numeric feature `{feature}`"))
                .fix("the features of this job differ from those it was trained with; use the job it was trained with")
        })
    }

    /// All features and their statistics, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Numeric)> {
        self.features.iter().map(|(name, numeric)| (name.as_str(), numeric))
    }

    /// The scenarios, where the job names a column of them.
    pub fn scenarios(&self) -> Option<&Scenarios> {
        self.scenarios.as_ref()
    }

    /// Sets the scenarios.
    pub fn set_scenarios(&mut self, scenarios: Scenarios) {
        self.scenarios = Some(scenarios);
    }

    /// Sets the statistics of a feature.
    pub fn insert(&mut self, feature: &str, numeric: Numeric) {
        self.features.insert(feature.to_string(), numeric);
    }

    /// Reads the numeric columns of all row groups and the scenario column, each on one rank. Collective; an error
    /// on one rank is returned by all.
    pub fn collect(comm: &dyn Communicator, files: &Files) -> Result<Self> {
        let scenarios = Scenarios::collect(comm, files)?;
        let schema = files.schema();
        let features = schema.numeric_features();
        if features.is_empty() {
            return Ok(Self { scenarios, ..Self::default() });
        }
        let groups = files.plan().row_groups.len() as u32;
        let mine: Vec<u32> = (comm.rank() as u32..groups).step_by(comm.size()).collect();
        let summaries: Vec<_> = mine.par_iter().map(|&group| summarise(files, &features, group)).collect();
        let summaries = summaries.into_iter().collect::<Result<Vec<Vec<Summary>>>>();
        let numeric = gather(comm, &features, groups as usize, collectives::agree(comm, summaries)?)?;
        Ok(Self { scenarios, ..numeric })
    }
}

impl Numeric {
    /// [`Numeric::apply`] of all `values`, into `cells`; whether all of them are [fine](Numeric::applies).
    pub fn apply_all<'a>(
        &self,
        transform: Transform,
        values: &[f64],
        cells: impl Iterator<Item = &'a mut f32>,
    ) -> bool {
        // The commonest have loops of their own, in which there is nothing to tell apart.
        match transform {
            Transform::None => fill(cells, values, |x| self.apply(Transform::None, x)),
            Transform::Standardize => fill(cells, values, |x| self.apply(Transform::Standardize, x)),
            _ => fill(cells, values, |x| self.apply(transform, x)),
        }
    }

    /// Whether the transform of a value is a finite number of a finite one.
    pub fn applies(&self, transform: Transform, x: f64) -> bool {
        x.is_finite() && self.apply(transform, x).is_finite()
    }

    /// The transform of a value.
    #[inline(always)]
    pub fn apply(&self, transform: Transform, x: f64) -> f32 {
        let y = match transform {
            Transform::None => x,
            Transform::Standardize => (x - self.mean) / self.std,
            Transform::Log1p => x.abs().ln_1p().copysign(x),
            Transform::MinMax if self.max > self.min => ((x - self.min) / (self.max - self.min)).clamp(0.0, 1.0),
            Transform::MinMax => 0.0,
            Transform::Quantile => self.bucket(x) as f64,
        };
        y as f32
    }

    /// What a null becomes: the transform of the mean.
    pub fn fill(&self, transform: Transform) -> f32 {
        self.apply(transform, self.mean)
    }

    /// The quantile bucket of a value: how many boundaries it has reached.
    pub fn bucket(&self, x: f64) -> u64 {
        self.boundaries.partition_point(|boundary| *boundary <= x) as u64
    }

    /// The bucket of nulls, after the last: that a value is unknown often says more than its guess would.
    pub fn null_bucket(&self) -> u64 {
        self.boundaries.len() as u64 + 1
    }
}

/// Whether all `values` and what `apply` makes of them, which it writes into `cells`, are finite.
fn fill<'a>(cells: impl Iterator<Item = &'a mut f32>, values: &[f64], apply: impl Fn(f64) -> f32) -> bool {
    cells.zip(values).fold(true, |finite, (cell, &x)| {
        *cell = apply(x);
        finite & x.is_finite() & cell.is_finite()
    })
}

/// One feature over one row group.
#[derive(Debug, Clone, Default)]
struct Summary {
    moments: Moments,
    sample: Vec<f64>,
}

/// Mergeable moments.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Moments {
    count: u64,
    nulls: u64,
    mean: f64,
    /// Sum of squared deviations from the mean.
    squares: f64,
    min: f64,
    max: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, nulls: 0, mean: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Moments {
    /// Moments of some values, in two passes.
    fn of(values: &[f64]) -> Self {
        let count = values.len();
        if count == 0 {
            return Self::default();
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        Self {
            count: count as u64,
            nulls: 0,
            mean,
            squares: values.iter().map(|x| (x - mean) * (x - mean)).sum(),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Chan, Golub & LeVeque 1979, eqs. 2.1.
    fn merge(&mut self, other: &Self) {
        self.nulls += other.nulls;
        if other.count == 0 {
            return;
        }
        let (n, m) = (self.count as f64, other.count as f64);
        let delta = other.mean - self.mean;
        self.mean += delta * m / (n + m);
        self.squares += other.squares + delta * delta * n * m / (n + m);
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn finish(&self, boundaries: Vec<f64>) -> Numeric {
        let (count, nulls) = (self.count, self.nulls);
        if count == 0 {
            return Numeric { count, nulls, mean: 0.0, std: 1.0, min: 0.0, max: 0.0, boundaries };
        }
        let std = (self.squares / count as f64).sqrt();
        // Below the rounding error of the mean the deviation is noise, and dividing by it would amplify noise.
        let constant = self.min == self.max || std <= self.mean.abs() * f64::EPSILON;
        let std = if constant { 1.0 } else { std };
        Numeric { count, nulls, mean: self.mean, std, min: self.min, max: self.max, boundaries }
    }
}

/// One pass over a row group: the summary of each feature.
fn summarise(files: &Files, features: &[NumericFeature], row_group: u32) -> Result<Vec<Summary>> {
    let plan = files.plan();
    let columns: Vec<usize> = features.iter().map(|feature| feature.column).collect();
    let piece = Piece { row_group, start: 0, rows: plan.row_groups[row_group as usize].rows };
    let mut reader = files.read(piece, &columns, BATCH_ROWS)?;
    let mut summaries = vec![Summary::default(); features.len()];
    let (mut values, mut picked) = (Vec::new(), Vec::new());
    while let Some(slice) = reader.take(BATCH_ROWS)? {
        picked.clear();
        if features.iter().any(|feature| feature.buckets.is_some()) {
            let rows = 0..slice.batch.num_rows();
            picked.extend(rows.filter(|&row| in_sample(plan.rows, row_group, slice.first_row as u64 + row as u64)));
        }
        let place = reader.place(slice.first_row);
        for ((feature, array), summary) in features.iter().zip(&slice.columns).zip(&mut summaries) {
            let name = &files.schema().columns[feature.column].name;
            let wanted = if feature.buckets.is_some() { picked.as_slice() } else { &[] };
            add(array, name, &place, wanted, &mut values, summary)?;
        }
    }
    Ok(summaries)
}

/// Adds one array to a summary. `picked` are the rows of the quantile sample.
fn add(
    array: &ArrayRef,
    column: &str,
    place: &Place,
    picked: &[usize],
    values: &mut Vec<f64>,
    summary: &mut Summary,
) -> Result<()> {
    values.clear();
    super::columns::numbers(array, values).map_err(|e| place.unreadable(column, &e))?;
    let nulls = super::columns::nulls(array);
    let valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    if let Some(row) = (0..values.len()).find(|&row| valid(row) && !values[row].is_finite()) {
        return Err(not_finite(values[row], column, row, place));
    }
    summary.sample.extend(picked.iter().filter(|&&row| valid(row)).map(|&row| values[row]));
    let mut row = 0;
    values.retain(|_| {
        row += 1;
        valid(row - 1)
    });
    let mut moments = Moments::of(values);
    moments.nulls = (array.len() - values.len()) as u64;
    summary.moments.merge(&moments);
    Ok(())
}

/// Whether a row belongs to the quantile sample: a pure function of its address.
fn in_sample(rows: u64, row_group: u32, row: u64) -> bool {
    const SEED: u64 = 0x7175_616e_7469_6c65;
    rows <= SAMPLE_ROWS || random::unit(SEED, &[row_group.into(), row]) < SAMPLE_ROWS as f64 / rows as f64
}

/// Gathers the summaries of row groups `rank, rank + R, …` of every rank and merges them in order.
fn gather(
    comm: &dyn Communicator,
    features: &[NumericFeature],
    groups: usize,
    mine: Vec<Vec<Summary>>,
) -> Result<Statistics> {
    let local: Vec<Moments> = mine.iter().flatten().map(|summary| summary.moments).collect();
    let (all, counts) = collectives::all_gather(comm, &local)?;
    let merged = merge_in_order(&all, &counts, features.len(), groups)?;
    let mut statistics = Statistics::default();
    for (index, (feature, moments)) in features.iter().zip(&merged).enumerate() {
        let boundaries = match feature.buckets {
            Some(buckets) => {
                let local: Vec<f64> = mine.iter().flat_map(|group| group[index].sample.iter().copied()).collect();
                quantiles(collectives::all_gather(comm, &local)?.0, buckets)
            }
            None => Vec::new(),
        };
        statistics.insert(feature.name, moments.finish(boundaries));
    }
    Ok(statistics)
}

/// Merges moments row group by row group. `all` holds those of rank 0's row groups (0, R, 2R, …), then rank
/// 1's, and so on, `width` moments each; `counts` says how many came from each rank.
fn merge_in_order(all: &[Moments], counts: &[usize], width: usize, groups: usize) -> Result<Vec<Moments>> {
    let mut by_rank = Vec::with_capacity(counts.len());
    let mut rest = all;
    for &count in counts {
        let (head, tail) = rest.split_at(count);
        by_rank.push(head.chunks_exact(width));
        rest = tail;
    }
    let mut merged = vec![Moments::default(); width];
    for group in 0..groups {
        let Some(part) = by_rank[group % counts.len()].next() else {
            return Err(Error::internal(format!("no statistics of row group {group}")));
        };
        merged.iter_mut().zip(part).for_each(|(sum, part)| sum.merge(part));
    }
    Ok(merged)
}

/// Lower bounds of buckets 1, 2, …: the sample's values at ranks j/buckets. Equal ones are kept once, and
/// one that no value lies below is dropped, since its lower bucket would be empty.
fn quantiles(mut sample: Vec<f64>, buckets: usize) -> Vec<f64> {
    sample.sort_unstable_by(f64::total_cmp);
    let Some(&smallest) = sample.first() else {
        return Vec::new();
    };
    let mut bounds: Vec<f64> = (1..buckets).map(|j| sample[j * sample.len() / buckets]).collect();
    bounds.dedup();
    bounds.retain(|bound| *bound > smallest);
    bounds
}

#[cfg(test)]
mod tests;
