//! Deltas: what changed between two checkpoints, and a bundle with it folded in.
//!
//! ```text
//! base bundle ──────────────┐
//!                           ├─ apply ──► the bundle of the newer checkpoint
//! delta: model, schema, golden rows as ever; of the tables
//!   tables/<table>.parquet              rows that are new or have other numbers
//!   tables/<table>.tombstones.parquet   ids whose rows are gone
//! ```

use super::bundle::{Draft, Manifest};
use super::schema::{self, BundleSchema, Table};
use super::tables::{FOLDER, Format, Shape, TableWriter, file_name, read_rows, read_tombstones};
use super::verify::{Report, read_schema, verify};
use crate::checkpoint::{self, MANIFEST, checksum, inside, read_tables};
use crate::embedding::TableRows;
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The key of the ids that are gone among a table's files.
pub const TOMBSTONES: &str = "tombstones";

/// Name of the file with a table's ids that are gone, relative to the bundle.
pub fn tombstones_file(table: &str) -> String {
    format!("{FOLDER}/{}.tombstones.parquet", file_name(table))
}

/// The checkpoint that a delta builds on.
pub struct Base {
    path: PathBuf,
    manifest: checkpoint::Manifest,
    /// Some of its buckets, with the rows of every table: what was compared last.
    read: (Range<usize>, Vec<TableRows>),
}

/// What became of a table's rows in some buckets.
#[derive(Debug, Default, PartialEq)]
pub struct Change {
    /// Rows that are new or have other numbers.
    pub changed: TableRows,
    /// Ids whose rows are gone.
    pub gone: Vec<u64>,
}

impl Base {
    /// Reads the checkpoint that `path` means, to be compared with `newer`.
    ///
    /// # Errors
    /// Other tables or buckets, or a checkpoint that is not older.
    pub fn open(path: &Path, newer: &checkpoint::Manifest) -> Result<Self> {
        let path = checkpoint::resolve(path)?;
        let manifest = checkpoint::Manifest::read(&path)?;
        let tables = |manifest: &checkpoint::Manifest| -> Vec<(String, usize)> {
            manifest.tables.iter().map(|table| (table.name.clone(), table.dim)).collect()
        };
        let other = |what: &str| {
            Error::checkpoint(what.to_string())
                .at("path", path.display())
                .fix("export the whole bundle, without --since")
        };
        if tables(&manifest) != tables(newer) || manifest.buckets != newer.buckets {
            return Err(other("the checkpoint of --since has other tables"));
        }
        Ok(Self { path, manifest, read: (0..0, Vec::new()) })
    }

    /// Checksum of its manifest: what [`Manifest::checkpoint`] of its bundle says.
    pub fn checksum(&self) -> Result<String> {
        let path = self.path.join(MANIFEST);
        Ok(checksum(&std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))?))
    }

    /// Compares `newer`, all rows of some buckets of a table, with the rows that were there. Numbers are compared bit by
    /// bit.
    pub fn change(&mut self, table: usize, newer: &TableRows) -> Result<Change> {
        let dim = self.manifest.tables[table].dim;
        let mut before: HashMap<u64, Vec<u32>> = HashMap::new();
        let bits = |row: &[f32]| row.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for rows in self.rows(table, &newer.buckets)? {
            before.extend(rows.ids.iter().zip(rows.values.chunks(dim)).map(|(&id, row)| (id, bits(row))));
        }
        let mut moved = HashSet::new();
        for (&id, row) in newer.ids.iter().zip(newer.values.chunks(dim)) {
            let is_same = before.remove(&id).is_some_and(|old| old.into_iter().eq(row.iter().map(|x| x.to_bits())));
            if !is_same {
                moved.insert(id);
            }
        }
        let mut gone: Vec<u64> = before.into_keys().collect();
        gone.sort_unstable();
        Ok(Change { changed: newer.of_ids(|id| moved.contains(&id)), gone })
    }

    /// The rows of a table in some buckets: one part for each file that has some. Those of the other tables are kept, as they
    /// are asked for next.
    fn rows(&mut self, table: usize, buckets: &Range<usize>) -> Result<impl Iterator<Item = &TableRows>> {
        let tables = self.manifest.tables.len();
        if self.read.0 != *buckets {
            let mut parts = Vec::new();
            read_tables(&self.path, &self.manifest, buckets.clone(), |_, rows| {
                parts.push(rows.clone());
                Ok(())
            })?;
            self.read = (buckets.clone(), parts);
        }
        Ok(self.read.1.iter().skip(table).step_by(tables.max(1)))
    }
}

