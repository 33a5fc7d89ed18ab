//! `tandem ingest`: logs as text become Parquet that trains well.
//!
//! ```text
//! source   CSV, TSV, JSON lines, plain or gzip → rows, each with its line
//! kind     what a column holds, guessed from the first rows or given
//! builder  cells of one column → an Arrow array
//! exploded one column of `field:id` pairs → a column a field (Ali-CCP)
//! writer   arrays → files of large row groups, zstd, dictionaries; whole or not there
//! ```
//!
//! Rows stream: what is in memory is a batch of them and the row group that is being encoded.

mod builder;
mod exploded;
mod kind;
mod source;
mod writer;

use crate::error::{Error, Result};
use crate::random;
use builder::Builder;
pub use exploded::Explode;
pub use kind::Kind;
use source::{Cell, Rows};
pub use source::{Format, Options as Reading};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use writer::Writer;

/// Rows that are converted at a time.
const BATCH_ROWS: usize = 8192;

/// What is read and how it is written.
#[derive(Debug, Clone)]
pub struct Request {
    /// Files of text.
    pub inputs: Vec<PathBuf>,
    /// How they are read.
    pub reading: Reading,
    /// Kinds of columns that are not guessed.
    pub kinds: BTreeMap<String, Kind>,
    /// Columns that are not written.
    pub dropped: Vec<String>,
    /// A column of pairs that becomes columns.
    pub explode: Option<Explode>,
    /// The folder that is written; new or empty.
    pub out: PathBuf,
    /// Rows of a row group.
    pub row_group_rows: usize,
    /// Shares of the rows that go to `train`, `valid` and `test`.
    pub split: Option<[f64; 3]>,
    /// Rows of equal values in this column go to one of the splits together.
    pub split_by: Option<String>,
    /// Rows of the first file from which kinds are guessed.
    pub guess_rows: usize,
    /// Leaves lines out that cannot be read, instead of failing at the first.
    pub skip_bad_lines: bool,
}

/// What was written.
#[derive(Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Rows of all files, or of each split.
    pub rows: BTreeMap<String, u64>,
    /// Files.
    pub files: usize,
    /// Bytes of the files.
    pub bytes: u64,
    /// Lines that were left out.
    pub skipped: u64,
    /// Columns and what they hold.
    pub columns: Vec<(String, String)>,
}

/// A column that is written.
#[derive(Debug, Clone, PartialEq)]
struct Column {
    name: String,
    kind: Kind,
}

/// Names of the splits, which are folders.
const SPLITS: [&str; 3] = ["train", "valid", "test"];

/// Reads all inputs and writes them as Parquet, a file each.
///
/// # Errors
/// Files that cannot be read or written, columns that are not there, and the first line that does not fit its column, by
/// file and line.
pub fn ingest(request: &Request) -> Result<Summary> {
    writer::claim(&request.out)?;
    let first = request.inputs.first().ok_or_else(|| Error::job("no file was named"))?;
    let columns = columns(request, first)?;
    let mut summary = Summary::default();
    for (number, input) in request.inputs.iter().enumerate() {
        convert(request, &columns, number, input, &mut summary)?;
    }
    let exploded = request.explode.iter().flat_map(|explode| explode.columns());
    let all = columns.iter().cloned().chain(exploded);
    summary.columns = all.map(|column| (column.name, column.kind.to_string())).collect();
    Ok(summary)
}

/// The columns of the first file, which all files must have, with their kinds.
fn columns(request: &Request, first: &Path) -> Result<Vec<Column>> {
    let mut rows = Rows::open(first, &request.reading)?;
    let mut guesses = kind::Guesses::default();
    for name in rows.names() {
        guesses.name(name);
    }
    for _ in 0..request.guess_rows {
        match rows.next() {
            Ok(Some(row)) => row.cells(|name, cell| guesses.see(name, &cell)),
            Ok(None) => break,
            Err(_) if request.skip_bad_lines => {}
            Err(error) => return Err(error),
        }
    }
    let known = guesses.names();
    let mut named = request.kinds.keys().chain(&request.dropped).chain(request.explode.iter().map(|e| &e.column));
    // A column of JSON may come up after the rows that were looked at.
    if let Some(missing) = named.find(|name| rows.is_csv() && !known.contains(name)) {
        let known: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
        return Err(Error::job(format!("there is no column `{missing}`"))
            .at("file", first.display())
            .fix(format!("the columns are: {}", known.join(", "))));
    }
    let mut columns = Vec::new();
    for (name, guess) in guesses.finish() {
        let exploded = request.explode.as_ref().is_some_and(|explode| explode.column == name);
        if !exploded && !request.dropped.contains(&name) {
            let kind = request.kinds.get(&name).copied().unwrap_or(guess);
            columns.push(Column { name, kind });
        }
    }
    let given = request.kinds.iter().filter(|(name, _)| !columns.iter().any(|column| column.name == **name));
    let late: Vec<Column> = given.map(|(name, kind)| Column { name: name.clone(), kind: *kind }).collect();
    columns.extend(late);
    if columns.is_empty() && request.explode.is_none() {
        return Err(Error::data("the file has no column").at("file", first.display()));
    }
    Ok(columns)
}

