//! Writes the Parquet files and collects what the best predictions need.

use super::columns::{COUNTRIES, Values};
use super::folder::{part, refused, rename};
use super::layout::{FilePlan, TEST};
use super::options::{Checked, HISTORY};
use super::world::{Row, World};
use crate::error::{Error, Result};
use arrow::array::{ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray, UInt8Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use rayon::prelude::*;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

/// Rows that are drawn before they are encoded.
const CHUNK_ROWS: u64 = 8192;

/// What was drawn, as far as the summary needs it. K tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    /// True logits of the test rows: rows × K.
    pub logits: Vec<f64>,
    /// Drawn labels of the test rows: rows × K.
    pub labels: Vec<u8>,
    /// Positive labels over all rows, per task.
    pub positives: Vec<u64>,
}

impl Truth {
    fn append(&mut self, mut other: Self) {
        self.logits.append(&mut other.logits);
        self.labels.append(&mut other.labels);
        self.positives.resize(other.positives.len().max(self.positives.len()), 0);
        self.positives.iter_mut().zip(other.positives).for_each(|(sum, n)| *sum += n);
    }
}

/// Writes every file of the plan under `out`, one file a thread; each is written aside and renamed when
/// whole. (Threads that also shared a file's rows would start further files while they wait for them.)
pub fn files(out: &Path, world: &World, checked: &Checked, progress: &(dyn Fn(u64) + Sync)) -> Result<Truth> {
    let schema = schema(world, checked);
    let one = |plan: &FilePlan| file(&out.join(&plan.path), plan, world, checked, &schema, progress);
    let truths: Vec<Truth> = checked.files.par_iter().map(one).collect::<Result<_>>()?;
    let mut all = Truth::default();
    truths.into_iter().for_each(|truth| all.append(truth));
    Ok(all)
}

fn file(
    path: &Path,
    plan: &FilePlan,
    world: &World,
    checked: &Checked,
    schema: &SchemaRef,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Truth> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| refused("creating the folder", folder, &e))?;
    }
    let aside = part(path);
    let sink = File::create(&aside).map_err(|e| refused("creating", &aside, &e))?;
    let failed = |error: ParquetError| write_error(error, &aside);
    let group_rows = checked.options().row_group_rows;
    let mut writer = ArrowWriter::try_new(sink, schema.clone(), Some(properties(group_rows)?)).map_err(failed)?;
    let mut truth = Truth::default();
    for rows in cut(plan.rows.clone(), CHUNK_ROWS) {
        progress(rows.end - rows.start);
        let (batch, chunk_truth) = chunk(rows, plan.split == TEST, world, checked, schema)?;
        writer.write(&batch).map_err(failed)?;
        truth.append(chunk_truth);
    }
    writer.close().map_err(failed)?;
    rename(&aside, path)?;
    Ok(truth)
}

/// Consecutive pieces of `size` rows; the last may be shorter.
fn cut(rows: std::ops::Range<u64>, size: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    let end = rows.end;
    rows.step_by(size as usize).map(move |start| start..(start + size).min(end))
}

fn properties(group_rows: usize) -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(3).map_err(|e| Error::internal(e.to_string()))?;
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(group_rows))
        .build())
}

/// Labels first, then users, numbers, ids and the history.
fn schema(world: &World, checked: &Checked) -> SchemaRef {
    let options = checked.options();
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    let mut fields: Vec<Field> = options.tasks.iter().map(|t| field(t, DataType::UInt8)).collect();
    fields.extend((0..options.numeric).map(|j| field(&format!("n{j}"), DataType::Float32)));
    fields.extend(world.columns().iter().map(|c| match c.values {
        Values::Id => field(&c.name, DataType::Int64),
        Values::Country => field(&c.name, DataType::Utf8),
    }));
    if checked.history_column().is_some() {
        fields.push(field(HISTORY, DataType::List(history_item())));
    }
    Arc::new(Schema::new(fields))
}

fn history_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Int64, false))
}