/// Folds the delta into the bundle `base` and publishes the result as `out`, if it verifies.
///
/// # Errors
/// A delta of another base, or a result that does not verify.
pub fn apply(base: &Path, delta: &Path, out: &Path) -> Result<Report> {
    let (base_manifest, manifest) = (Manifest::read_checked(base)?, Manifest::read_checked(delta)?);
    let Some(since) = &manifest.since else {
        return Err(Error::job("the second bundle is whole, not a delta")
            .at("path", delta.display())
            .fix("write deltas with `tandem export --since CKPT`"));
    };
    if *since != base_manifest.checkpoint {
        return Err(Error::checkpoint("the delta was made since another checkpoint than this bundle's")
            .at("path", delta.display())
            .fix("apply deltas in the order in which they were made"));
    }
    let draft = Draft::begin(out)?;
    let folded = fold(base, delta, &draft, manifest).and_then(|()| {
        let report = verify(draft.path())?;
        report.check().map(|()| report)
    });
    match folded {
        Ok(report) => draft.publish().map(|()| report),
        Err(error) => {
            draft.discard();
            Err(error)
        }
    }
}

fn fold(base: &Path, delta: &Path, draft: &Draft, manifest: Manifest) -> Result<()> {
    let (old, mut schema) = (read_schema(base)?, read_schema(delta)?);
    for name in manifest.files.iter().map(|file| &file.name).filter(|name| !name.starts_with(FOLDER)) {
        let target = draft.path().join(name);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("creating", folder, &e))?;
        }
        std::fs::copy(inside(delta, name)?, &target).map_err(|e| Error::io("copying", &target, &e))?;
    }
    for table in &mut schema.tables {
        let before = old.tables.iter().find(|known| known.name == table.name);
        let before = before.ok_or_else(|| Error::checkpoint(format!("the base has no table `{}`", table.name)))?;
        let job = schema.job.clone();
        table.files = fold_table(&job, (base, before), (delta, table), draft)?;
    }
    write_schema(draft, &schema)?;
    draft.seal(Manifest { since: None, files: Vec::new(), ..manifest })
}

fn file<'a>(table: &'a Table, key: &str) -> Result<&'a String> {
    table.files.get(key).ok_or_else(|| Error::checkpoint(format!("table `{}` has no {key} file", table.name)))
}

/// The base's rows in their order, with the delta's numbers; then the rows that are new.
fn fold_table(
    job: &str,
    (base, before): (&Path, &Table),
    (delta, after): (&Path, &Table),
    draft: &Draft,
) -> Result<std::collections::BTreeMap<String, String>> {
    let dim = after.dim;
    let gone: HashSet<u64> = read_tombstones(&inside(delta, file(after, TOMBSTONES)?)?)?.into_iter().collect();
    let mut changed: HashMap<u64, Vec<f32>> = HashMap::new();
    let mut order = Vec::new();
    read_rows(&inside(delta, file(after, "parquet")?)?, dim, |ids, vectors| {
        order.extend_from_slice(ids);
        changed.extend(ids.iter().copied().zip(vectors.chunks(dim).map(<[f32]>::to_vec)));
        Ok(())
    })?;
    let shape =
        Shape { job: job.to_string(), table: after.name.clone(), dim, rows: Some(after.rows), dtype: after.dtype };
    let mut writer = TableWriter::create(draft.path(), shape, &[Format::Parquet])?;
    read_rows(&inside(base, file(before, "parquet")?)?, dim, |ids, vectors| {
        let (mut kept, mut numbers) = (Vec::new(), Vec::new());
        for (id, row) in ids.iter().zip(vectors.chunks(dim)).filter(|(id, _)| !gone.contains(*id)) {
            kept.push(*id);
            match changed.remove(id) {
                Some(row) => numbers.extend(row),
                None => numbers.extend_from_slice(row),
            }
        }
        writer.push(&kept, &numbers)
    })?;
    let new: Vec<u64> = order.into_iter().filter(|id| changed.contains_key(id)).collect();
    let numbers: Vec<f32> = new.iter().flat_map(|id| &changed[id]).copied().collect();
    writer.push(&new, &numbers)?;
    writer.finish()
}

/// Writes `schema.json`.
pub fn write_schema(draft: &Draft, schema: &BundleSchema) -> Result<()> {
    let text = serde_json::to_string_pretty(schema)
        .map_err(|e| Error::internal(format!("the schema cannot be written: {e}")))?;
    draft.write(schema::FILE, text.as_bytes())
}
