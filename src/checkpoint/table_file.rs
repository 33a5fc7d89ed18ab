//! The rows of all tables in some buckets, as one safetensors file of which any range of buckets can be read and checked
//! alone.
//!
//! ```text
//! head      header of safetensors
//!           <table>.bucket_rows, <table>.bucket_candidates     how many there are in each bucket
//! columns   <table>.ids, .candidate_ids                        each in the order of (bucket, id), so that the rows of
//!           <table>.values, .state, .counts, .last_steps,      some buckets are a range of each column
//!           <table>.candidate_counts
//! ```
//!
//! The manifest has a checksum of the head and one of every bucket: of its part of each column of each table. Whoever reads
//! some buckets reads the head and these parts, and nothing else.

use super::disk::Disk;
use super::files::{Data, FileEntry, Named, checksum, checksum_of, damaged, layout};
use super::inside::inside;
use super::manifest::TableEntry;
use crate::embedding::TableRows;
use crate::error::{Error, Result};
use crate::pulse;
use bytemuck::Pod;
use safetensors::tensor::Metadata;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Columns of the head.
const BUCKET_ROWS: &str = "bucket_rows";
const BUCKET_CANDIDATES: &str = "bucket_candidates";

/// Writes the rows of each of `tables` in `buckets`; returns the file's entry in the manifest.
pub fn write(
    disk: &Disk,
    dir: &Path,
    tables: &[TableEntry],
    rows: &[TableRows],
    buckets: Range<usize>,
) -> Result<FileEntry> {
    let name = format!("buckets-{:05}-{:05}.safetensors", buckets.start, buckets.end - 1);
    let (mut counts, mut columns) = (Vec::new(), Vec::new());
    for (table, rows) in tables.iter().zip(rows) {
        let (n, candidates) = (rows.ids.len(), rows.candidate_ids.len());
        let width = table.state.iter().map(|(_, width)| width).sum();
        let named = |part: &str, shape: Vec<usize>, data| Named { name: name_of(table, part), shape, data };
        counts.push(named(BUCKET_ROWS, vec![buckets.len()], Data::U64((&rows.bucket_rows).into())));
        counts.push(named(BUCKET_CANDIDATES, vec![buckets.len()], Data::U64((&rows.bucket_candidates).into())));
        columns.push(named("ids", vec![n], Data::U64((&rows.ids).into())));
        columns.push(named("values", vec![n, table.dim], Data::F32((&rows.values).into())));
        columns.push(named("state", vec![n, width], Data::F32((&rows.state).into())));
        columns.push(named("counts", vec![n], Data::U32((&rows.counts).into())));
        columns.push(named("last_steps", vec![n], Data::U32((&rows.last_steps).into())));
        columns.push(named("candidate_ids", vec![candidates], Data::U64((&rows.candidate_ids).into())));
        columns.push(named("candidate_counts", vec![candidates], Data::U32((&rows.candidate_counts).into())));
    }
    let heads = 1 + counts.len();
    let tensors: Vec<Named> = counts.into_iter().chain(columns).collect();
    let mut header = Vec::new();
    let parts = layout(&mut header, &tensors)?;
    disk.write(&dir.join(&name), &parts)?;
    Ok(FileEntry {
        name,
        bytes: parts.iter().map(|part| part.len() as u64).sum(),
        checksum: checksum_of(&parts[..heads]),
        buckets: Some((buckets.start, buckets.end - 1)),
        bucket_checksums: bucket_checksums(rows),
        rows: rows.iter().map(|rows| rows.ids.len() as u64).collect(),
    })
}

fn name_of(table: &TableEntry, part: &str) -> String {
    format!("{}.{part}", table.name)
}