/// One input's rows, on their way into the files of the splits.
fn convert(request: &Request, columns: &[Column], number: usize, input: &Path, summary: &mut Summary) -> Result<()> {
    let splits: &[&str] = if request.split.is_some() { &SPLITS } else { &[""] };
    let name = writer::file_name(number, request.inputs.len(), input);
    let exploded: Vec<Column> = request.explode.iter().flat_map(|explode| explode.columns()).collect();
    let schema = writer::schema(columns.iter().chain(&exploded));
    let open = |split: &&str| Part {
        builders: columns.iter().map(|column| Builder::new(column.kind)).collect(),
        exploded: request.explode.as_ref().map(Explode::builders).unwrap_or_default(),
        rows: 0,
        writer: Writer::new(request.out.join(split).join(&name), schema.clone(), request.row_group_rows),
    };
    let mut parts: Vec<Part> = splits.iter().map(open).collect();
    let mut rows = Rows::open(input, &request.reading)?;
    let mut number = 0u64;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) => {
                skip(request, summary, error)?;
                continue;
            }
        };
        let part = &mut parts[split_of(request, &row, number)?];
        number += 1;
        match part.add(request, columns, &row) {
            Ok(()) => part.rows += 1,
            Err(error) => skip(request, summary, row.named(error))?,
        }
        if part.rows == BATCH_ROWS {
            part.flush()?;
        }
    }
    for (part, split) in parts.into_iter().zip(splits) {
        let (rows, bytes) = part.finish()?;
        let split = if split.is_empty() { "all" } else { split };
        *summary.rows.entry(split.to_string()).or_default() += rows;
        summary.files += usize::from(rows > 0);
        summary.bytes += bytes;
    }
    Ok(())
}

/// Counts a bad line, or fails with it.
fn skip(request: &Request, summary: &mut Summary, error: Error) -> Result<()> {
    // A file that cannot be read any further would fail for ever.
    if !request.skip_bad_lines || error.place("line").is_none() {
        return Err(error);
    }
    tracing::debug!("left out: {error}");
    summary.skipped += 1;
    Ok(())
}

/// The split of a row: by its number, or by a value of it.
fn split_of(request: &Request, row: &source::Row, number: u64) -> Result<usize> {
    let Some(shares) = request.split else { return Ok(0) };
    let key = match &request.split_by {
        None => number,
        Some(column) => {
            let missing = || Error::job(format!("there is no column `{column}` to split by"));
            random::text(&row.get(column).ok_or_else(missing)?.text())
        }
    };
    let draw = random::unit(SPLIT_SEED, &[key]);
    Ok(if draw < shares[0] {
        0
    } else if draw < shares[0] + shares[1] {
        1
    } else {
        2
    })
}

/// The same rows are in the same split every time.
const SPLIT_SEED: u64 = 17;

/// One file that is being written.
struct Part {
    builders: Vec<Builder>,
    exploded: Vec<Builder>,
    rows: usize,
    writer: Writer,
}

impl Part {
    /// Takes a row in whole, or not at all.
    fn add(&mut self, request: &Request, columns: &[Column], row: &source::Row) -> Result<()> {
        let cells: Vec<Cell> = columns.iter().map(|column| row.get(&column.name).unwrap_or(Cell::Null)).collect();
        for (column, cell) in columns.iter().zip(&cells) {
            column.kind.check(cell).map_err(|error| error.at("column", &column.name))?;
        }
        if let Some(explode) = &request.explode {
            explode.append(row.get(&explode.column), &mut self.exploded)?;
        }
        self.builders.iter_mut().zip(&cells).for_each(|(builder, cell)| builder.append(cell));
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows > 0 {
            let builders = self.builders.iter_mut().chain(&mut self.exploded);
            self.writer.write(builders.map(Builder::finish).collect())?;
            self.rows = 0;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(u64, u64)> {
        self.flush()?;
        self.writer.finish()
    }
}

#[cfg(test)]
mod tests;
