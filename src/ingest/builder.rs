//! Cells of one column as an Arrow array.

use super::kind::{Kind, Separator};
use super::source::Cell;
use arrow::array::{ArrayBuilder, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow::datatypes::{DataType, Field};
use std::sync::Arc;

/// An array that is being built.
pub(super) enum Builder {
    Int(Int64Builder),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Text(StringBuilder),
    Ints(Separator, ListBuilder<Int64Builder>),
    Floats(Separator, ListBuilder<Float64Builder>),
    Texts(Separator, ListBuilder<StringBuilder>),
}

impl Builder {
    /// Of a column.
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Int => Self::Int(Int64Builder::new()),
            Kind::Float => Self::Float(Float64Builder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Text => Self::Text(StringBuilder::new()),
            Kind::Ints(between) => Self::Ints(between, ListBuilder::new(Int64Builder::new())),
            Kind::Floats(between) => Self::Floats(between, ListBuilder::new(Float64Builder::new())),
            Kind::Texts(between) => Self::Texts(between, ListBuilder::new(StringBuilder::new())),
        }
    }

    /// Appends a value that [`Kind::check`] let through.
    pub fn append(&mut self, cell: &Cell) {
        let some = *cell != Cell::Null;
        match self {
            Self::Int(array) => array.append_option(cell.int()),
            Self::Float(array) => array.append_option(cell.float()),
            Self::Bool(array) => array.append_option(cell.bool()),
            Self::Text(array) => array.append_option(some.then(|| cell.text())),
            Self::Ints(between, array) => {
                cell.elements(*between, |element| array.values().append_option(element.int()));
                array.append(some);
            }
            Self::Floats(between, array) => {
                cell.elements(*between, |element| array.values().append_option(element.float()));
                array.append(some);
            }
            Self::Texts(between, array) => {
                cell.elements(*between, |element| array.values().append_value(element.text()));
                array.append(some);
            }
        }
    }

    /// The array, and begins another.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Int(array) => Arc::new(array.finish()),
            Self::Float(array) => Arc::new(array.finish()),
            Self::Bool(array) => Arc::new(array.finish()),
            Self::Text(array) => Arc::new(array.finish()),
            Self::Ints(_, array) => ArrayBuilder::finish(array),
            Self::Floats(_, array) => ArrayBuilder::finish(array),
            Self::Texts(_, array) => ArrayBuilder::finish(array),
        }
    }
}

/// The type of a column's arrays.
pub(super) fn data_type(kind: Kind) -> DataType {
    let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
    match kind {
        Kind::Int => DataType::Int64,
        Kind::Float => DataType::Float64,
        Kind::Bool => DataType::Boolean,
        Kind::Text => DataType::Utf8,
        Kind::Ints(_) => list(DataType::Int64),
        Kind::Floats(_) => list(DataType::Float64),
        Kind::Texts(_) => list(DataType::Utf8),
    }
}