/// The checksum of each bucket's rows, of all tables.
fn bucket_checksums(tables: &[TableRows]) -> Vec<String> {
    let buckets = tables.first().map_or(0, |rows| rows.bucket_rows.len());
    let mut starts = vec![(0, 0); tables.len()];
    let of_bucket = |bucket: usize| {
        let mut hash = Xxh3::new();
        for (rows, (row, candidate)) in tables.iter().zip(&mut starts) {
            let (n, candidates) = (rows.bucket_rows[bucket] as usize, rows.bucket_candidates[bucket] as usize);
            let (all, waiting) = (rows.ids.len().max(1), *candidate..*candidate + candidates);
            let floats = |column: &[f32]| (*row * (column.len() / all), n * (column.len() / all));
            let ((value, values), (state, states)) = (floats(&rows.values), floats(&rows.state));
            hash.update(bytemuck::cast_slice(&rows.ids[*row..*row + n]));
            hash.update(bytemuck::cast_slice(&rows.values[value..value + values]));
            hash.update(bytemuck::cast_slice(&rows.state[state..state + states]));
            hash.update(bytemuck::cast_slice(&rows.counts[*row..*row + n]));
            hash.update(bytemuck::cast_slice(&rows.last_steps[*row..*row + n]));
            hash.update(bytemuck::cast_slice(&rows.candidate_ids[waiting.clone()]));
            hash.update(bytemuck::cast_slice(&rows.candidate_counts[waiting]));
            *row += n;
            *candidate += candidates;
        }
        format!("{:016x}", hash.digest())
    };
    (0..buckets).map(of_bucket).collect()
}

/// Reads the rows of each of `tables` in those of `buckets` that the file `entry` of the checkpoint `dir` holds.
///
/// # Errors
/// A file that is not what the manifest says: its length, head, rows, or what is in one of these buckets.
pub fn read(dir: &Path, entry: &FileEntry, tables: &[TableEntry], buckets: &Range<usize>) -> Result<Vec<TableRows>> {
    let path = inside(dir, &entry.name)?;
    let _touch = pulse::touch(&path.to_string_lossy(), None);
    let reader = Reader::open(dir, path, entry)?;
    let Some((first, last)) = entry.buckets else { return Ok(Vec::new()) };
    let end = last.saturating_add(1);
    let buckets = buckets.start.clamp(first, end)..buckets.end.clamp(first, end);
    let of_table = |(index, table)| {
        let expected = entry.rows.get(index).copied().unwrap_or(0);
        reader.table(table, first, &buckets, expected)
    };
    let rows = tables.iter().enumerate().map(of_table).collect::<Result<Vec<_>>>()?;
    let wanted = entry.bucket_checksums.get(buckets.start - first..buckets.end - first).unwrap_or_default();
    let found = bucket_checksums(&rows);
    match buckets.clone().zip(&found).zip(wanted).find(|((_, found), wanted)| found != wanted) {
        Some(((bucket, found), wanted)) => {
            Err(reader
                .damaged(format!("bucket {bucket} of a checkpoint file has checksum {found} instead of {wanted}")))
        }
        None if wanted.len() != found.len() => Err(reader.damaged("a checkpoint file lacks checksums".to_string())),
        None => Ok(rows),
    }
}

/// An open file whose head is known to be what was written.
struct Reader {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Where the tensors begin.
    start: u64,
}

