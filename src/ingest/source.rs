//! Rows of a file of text, each with the line that it begins on.

use crate::error::{Error, Result};
use csv::StringRecord;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// One JSON object a line.
    Jsonl,
}

/// How files are read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// By the name of the file, where it is not said.
    pub format: Option<Format>,
    /// What separates values, instead of a comma or tab; may be several characters.
    pub delimiter: Option<String>,
    /// Names of the columns, for files without a line of names.
    pub names: Vec<String>,
    /// Bytes are ISO 8859-1 instead of UTF-8.
    pub latin1: bool,
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    /// None, or an empty text.
    Null,
    /// Of CSV, not read any further yet.
    Text(&'a str),
    /// Of JSON.
    Json(&'a Value),
}

impl Cell<'_> {
    /// As text, whatever it is.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Null => Cow::Borrowed(""),
            Self::Text(text) => Cow::Borrowed(text),
            Self::Json(Value::String(text)) => Cow::Borrowed(text),
            Self::Json(value) => Cow::Owned(value.to_string()),
        }
    }
}

impl<'a> Cell<'a> {
    fn of_text(text: &'a str) -> Self {
        if text.is_empty() { Self::Null } else { Self::Text(text) }
    }

    fn of_json(value: &'a Value) -> Self {
        if value.is_null() { Self::Null } else { Self::Json(value) }
    }
}

/// The rows of one file.
pub(super) struct Rows {
    path: PathBuf,
    /// Of CSV.
    names: Vec<String>,
    reader: Reader,
}

enum Reader {
    Csv(Box<csv::Reader<Box<dyn Read>>>, StringRecord),
    Json { lines: Box<dyn BufRead>, text: String, line: u64, row: Map<String, Value> },
}

/// One row.
pub(super) struct Row<'a> {
    path: &'a Path,
    line: u64,
    names: &'a [String],
    values: Values<'a>,
}

enum Values<'a> {
    Csv(&'a StringRecord),
    Json(&'a Map<String, Value>),
}

impl Rows {
    /// Opens a file, and reads its line of names.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("opening", path, &e))?;
        let zipped = path.extension().is_some_and(|extension| extension == "gz");
        let mut bytes: Box<dyn Read> =
            if zipped { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(file) };
        if options.latin1 {
            bytes = Box::new(Replaced::new(BufReader::new(bytes), Replace::Latin1));
        }
        let format = options.format.map_or_else(|| by_name(path), Ok)?;
        let delimiter = match (&options.delimiter, format) {
            (_, Format::Jsonl) => {
                let lines = Box::new(BufReader::new(bytes));
                let reader = Reader::Json { lines, text: String::new(), line: 0, row: Map::new() };
                return Ok(Self { path: path.to_path_buf(), names: Vec::new(), reader });
            }
            (Some(delimiter), _) if delimiter.len() > 1 => {
                let replace = Replace::Delimiter(delimiter.clone().into_bytes());
                bytes = Box::new(Replaced::new(BufReader::new(bytes), replace));
                ONE_BYTE
            }
            (Some(delimiter), _) => delimiter.bytes().next().unwrap_or(b','),
            (None, Format::Csv) => b',',
            (None, Format::Tsv) => b'\t',
        };
        let mut builder = csv::ReaderBuilder::new();
        builder.delimiter(delimiter).has_headers(options.names.is_empty());
        // Tab-separated files and those of other marks know no quotes.
        builder.quoting(format == Format::Csv && options.delimiter.is_none());
        let mut reader = builder.from_reader(bytes);
        let names = match options.names.is_empty() {
            true => reader.headers().map_err(|e| refused(path, &e))?.iter().map(String::from).collect(),
            false => options.names.clone(),
        };
        check_names(path, &names)?;
        let reader = Reader::Csv(Box::new(reader), StringRecord::new());
        Ok(Self { path: path.to_path_buf(), names, reader })
    }

    /// Names of the columns, where the file begins with them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether every row has the same columns.
    pub fn is_csv(&self) -> bool {
        matches!(self.reader, Reader::Csv(..))
    }

    /// The next row.
    pub fn next(&mut self) -> Result<Option<Row<'_>>> {
        let (path, names) = (self.path.as_path(), self.names.as_slice());
        match &mut self.reader {
            Reader::Csv(reader, record) => {
                if !reader.read_record(record).map_err(|e| refused(path, &e))? {
                    return Ok(None);
                }
                let line = record.position().map_or(0, csv::Position::line);
                if record.len() != names.len() {
                    let what = format!("{} values for {} columns", record.len(), names.len());
                    return Err(Error::data(what).at("file", path.display()).at("line", line).fix(FIX_LINE));
                }
                Ok(Some(Row { path, line, names, values: Values::Csv(record) }))
            }
            Reader::Json { lines, text, line, row } => {
                loop {
                    text.clear();
                    *line += 1;
                    let at = |error: Error| error.at("line", *line).fix(FIX_LINE);
                    let read = lines.read_line(text).map_err(|e| {
                        let error = Error::io("reading", path, &e);
                        if e.kind() == std::io::ErrorKind::InvalidData { at(error) } else { error }
                    })?;
                    if read == 0 {
                        return Ok(None);
                    }
                    if !text.trim().is_empty() {
                        *row = serde_json::from_str(text).map_err(|e| {
                            at(Error::data(format!("this is no JSON object: {e}")).at("file", path.display()))
                        })?;
                        break;
                    }
                }
                Ok(Some(Row { path, line: *line, names, values: Values::Json(row) }))
            }
        }
    }
}

