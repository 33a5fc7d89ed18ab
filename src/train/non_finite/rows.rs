//! A batch as Parquet: the rows as the model read them, with their addresses.
//!
//! | columns | what |
//! |---|---|
//! | `file`, `row_group`, `row` | where the row comes from; null for padding |
//! | `slot` | its place in the global batch |
//! | `scenario`, `class` | their numbers, where the job or the model has any |
//! | `ids.<n>` | list of uint64: the ids of the n-th column of ids |
//! | `dense.<n>.<feature>` | float32: a number after its transform |
//! | `label.<task>`, `weight.<task>` | float32; weight 0 is no label |

use crate::data::batch::{Batch, IdColumn, Origin, Target};
use crate::data::plan::{File, Plan, RowGroup};
use crate::error::{Error, Result};
use crate::guard;
use crate::train::losses::TaskSpec;
use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float32Type, UInt32Type, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the columns are named by.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// The tasks.
    pub tasks: &'a [TaskSpec],
    /// The feature of each dense column.
    pub dense: &'a [String],
}

/// The rows of all ranks, as one batch.
pub struct Rows {
    /// The rows.
    pub batch: Batch,
    /// Where they come from: just the row groups that they name.
    pub plan: Plan,
    /// The class of each row, where the model has such.
    pub classes: Vec<u32>,
}

/// The file of one rank's rows.
pub fn path(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rows-{rank:05}.parquet"))
}

/// Writes the rows of one rank.
pub fn write(path: &Path, batch: &Batch, plan: &Plan, classes: Option<&[u32]>, names: Names) -> Result<()> {
    let columns = columns(batch, plan, classes, names);
    let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let rows = rows.map_err(|e| Error::internal(format!("a batch does not fit its file: {e}")))?;
    let failed = |e| Error::data(format!("the rows cannot be written: {e}")).at("file", path.display());
    let file = std::fs::File::create(path).map_err(|e| Error::io("creating", path, &e))?;
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).map_err(failed)?;
    writer.write(&rows).map_err(failed)?;
    writer.close().map_err(failed)?;
    Ok(())
}

fn columns(batch: &Batch, plan: &Plan, classes: Option<&[u32]>, names: Names) -> Vec<(String, ArrayRef)> {
    let origins = || batch.origin.iter().zip(&batch.present).map(|(&origin, &present)| present.then_some(origin));
    let group = |origin: Origin| plan.row_groups[origin.row_group as usize].index;
    let numbers = |values: Vec<f32>| Arc::new(Float32Array::from(values)) as ArrayRef;
    let counts = |values: &[u32]| Arc::new(UInt32Array::from(values.to_vec())) as ArrayRef;
    let file = origins().map(|origin| origin.map(|origin| plan.path(origin.row_group)));
    let mut all: Vec<(String, ArrayRef)> = vec![
        ("file".into(), Arc::new(file.collect::<StringArray>())),
        ("row_group".into(), Arc::new(origins().map(|origin| origin.map(group)).collect::<UInt32Array>())),
        ("row".into(), Arc::new(origins().map(|origin| origin.map(|origin| origin.row)).collect::<UInt32Array>())),
        ("slot".into(), counts(&batch.slots)),
    ];
    if !batch.scenarios.is_empty() {
        all.push(("scenario".into(), counts(&batch.scenarios)));
    }
    all.extend(classes.map(|classes| ("class".into(), counts(classes))));
    for (n, column) in batch.ids.iter().enumerate() {
        let offsets = OffsetBuffer::from_lengths((0..batch.rows).map(|row| column.row(row).len()));
        let item = Arc::new(Field::new("item", DataType::UInt64, false));
        let ids = Arc::new(UInt64Array::from(column.ids().to_vec()));
        all.push((format!("ids.{n}"), Arc::new(ListArray::new(item, offsets, ids, None))));
    }
    for (n, name) in names.dense.iter().enumerate() {
        let column = batch.dense.iter().skip(n).step_by(names.dense.len()).copied();
        all.push((format!("dense.{n}.{name}"), numbers(column.collect())));
    }
    for (task, Target { label, weight }) in names.tasks.iter().zip(&batch.targets) {
        all.push((format!("label.{}", task.name), numbers(label.clone())));
        all.push((format!("weight.{}", task.name), numbers(weight.clone())));
    }
    all
}