impl Reader {
    fn open(dir: &Path, path: PathBuf, entry: &FileEntry) -> Result<Self> {
        let unread = |e: std::io::Error| damaged(dir, &path, format!("a checkpoint file cannot be read: {e}"));
        let file = File::open(&path).map_err(unread)?;
        let bytes = file.metadata().map_err(unread)?.len();
        if bytes != entry.bytes {
            return Err(damaged(dir, &path, format!("a checkpoint file has {bytes} bytes instead of {}", entry.bytes)));
        }
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(unread)?;
        let start = u64::from_le_bytes(length).checked_add(8).filter(|&start| start <= bytes);
        let start = start.ok_or_else(|| damaged(dir, &path, "a checkpoint file is not safetensors".to_string()))?;
        let mut head = vec![0; start as usize];
        file.read_exact_at(&mut head, 0).map_err(unread)?;
        let metadata: Metadata = serde_json::from_slice(&head[8..])
            .map_err(|e| damaged(dir, &path, format!("a checkpoint file is not safetensors: {e}")))?;
        if metadata.data_len() as u64 != bytes - start {
            return Err(damaged(dir, &path, "a checkpoint file has other bytes than its header says".to_string()));
        }
        let counts = |name: &str| name.ends_with(BUCKET_ROWS) || name.ends_with(BUCKET_CANDIDATES);
        let tensors = metadata.tensors();
        let counts = tensors.iter().filter(|(name, _)| counts(name)).map(|(_, info)| info.data_offsets.1);
        let counts = counts.max().unwrap_or(0);
        head.resize(start as usize + counts, 0);
        file.read_exact_at(&mut head[start as usize..], start).map_err(unread)?;
        let found = checksum(&head);
        if found != entry.checksum {
            let what = format!("the head of a checkpoint file has checksum {found} instead of {}", entry.checksum);
            return Err(damaged(dir, &path, what));
        }
        Ok(Self { dir: dir.to_path_buf(), file, metadata, start, path })
    }

    fn damaged(&self, what: String) -> Error {
        damaged(&self.dir, &self.path, what)
    }

    /// The rows of `table` in `buckets` of a file whose first bucket is `first`, with `expected` rows in all.
    fn table(&self, table: &TableEntry, first: usize, buckets: &Range<usize>, expected: u64) -> Result<TableRows> {
        let counts = |part: &str| -> Result<(Vec<u64>, Range<u64>, u64)> {
            let all: Vec<u64> = self.rows(&name_of(table, part), None)?;
            let total = |counts: &[u64]| counts.iter().fold(0u64, |sum, &n| sum.saturating_add(n));
            let within = buckets.start - first..buckets.end - first;
            let (Some(before), Some(mine)) = (all.get(..within.start), all.get(within)) else {
                return Err(self.damaged(format!("`{part}` of table `{}` has too few buckets", table.name)));
            };
            let start = total(before);
            Ok((mine.to_vec(), start..start.saturating_add(total(mine)), total(&all)))
        };
        let (bucket_rows, rows, all) = counts(BUCKET_ROWS)?;
        let (bucket_candidates, candidates, _) = counts(BUCKET_CANDIDATES)?;
        if all != expected {
            let what = format!("table `{}` has {all} rows in a file that should hold {expected}", table.name);
            return Err(self.damaged(what));
        }
        let name = |part: &str| name_of(table, part);
        Ok(TableRows {
            buckets: buckets.clone(),
            bucket_rows,
            ids: self.rows(&name("ids"), Some(&rows))?,
            values: self.rows(&name("values"), Some(&rows))?,
            state: self.rows(&name("state"), Some(&rows))?,
            counts: self.rows(&name("counts"), Some(&rows))?,
            last_steps: self.rows(&name("last_steps"), Some(&rows))?,
            bucket_candidates,
            candidate_ids: self.rows(&name("candidate_ids"), Some(&candidates))?,
            candidate_counts: self.rows(&name("candidate_counts"), Some(&candidates))?,
        })
    }

