//! Which Arrow types each use of a column can read, and what to say about the others.

use arrow::datatypes::DataType;

/// What a use of a column can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// Integers, floats, booleans, times.
    Number,
    /// The same, as a label.
    Label,
    /// Integers, strings, booleans, times.
    Id,
    /// [`Accepts::Id`] or a list of them.
    IdOrList,
    /// A list of [`Accepts::Id`].
    IdList,
    /// A list of numbers.
    Vector,
}

impl Accepts {
    /// Whether a column of `kind` can be read.
    pub fn accepts(self, kind: &DataType) -> bool {
        match self {
            Self::Number | Self::Label => is_number(kind),
            Self::Id => is_id(kind),
            Self::IdOrList => is_id(kind) || list_item(kind).is_some_and(is_id),
            Self::IdList => list_item(kind).is_some_and(is_id),
            Self::Vector => list_item(kind).is_some_and(is_number),
        }
    }

    /// The accepted types, for a message.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Number | Self::Label => "an integer, float, boolean, date or time",
            Self::Id => "an integer, string, boolean, date or time",
            Self::IdOrList => "an integer, string, boolean, date or time, or a list of those",
            Self::IdList => "a list of integers, strings, booleans, dates or times",
            Self::Vector => "a list of floats or integers",
        }
    }

    /// What to do about a column of `kind`.
    pub fn remedy(self, kind: &DataType) -> &'static str {
        match self {
            Self::Id | Self::IdOrList | Self::IdList if is_float(list_item(kind).unwrap_or(kind)) => {
                "write these ids as integers or strings, or make it `kind: numeric` (with `transform: quantile` for an \
                 embedding) or `kind: vector`"
            }
            Self::IdList => "use `kind: categorical` for a column with one id a row",
            Self::Label => {
                "write the label as a number: 0 or 1 (binary), a class from 0, or a real value; null if unknown"
            }
            Self::Number if is_string(kind) => "write the column as numbers, or make it `kind: categorical`",
            Self::Number if list_item(kind).is_some() => "use `kind: vector` for a list of numbers",
            Self::Vector => "use `kind: numeric` for a column with one number a row",
            _ => "write the column with an accepted type, or leave it out of the job",
        }
    }
}

/// The element type of a list.
pub fn list_item(kind: &DataType) -> Option<&DataType> {
    match kind {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Some(item.data_type()),
        _ => None,
    }
}

/// Whether values are text, plain or dictionary-encoded.
pub fn is_string(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_string(value),
        _ => false,
    }
}

fn is_float(kind: &DataType) -> bool {
    match kind {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::Dictionary(_, value) => is_float(value),
        _ => false,
    }
}

fn is_integer(kind: &DataType) -> bool {
    use DataType as T;
    match kind {
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => true,
        T::Timestamp(..) | T::Date32 | T::Date64 | T::Time32(_) | T::Time64(_) | T::Duration(_) => true,
        T::Boolean => true,
        T::Dictionary(_, value) => is_integer(value),
        _ => false,
    }
}

fn is_number(kind: &DataType) -> bool {
    is_integer(kind) || is_float(kind)
}

fn is_id(kind: &DataType) -> bool {
    is_integer(kind) || is_string(kind)
}

/// `List(Float64)` rather than Arrow's full description of the list's field.
pub(super) fn short_type(kind: &DataType) -> String {
    match list_item(kind) {
        Some(item) => format!("List({})", short_type(item)),
        None => kind.to_string(),
    }
}
