//! The address of rows while they are read, for messages.

use crate::error::Error;
use arrow::error::ArrowError;

/// Where the rows being decoded come from.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// File, for messages.
    pub file: &'a str,
    /// Index into `Plan::row_groups`, for [`Origin`](super::batch::Origin).
    pub row_group: u32,
    /// Number of the row group inside its file, for messages.
    pub number: u32,
    /// Row, inside the row group, of the first row.
    pub first_row: u32,
}

impl Place<'_> {
    pub(super) fn error(&self, what: String, column: &str, row: usize) -> Error {
        Error::data(what)
            .at("file", self.file)
            .at("row group", self.number)
            .at("row", self.first_row as usize + row)
            .at("column", column)
    }

    pub(super) fn unreadable(&self, column: &str, source: &ArrowError) -> Error {
        Error::data(format!("cannot read the column: {source}"))
            .at("file", self.file)
            .at("row group", self.number)
            .at("column", column)
            .fix("was the file replaced after the run started? start again with the files as they are now")
    }
}

pub(super) fn not_finite(value: f64, column: &str, row: usize, place: &Place) -> Error {
    let what = if value.is_finite() {
        format!("{value} is out of range after its transform")
    } else {
        format!("the value is {value}")
    };
    place.error(what, column, row).fix("write null where a number is unknown; use `transform: log1p` for huge ranges")
}