    /// Some rows of the tensor `name`, or all.
    fn rows<T: Pod>(&self, name: &str, rows: Option<&Range<u64>>) -> Result<Vec<T>> {
        let info = self.metadata.info(name).ok_or_else(|| {
            Error::checkpoint(format!("tensor `{name}` is missing"))
                .at("file", self.path.display())
                .fix("this checkpoint belongs to another job, or to another version of it")
        })?;
        // A file from elsewhere may name any shape.
        let columns = info.shape.iter().skip(1).fold(1usize, |columns, &width| columns.saturating_mul(width));
        let width = (columns as u64).saturating_mul(size_of::<T>() as u64);
        let (begin, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let all = 0..info.shape.first().copied().unwrap_or(0) as u64;
        let rows = rows.unwrap_or(&all);
        if rows.end > all.end || all.end.saturating_mul(width) != end - begin {
            return Err(self.damaged(format!("tensor `{name}` does not fit the file")));
        }
        let mut values = vec![T::zeroed(); ((rows.end - rows.start) * width) as usize / size_of::<T>()];
        let at = self.start + begin + rows.start * width;
        let read = self.file.read_exact_at(bytemuck::cast_slice_mut(&mut values), at);
        read.map_err(|e| self.damaged(format!("a checkpoint file cannot be read: {e}")))?;
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKETS: Range<usize> = 8..12;

    fn entry(name: &str, dim: usize, width: usize) -> TableEntry {
        let (name, state) = (name.to_string(), vec![("m".to_string(), width)]);
        TableEntry { name, dim, state, rows: 0, frozen: false }
    }

    /// Rows of a table in some buckets, cut out of the same ones.
    fn rows(table: &TableEntry, buckets: Range<usize>) -> TableRows {
        let width = table.state[0].1;
        let mut rows = TableRows { buckets: buckets.clone(), ..TableRows::default() };
        for bucket in buckets {
            let n = [3, 0, 1, 2][bucket - BUCKETS.start] as u32;
            let numbers = |per_row: usize| (0..n as usize * per_row).map(move |i| (100 * bucket + i) as f32);
            rows.bucket_rows.push(u64::from(n));
            rows.ids.extend((0..n).map(|i| u64::from(i) << 40 | bucket as u64));
            rows.values.extend(numbers(table.dim));
            rows.state.extend(numbers(width).map(|x| -x));
            rows.counts.extend((0..n).map(|i| i + 7));
            rows.last_steps.extend((0..n).map(|i| i + 9));
            let waiting = u64::from(bucket % 3 == 1);
            rows.bucket_candidates.push(waiting);
            rows.candidate_ids.extend((0..waiting).map(|_| bucket as u64 + 900));
            rows.candidate_counts.extend((0..waiting).map(|_| 2));
        }
        rows
    }

    #[test]
    fn every_byte_is_of_the_head_or_of_a_bucket() {
        let dir = tempfile::tempdir().unwrap();
        // A state of no numbers, and a table without rows of its own.
        let tables = [entry("item", 3, 2), entry("user", 2, 0)];
        let all = tables.each_ref().map(|table| rows(table, BUCKETS));
        let entry = write(&Disk::default(), dir.path(), &tables, &all, BUCKETS).unwrap();
        let read = |buckets: Range<usize>| read(dir.path(), &entry, &tables, &buckets);
        assert_eq!(read(0..100).unwrap(), all);
        for (first, last) in [(8, 8), (8, 9), (9, 12), (10, 11), (8, 12)] {
            assert_eq!(read(first..last).unwrap(), tables.each_ref().map(|table| rows(table, first..last)));
        }
        let path = dir.path().join(&entry.name);
        let good = std::fs::read(&path).unwrap();
        assert_eq!(good.len() as u64, entry.bytes);
        let (mut of_head, mut of_one) = (0, 0);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            let noticed = BUCKETS.filter(|&bucket| read(bucket..bucket + 1).is_err()).count();
            of_head += usize::from(noticed == BUCKETS.len());
            of_one += usize::from(noticed == 1);
            let error = read(BUCKETS).expect_err("a byte was flipped").to_string();
            assert!(error.contains(&entry.name) && error.contains("fix:"), "byte {at}: {error}");
        }
        assert_eq!(of_head + of_one, good.len(), "a rank reads the head and its buckets, and nothing else");
        // 6 rows of 8 + 4 + 4 bytes in each table with 5 and 2 floats, and 1 candidate of 12.
        assert_eq!(of_one, 6 * (16 + 20) + 6 * (16 + 8) + 2 * 12);
    }
}
