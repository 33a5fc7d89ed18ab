//! From a row's columns to ids and numbers, by the words of the schema.

use crate::error::{Error, Result};
use crate::export::schema::{Dense, IdFeature, IdSource, Keep, Scenario, Transform};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Stands for a null in a cross.
const NULL_IN_CROSS: u64 = 7_959_387_127_559_487_488;

/// The ids of every row.
pub struct Ids(pub Vec<Vec<u64>>);

impl Ids {
    /// The most ids of a row; at least 1.
    pub fn longest(&self) -> usize {
        self.0.iter().map(Vec::len).max().unwrap_or(0).max(1)
    }

    /// As rows of `width` signed integers, short ones filled with 0.
    pub fn padded(&self, width: usize) -> Vec<i64> {
        let padded = |row: &Vec<u64>| {
            let mut ids: Vec<i64> = row.iter().map(|&id| id as i64).collect();
            ids.resize(width, 0);
            ids
        };
        self.0.iter().flat_map(padded).collect()
    }

    /// As rows of `width` numbers: 1 where there is an id, else 0.
    pub fn mask(&self, width: usize) -> Vec<f32> {
        self.0.iter().flat_map(|row| (0..width).map(|place| if place < row.len() { 1.0 } else { 0.0 })).collect()
    }
}

/// The ids of a feature.
pub fn ids(feature: &IdFeature, rows: &RecordBatch) -> Result<Ids> {
    let n = rows.num_rows();
    Ok(Ids(match &feature.source {
        IdSource::Ids { column, max_len, keep } => {
            let all = lists(rows.column_by_name(column), n, column)?;
            all.into_iter().map(|row| kept(row.into_iter().flatten().collect(), *max_len, *keep)).collect()
        }
        IdSource::Cross { columns } => {
            let parts = columns.iter().map(|column| lists(rows.column_by_name(column), n, column));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let cross = |row: usize| {
                let part = |part: &Vec<Vec<Option<u64>>>| part[row].first().copied().flatten().unwrap_or(NULL_IN_CROSS);
                parts.iter().map(part).fold(mix(0), |hash, id| mix(hash ^ mix(id)))
            };
            (0..n).map(|row| vec![cross(row)]).collect()
        }
        IdSource::Quantile { column, boundaries, null_id } => {
            let bucket = |x: Option<f64>| match x {
                Some(x) => boundaries.iter().filter(|&&boundary| boundary <= x).count() as u64,
                None => *null_id,
            };
            numbers(rows.column_by_name(column), n, column)?.into_iter().map(|x| vec![bucket(x)]).collect()
        }
    }))
}

/// The number of each row's scenario.
pub fn scenarios(scenario: &Scenario, rows: &RecordBatch) -> Result<Vec<f32>> {
    let all = lists(rows.column_by_name(&scenario.column), rows.num_rows(), &scenario.column)?;
    let number = |row: Vec<Option<u64>>| {
        let id = row.first().copied().flatten();
        let known = id.and_then(|id| scenario.ids.iter().position(|&known| known == id));
        known.unwrap_or(scenario.ids.len()) as f32
    };
    Ok(all.into_iter().map(number).collect())
}

fn kept(ids: Vec<u64>, max_len: Option<usize>, keep: Keep) -> Vec<u64> {
    let length = max_len.unwrap_or(usize::MAX).min(ids.len());
    match keep {
        Keep::First => ids[..length].to_vec(),
        Keep::Last => ids[ids.len() - length..].to_vec(),
    }
}

fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn unreadable(column: &str, error: &dyn std::fmt::Display) -> Error {
    Error::data(format!("column `{column}` of the golden rows cannot be read: {error}"))
}