const FIX_LINE: &str = "correct the line, or leave such lines out with --skip-bad-lines";

fn refused(path: &Path, error: &csv::Error) -> Error {
    let line = error.position().map(csv::Position::line);
    let (what, fix) = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => {
            ("the text is not UTF-8".to_string(), "if it is ISO 8859-1 read it with --latin1")
        }
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            (format!("{len} values for {expected_len} columns"), FIX_LINE)
        }
        csv::ErrorKind::Io(e) => return Error::io("reading", path, e),
        _ => (error.to_string(), FIX_LINE),
    };
    let error = Error::data(what).at("file", path.display());
    line.map_or(error.clone(), |line| error.at("line", line)).fix(fix)
}

fn by_name(path: &Path) -> Result<Format> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    match name.strip_suffix(".gz").unwrap_or(&name).rsplit('.').next() {
        Some("csv") => Ok(Format::Csv),
        Some("tsv" | "tab") => Ok(Format::Tsv),
        Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
        _ => Err(Error::job("the name of the file does not say how it is written")
            .at("file", path.display())
            .fix("say it: --format csv, tsv or jsonl")),
    }
}

fn check_names(path: &Path, names: &[String]) -> Result<()> {
    let twice = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name));
    match (names.iter().position(String::is_empty), twice) {
        (None, None) => Ok(()),
        (Some(column), _) => Err(format!("column {} has no name", column + 1)),
        (_, Some((_, name))) => Err(format!("two columns are called `{name}`")),
    }
    .map_err(|what| Error::data(what).at("file", path.display()).at("line", 1).fix("name the columns: --columns a,b,…"))
}

impl Row<'_> {
    /// The value of a column; `None` where the row has no such column.
    pub fn get(&self, column: &str) -> Option<Cell<'_>> {
        match &self.values {
            Values::Csv(record) => {
                let index = self.names.iter().position(|name| name == column)?;
                record.get(index).map(Cell::of_text)
            }
            Values::Json(row) => row.get(column).map(Cell::of_json),
        }
    }

    /// Every name and value.
    pub fn cells(&self, mut take: impl FnMut(&str, Cell)) {
        match &self.values {
            Values::Csv(record) => {
                self.names.iter().zip(record.iter()).for_each(|(name, text)| take(name, Cell::of_text(text)));
            }
            Values::Json(row) => row.iter().for_each(|(name, value)| take(name, Cell::of_json(value))),
        }
    }

    /// Names this row in an error about it.
    pub fn named(&self, error: Error) -> Error {
        error.within("line", self.line).within("file", self.path.display())
    }
}

/// A separator that no text holds: ASCII's own.
const ONE_BYTE: u8 = 0x1f;

/// What [`Replaced`] changes.
enum Replace {
    /// These bytes become [`ONE_BYTE`].
    Delimiter(Vec<u8>),
    /// Bytes of ISO 8859-1 become UTF-8.
    Latin1,
}

/// Changes text on its way, line by line.
struct Replaced<R> {
    inner: R,
    replace: Replace,
    line: Vec<u8>,
    changed: Vec<u8>,
    taken: usize,
}

impl<R: BufRead> Replaced<R> {
    fn new(inner: R, replace: Replace) -> Self {
        Self { inner, replace, line: Vec::new(), changed: Vec::new(), taken: 0 }
    }
}

impl<R: BufRead> Read for Replaced<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.taken == self.changed.len() {
            (self.taken, _) = (0, (self.line.clear(), self.changed.clear()));
            self.inner.read_until(b'\n', &mut self.line)?;
            match &self.replace {
                Replace::Latin1 => {
                    let mut text = [0; 2];
                    for &byte in &self.line {
                        self.changed.extend_from_slice(char::from(byte).encode_utf8(&mut text).as_bytes());
                    }
                }
                Replace::Delimiter(delimiter) => {
                    let mut rest = self.line.as_slice();
                    while let Some((&byte, after)) = rest.split_first() {
                        let cut = rest.strip_prefix(delimiter.as_slice());
                        self.changed.push(if cut.is_some() { ONE_BYTE } else { byte });
                        rest = cut.unwrap_or(after);
                    }
                }
            }
        }
        let length = out.len().min(self.changed.len() - self.taken);
        out[..length].copy_from_slice(&self.changed[self.taken..self.taken + length]);
        self.taken += length;
        Ok(length)
    }
}
