//! What a column of ids, names or times holds in a row, as it was written.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};
use std::fmt;

use crate::data::string_id;

/// An integer or a text. Integers come before texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Integers, booleans and times, as the number they are stored as.
    Int(i64),
    /// Strings.
    Text(String),
}

impl Value {
    /// The id that the same value has in a batch ([`crate::data::decode`]).
    pub fn id(&self) -> u64 {
        match self {
            Self::Int(number) => *number as u64,
            Self::Text(text) => string_id(text),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Every element of `array`, which is not a list; `None` for a null.
///
/// # Errors
/// A type that is neither integer, boolean, time nor text.
pub fn values(array: &ArrayRef) -> Result<Vec<Option<Value>>, ArrowError> {
    let plain = match array.data_type() {
        DataType::Dictionary(_, value) => cast(array, value)?,
        _ => array.clone(),
    };
    match plain.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(&plain, &DataType::Utf8)?;
            Ok(texts.as_string::<i32>().iter().map(|text| text.map(|text| Value::Text(text.to_string()))).collect())
        }
        _ => {
            // Dates and times of 32 bits have no cast of their own to 64.
            let narrow = matches!(plain.data_type(), DataType::Date32 | DataType::Time32(_));
            let numbers = if narrow {
                cast(&cast(&plain, &DataType::Int32)?, &DataType::Int64)?
            } else {
                cast(&plain, &DataType::Int64)?
            };
            Ok(numbers.as_primitive::<Int64Type>().iter().map(|number| number.map(Value::Int)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Date32Array, DictionaryArray, StringArray, UInt8Array};
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    #[test]
    fn values_are_as_they_were_written() {
        let of = |array: ArrayRef| values(&array).unwrap();
        let int = |number| Some(Value::Int(number));
        assert_eq!(of(Arc::new(UInt8Array::from(vec![Some(3), None]))), [int(3), None]);
        assert_eq!(of(Arc::new(BooleanArray::from(vec![true, false]))), [int(1), int(0)]);
        assert_eq!(of(Arc::new(Date32Array::from(vec![19000]))), [int(19000)]);
        let names: DictionaryArray<Int32Type> = [Some("F"), None, Some("M")].into_iter().collect();
        let text = |text: &str| Some(Value::Text(text.to_string()));
        assert_eq!(of(Arc::new(names)), [text("F"), None, text("M")]);
        assert_eq!(of(Arc::new(StringArray::from(vec!["x"]))), [text("x")]);
    }

    #[test]
    fn ids_are_those_of_a_batch() {
        assert_eq!(Value::Int(-1).id(), u64::MAX);
        assert_eq!(Value::Text("a".to_string()).id(), string_id("a"));
    }
}