/// Every row's elements: one of a plain column, none of a null row.
fn lists(array: Option<&ArrayRef>, rows: usize, column: &str) -> Result<Vec<Vec<Option<u64>>>> {
    let Some(array) = array else { return Ok(vec![Vec::new(); rows]) };
    let item = match array.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item.data_type().clone(),
        _ => return Ok(elements(array, column)?.into_iter().map(|id| vec![id]).collect()),
    };
    let lists = cast(array, &DataType::LargeList(Arc::new(Field::new("item", item, true))));
    let lists = lists.map_err(|e| unreadable(column, &e))?;
    let lists = lists.as_list::<i64>();
    let row = |row: usize| if lists.is_null(row) { Ok(Vec::new()) } else { elements(&lists.value(row), column) };
    (0..rows).map(row).collect()
}

/// The id of every element; of a null none.
fn elements(array: &ArrayRef, column: &str) -> Result<Vec<Option<u64>>> {
    let to = |kind: &DataType| cast(array, kind).map_err(|e| unreadable(column, &e));
    let kind = match array.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        kind => kind,
    };
    Ok(match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = to(&DataType::Utf8)?;
            let texts: &StringArray = texts.as_string();
            texts.iter().map(|text| text.map(|text| xxh3_64(text.as_bytes()))).collect()
        }
        DataType::UInt64 | DataType::Boolean => to(&DataType::UInt64)?.as_primitive::<UInt64Type>().iter().collect(),
        _ => to(&DataType::Int64)?.as_primitive::<Int64Type>().iter().map(|id| id.map(|id| id as u64)).collect(),
    })
}

fn numbers(array: Option<&ArrayRef>, rows: usize, column: &str) -> Result<Vec<Option<f64>>> {
    let Some(array) = array else { return Ok(vec![None; rows]) };
    let to = |array: &ArrayRef, kind: DataType| cast(array, &kind).map_err(|e| unreadable(column, &e));
    let integers = if array.data_type().is_temporal() { Some(to(array, DataType::Int64)?) } else { None };
    Ok(to(integers.as_ref().unwrap_or(array), DataType::Float64)?.as_primitive::<Float64Type>().iter().collect())
}

/// The input `dense`, row-major.
pub fn dense(features: &[Dense], rows: &RecordBatch) -> Result<Vec<f32>> {
    let width: usize = features.iter().map(|feature| feature.width).sum();
    let mut all = vec![0.0; rows.num_rows() * width];
    for feature in features {
        let array = rows.column_by_name(&feature.column);
        let is_list = array.is_some_and(|array| array.data_type().is_nested());
        for row in 0..rows.num_rows() {
            let cells = &mut all[row * width + feature.start..][..feature.width];
            cells.fill(feature.null);
            let Some(array) = array.filter(|array| is_list && array.is_valid(row)) else { continue };
            cells.copy_from_slice(&vector(array, row, feature)?);
        }
        if is_list {
            continue;
        }
        for (row, x) in numbers(array, rows.num_rows(), &feature.column)?.into_iter().enumerate() {
            if let Some(x) = x {
                all[row * width + feature.start] = transformed(feature.transform, x);
            }
        }
    }
    Ok(all)
}

fn vector(array: &ArrayRef, row: usize, feature: &Dense) -> Result<Vec<f32>> {
    let item = Arc::new(Field::new("item", DataType::Float64, true));
    let lists = cast(&array.slice(row, 1), &DataType::LargeList(item)).map_err(|e| unreadable(&feature.column, &e))?;
    let values = lists.as_list::<i64>().value(0);
    let values: Vec<f32> = values.as_primitive::<Float64Type>().values().iter().map(|&x| x as f32).collect();
    match values.len() == feature.width {
        true => Ok(values),
        false => Err(unreadable(&feature.column, &format!("a vector of {} numbers", values.len()))),
    }
}

fn transformed(transform: Transform, x: f64) -> f32 {
    let y = match transform {
        Transform::None => x,
        Transform::Standardize { mean, std } => (x - mean) / std,
        Transform::Log1p => x.signum() * x.abs().ln_1p(),
        Transform::MinMax { min, max } if max > min => ((x - min) / (max - min)).clamp(0.0, 1.0),
        Transform::MinMax { .. } => 0.0,
    };
    y as f32
}
