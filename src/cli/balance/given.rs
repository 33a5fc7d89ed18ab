//! Gradients from a file.

use crate::balance::once::Given;
use crate::error::{Error, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;
use std::fs::File;
use std::path::Path;

/// What a JSON file says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    gradients: Option<Vec<Vec<f64>>>,
    #[serde(default)]
    gram: Option<Vec<Vec<f64>>>,
    #[serde(default)]
    losses: Option<Vec<f64>>,
    #[serde(default)]
    tasks: Option<Vec<String>>,
}

/// Names of the tasks, and their gradients.
///
/// # Errors
/// A file that cannot be read, or holds no gradients of one length.
pub fn read(path: &Path) -> Result<(Vec<String>, Given)> {
    let read = match path.extension().is_some_and(|extension| extension == "parquet") {
        true => parquet(path),
        false => json(path),
    };
    read.map_err(|error| error.at("file", path.display()))
}

fn json(path: &Path) -> Result<(Vec<String>, Given)> {
    let text = std::fs::read(path).map_err(|e| Error::io("reading", path, &e))?;
    let written: Written = serde_json::from_slice(&text).map_err(|e| {
        Error::job(format!("this is not JSON with gradients: {e}"))
            .fix("write {\"gradients\": [[…], …]} or {\"gram\": [[…], …]}, either with \"losses\": […]")
    })?;
    let Written { gradients, gram, losses, tasks } = written;
    match (gradients, gram) {
        (Some(rows), None) => of_rows(rows, losses, tasks),
        (None, Some(rows)) => of_gram(rows, losses, tasks),
        _ => Err(Error::job("there must be either \"gradients\" or \"gram\"")),
    }
}

fn of_rows(rows: Vec<Vec<f64>>, losses: Option<Vec<f64>>, names: Option<Vec<String>>) -> Result<(Vec<String>, Given)> {
    let len = rows.first().map_or(0, Vec::len);
    if len == 0 {
        return Err(Error::job("there is no gradient"));
    }
    if let Some(task) = rows.iter().position(|row| row.len() != len) {
        let what = format!("gradient {task} has {} numbers, and gradient 0 has {len}", rows[task].len());
        return Err(Error::job(what).fix("give all tasks gradients of the same parameters"));
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum();
    let gram = rows.iter().flat_map(|a| rows.iter().map(move |b| dot(a, b))).collect();
    let gradients = rows.iter().flatten().map(|&x| x as f32).collect();
    finish(rows.len(), gram, Some(gradients), losses, names)
}

fn of_gram(rows: Vec<Vec<f64>>, losses: Option<Vec<f64>>, names: Option<Vec<String>>) -> Result<(Vec<String>, Given)> {
    let tasks = rows.len();
    if tasks == 0 || rows.iter().any(|row| row.len() != tasks) {
        return Err(Error::job("\"gram\" is no square matrix").fix("give K lists of K numbers"));
    }
    let gram: Vec<f64> = rows.concat();
    let uneven = |i: usize| (gram[i] - gram[i % tasks * tasks + i / tasks]).abs() > 1e-9 * gram[i].abs();
    if let Some(i) = (0..gram.len()).find(|&i| uneven(i)) {
        let what = format!("\"gram\" is not symmetric: its numbers [{}][{}] and back differ", i / tasks, i % tasks);
        return Err(Error::job(what).fix("give the products of the gradients with one another"));
    }
    if let Some(task) = (0..tasks).find(|&k| gram[k * tasks + k] < 0.0) {
        return Err(Error::job(format!("\"gram\" says that gradient {task} has a negative square")));
    }
    finish(tasks, gram, None, losses, names)
}

fn finish(
    tasks: usize,
    gram: Vec<f64>,
    gradients: Option<Vec<f32>>,
    losses: Option<Vec<f64>>,
    names: Option<Vec<String>>,
) -> Result<(Vec<String>, Given)> {
    let losses = losses.unwrap_or_else(|| vec![1.0; tasks]);
    let names = names.unwrap_or_else(|| (0..tasks).map(|task| format!("task {task}")).collect());
    for (what, len) in [("losses", losses.len()), ("names", names.len())] {
        if len != tasks {
            return Err(Error::job(format!("{len} {what} for {tasks} tasks")));
        }
    }
    Ok((names, Given { gram, gradients, losses }))
}

fn parquet(path: &Path) -> Result<(Vec<String>, Given)> {
    let file = File::open(path).map_err(|e| Error::io("opening", path, &e))?;
    let broken = |e: &dyn std::fmt::Display| Error::data(format!("this Parquet file cannot be read: {e}"));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| broken(&e))?;
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> =
        reader.build().map_err(|e| broken(&e))?.collect::<std::result::Result<_, _>>().map_err(|e| broken(&e))?;
    let batch = concat_batches(&schema, &batches).map_err(|e| broken(&e))?;
    if let [list] = batch.columns()
        && let Some(lists) = list.as_list_opt::<i32>()
    {
        let rows = (0..lists.len()).map(|task| numbers(&lists.value(task), schema.field(0).name()));
        return of_rows(rows.collect::<Result<_>>()?, None, None);
    }
    let names = schema.fields().iter().map(|field| field.name().clone()).collect();
    let columns = batch.columns().iter().zip(schema.fields());
    let rows = columns.map(|(column, field)| numbers(column, field.name())).collect::<Result<_>>()?;
    of_rows(rows, None, Some(names))
}

fn numbers(column: &dyn Array, name: &str) -> Result<Vec<f64>> {
    let is_number = column.data_type().is_numeric() && column.null_count() == 0;
    let wrong = || Error::data(format!("column `{name}` holds no numbers, or nulls")).at("column", name);
    if !is_number {
        return Err(wrong());
    }
    let column = cast(column, &DataType::Float64).map_err(|_| wrong())?;
    Ok(column.as_primitive::<Float64Type>().values().to_vec())
}