/// Reads the rows of all ranks, which have `id_columns` columns of ids.
pub fn read(paths: &[PathBuf], id_columns: usize, names: Names) -> Result<Rows> {
    let mut batches = Vec::with_capacity(paths.len());
    for path in paths {
        batches.extend(read_file(path).map_err(|what| unreadable(&what).at("file", path.display()))?);
    }
    let Some(first) = batches.first() else { return Err(unreadable(&"there are none")) };
    let rows = concat_batches(&first.schema(), &batches).map_err(|e| unreadable(&e))?;
    let mut batch = Batch { rows: rows.num_rows(), slots: integers(&rows, "slot")?, ..Batch::default() };
    for n in 0..id_columns {
        batch.ids.push(ids(&rows, &format!("ids.{n}"))?);
    }
    let dense = names.dense.iter().enumerate();
    let dense = dense.map(|(n, name)| floats(&rows, &format!("dense.{n}.{name}"))).collect::<Result<Vec<_>>>()?;
    batch.dense = (0..batch.rows).flat_map(|row| dense.iter().map(move |column| column[row])).collect();
    for task in names.tasks {
        let label = floats(&rows, &format!("label.{}", task.name))?;
        batch.targets.push(Target { label, weight: floats(&rows, &format!("weight.{}", task.name))? });
    }
    let numbered =
        |name: &str| if rows.column_by_name(name).is_some() { integers(&rows, name) } else { Ok(Vec::new()) };
    batch.scenarios = numbered("scenario")?;
    let classes = numbered("class")?;
    let plan = addresses(&rows, &mut batch)?;
    Ok(Rows { batch, plan, classes })
}

fn read_file(path: &Path) -> std::result::Result<Vec<RecordBatch>, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    // A damaged file makes the decoder fail in some places and panic in others.
    guard::run(|| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
        reader.map_err(|e| e.to_string())?.collect::<std::result::Result<_, _>>().map_err(|e| e.to_string())
    })?
}

fn unreadable(what: &dyn std::fmt::Display) -> Error {
    Error::data(format!("the rows of the step cannot be read: {what}")).fix("record the step again by running the job")
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| unreadable(&format!("there is no column `{name}`")))
}

fn integers(rows: &RecordBatch, name: &str) -> Result<Vec<u32>> {
    let values = column(rows, name)?.as_primitive_opt::<UInt32Type>();
    Ok(values.ok_or_else(|| unreadable(&format!("`{name}` holds no uint32")))?.values().to_vec())
}

fn floats(rows: &RecordBatch, name: &str) -> Result<Vec<f32>> {
    let values = column(rows, name)?.as_primitive_opt::<Float32Type>();
    Ok(values.ok_or_else(|| unreadable(&format!("`{name}` holds no float32")))?.values().to_vec())
}

fn ids(rows: &RecordBatch, name: &str) -> Result<IdColumn> {
    let other = || unreadable(&format!("`{name}` holds no lists of uint64"));
    let lists = column(rows, name)?.as_list_opt::<i32>().ok_or_else(other)?;
    let values = lists.values().as_primitive_opt::<UInt64Type>().ok_or_else(other)?;
    let offsets = lists.value_offsets();
    let (start, end) = (offsets[0], offsets[offsets.len() - 1]);
    let ids = values.values()[start as usize..end as usize].to_vec();
    Ok(IdColumn::lists(offsets.iter().map(|&offset| (offset - start) as u32).collect(), ids))
}

/// Fills in where the rows come from, and which are padding.
fn addresses(rows: &RecordBatch, batch: &mut Batch) -> Result<Plan> {
    let files = column(rows, "file")?;
    let files = files.as_string_opt::<i32>().ok_or_else(|| unreadable(&"`file` holds no text"))?;
    let (groups, places) = (integers(rows, "row_group")?, integers(rows, "row")?);
    let mut plan = Plan::default();
    let (mut known_files, mut known_groups) = (BTreeMap::new(), BTreeMap::new());
    for row in 0..batch.rows {
        batch.present.push(files.is_valid(row));
        if files.is_null(row) {
            batch.origin.push(Origin::default());
            continue;
        }
        let file = *known_files.entry(files.value(row)).or_insert_with(|| {
            plan.files.push(File { path: files.value(row).to_string(), bytes: 0, partitions: Vec::new() });
            plan.files.len() as u32 - 1
        });
        let row_group = *known_groups.entry((file, groups[row])).or_insert_with(|| {
            plan.row_groups.push(RowGroup { file, index: groups[row], rows: 0, bytes: 0 });
            plan.row_groups.len() as u32 - 1
        });
        let group = &mut plan.row_groups[row_group as usize];
        group.rows = group.rows.max(places[row].saturating_add(1));
        batch.origin.push(Origin { row_group, row: places[row] });
    }
    plan.rows = plan.row_groups.iter().map(|group| u64::from(group.rows)).sum();
    Ok(plan)
}