/// Draws the rows of one chunk as a batch of the file.
fn chunk(
    rows: std::ops::Range<u64>,
    keep_truth: bool,
    world: &World,
    checked: &Checked,
    schema: &SchemaRef,
) -> Result<(RecordBatch, Truth)> {
    let mut drawn = Drawn::new(world, checked);
    let mut truth = Truth { positives: vec![0; checked.tasks()], ..Truth::default() };
    let mut row = Row::default();
    for index in rows {
        world.draw(index, &mut row);
        drawn.push(&row, world);
        truth.positives.iter_mut().zip(&row.labels).for_each(|(n, &y)| *n += u64::from(y));
        if keep_truth {
            truth.logits.extend_from_slice(&row.logits);
            truth.labels.extend_from_slice(&row.labels);
        }
    }
    let batch = RecordBatch::try_new(schema.clone(), drawn.arrays(world, checked))
        .map_err(|e| Error::internal(format!("a batch does not fit its schema: {e}")))?;
    Ok((batch, truth))
}

/// Rows as columns.
struct Drawn {
    labels: Vec<Vec<u8>>,
    numeric: Vec<Vec<f32>>,
    ranks: Vec<Vec<u64>>,
    history: Vec<u64>,
    history_lengths: Vec<usize>,
}

impl Drawn {
    fn new(world: &World, checked: &Checked) -> Self {
        Self {
            labels: vec![Vec::new(); checked.tasks()],
            numeric: vec![Vec::new(); checked.options().numeric],
            ranks: vec![Vec::new(); world.columns().len()],
            history: Vec::new(),
            history_lengths: Vec::new(),
        }
    }

    fn push(&mut self, row: &Row, world: &World) {
        self.labels.iter_mut().zip(&row.labels).for_each(|(column, &y)| column.push(y));
        for ((column, &z), &(mean, spread)) in self.numeric.iter_mut().zip(&row.numeric).zip(world.units()) {
            column.push((mean + spread * f64::from(z)) as f32);
        }
        self.ranks.iter_mut().zip(&row.ranks).for_each(|(column, &rank)| column.push(rank));
        self.history.extend_from_slice(&row.history);
        self.history_lengths.push(row.history.len());
    }

    fn arrays(self, world: &World, checked: &Checked) -> Vec<ArrayRef> {
        let mut arrays: Vec<ArrayRef> = Vec::new();
        arrays.extend(self.labels.into_iter().map(|y| Arc::new(UInt8Array::from(y)) as ArrayRef));
        arrays.extend(self.numeric.into_iter().map(|x| Arc::new(Float32Array::from(x)) as ArrayRef));
        for (column, ranks) in world.columns().iter().zip(self.ranks) {
            arrays.push(match column.values {
                Values::Id => Arc::new(Int64Array::from_iter_values(ranks.into_iter().map(|r| column.id(r)))),
                // The column has as many ranks as there are countries.
                Values::Country => {
                    Arc::new(StringArray::from_iter_values(ranks.into_iter().map(|r| COUNTRIES[r as usize])))
                }
            });
        }
        if let Some(column) = checked.history_column() {
            let column = &world.columns()[column];
            let ids = Int64Array::from_iter_values(self.history.into_iter().map(|r| column.id(r)));
            let offsets = OffsetBuffer::from_lengths(self.history_lengths);
            arrays.push(Arc::new(ListArray::new(history_item(), offsets, Arc::new(ids), None)));
        }
        arrays
    }
}

/// Keeps the operating system's reason, so that a full disk is called a full disk.
fn write_error(error: ParquetError, path: &Path) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast_ref::<std::io::Error>() {
            Some(io) => refused("writing", path, io),
            None => Error::data(format!("writing Parquet failed: {source}")).at("file", path.display()),
        },
        other => Error::data(format!("writing Parquet failed: {other}")).at("file", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_rows() {
        assert_eq!(cut(5..12, 3).collect::<Vec<_>>(), [5..8, 8..11, 11..12]);
        assert_eq!(cut(5..5, 3).count(), 0);
    }

    #[test]
    fn a_full_disk_under_parquet_is_called_so() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = write_error(ParquetError::from(full), Path::new("x.parquet"));
        assert_eq!(error.kind(), crate::error::Kind::Io);
        assert!(error.to_string().contains("free space"), "{error}");
    }
}
