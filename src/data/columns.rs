//! Arrow arrays of any accepted type as plain ids or numbers.

use super::accepts::{is_string, list_item};
use arrow::array::{Array, ArrayRef, AsArray, StringArrayType};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{ArrowNativeType, DataType, Int32Type};
use arrow::error::ArrowError;
use half::f16;
use xxhash_rust::xxh3::xxh3_64;

/// The id of a string: XXH3, 64 bits, of its UTF-8 bytes.
pub fn string_id(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// The hashes of one dictionary, kept while readers hand out arrays that share it: a string is hashed
/// once per row group, not once per row.
#[derive(Debug, Default)]
pub struct DictionaryHashes {
    /// Held so that its address cannot be reused by another dictionary.
    values: Option<ArrayRef>,
    hashes: Vec<u64>,
}

impl DictionaryHashes {
    fn of(&mut self, values: &ArrayRef) -> Result<&[u64], ArrowError> {
        let known = self.values.as_ref().is_some_and(|known| known.to_data().ptr_eq(&values.to_data()));
        if !known {
            self.hashes.clear();
            string_ids(values, &mut self.hashes)?;
            self.values = Some(values.clone());
        }
        Ok(&self.hashes)
    }
}

/// Appends the id of every element of `array` to `out` (of a null: anything). Integers, booleans and times
/// are taken as they are, strings are hashed.
pub fn ids(array: &ArrayRef, hashes: &mut DictionaryHashes, out: &mut Vec<u64>) -> Result<(), ArrowError> {
    use DataType as T;
    match array.data_type() {
        kind @ T::Dictionary(_, value) if is_string(kind) && is_string(value) => {
            let dictionary = array.as_any_dictionary();
            let hashes = hashes.of(dictionary.values())?;
            let wide;
            let keys = match dictionary.keys().data_type() {
                T::Int32 => dictionary.keys(),
                _ => {
                    wide = cast(dictionary.keys(), &T::Int32)?;
                    wide.as_ref()
                }
            };
            // The key of a null can be out of range.
            let id = |&key: &i32| hashes.get(key as usize).copied().unwrap_or(0);
            out.extend(keys.as_primitive::<Int32Type>().values().iter().map(id));
        }
        kind if is_string(kind) => string_ids(array, out)?,
        T::Dictionary(_, value) => ids(&cast(array, value)?, hashes, out)?,
        T::Boolean => out.extend(array.as_boolean().values().iter().map(u64::from)),
        T::Int8 => extend(array, out, |v: i8| v as u64),
        T::Int16 => extend(array, out, |v: i16| v as u64),
        T::Int32 | T::Date32 | T::Time32(_) => extend(array, out, |v: i32| v as u64),
        T::Int64 | T::Timestamp(..) | T::Date64 | T::Time64(_) | T::Duration(_) => {
            extend(array, out, |v: i64| v as u64)
        }
        T::UInt8 => extend(array, out, |v: u8| v.into()),
        T::UInt16 => extend(array, out, |v: u16| v.into()),
        T::UInt32 => extend(array, out, |v: u32| v.into()),
        T::UInt64 => extend(array, out, |v: u64| v),
        other => return Err(unexpected(other)),
    }
    Ok(())
}

/// Appends every element of `array` to `out` as a number (of a null: anything).
pub fn numbers(array: &ArrayRef, out: &mut Vec<f64>) -> Result<(), ArrowError> {
    use DataType as T;
    match array.data_type() {
        T::Dictionary(_, value) => numbers(&cast(array, value)?, out)?,
        T::Boolean => out.extend(array.as_boolean().values().iter().map(|v| f64::from(u8::from(v)))),
        T::Int8 => extend(array, out, |v: i8| v.into()),
        T::Int16 => extend(array, out, |v: i16| v.into()),
        T::Int32 | T::Date32 | T::Time32(_) => extend(array, out, |v: i32| v.into()),
        T::Int64 | T::Timestamp(..) | T::Date64 | T::Time64(_) | T::Duration(_) => {
            extend(array, out, |v: i64| v as f64)
        }
        T::UInt8 => extend(array, out, |v: u8| v.into()),
        T::UInt16 => extend(array, out, |v: u16| v.into()),
        T::UInt32 => extend(array, out, |v: u32| v.into()),
        T::UInt64 => extend(array, out, |v: u64| v as f64),
        T::Float16 => extend(array, out, |v: f16| v.to_f64()),
        T::Float32 => extend(array, out, |v: f32| v.into()),
        T::Float64 => extend(array, out, |v: f64| v),
        other => return Err(unexpected(other)),
    }
    Ok(())
}

/// A list column as offsets into its elements.
pub struct Lists {
    /// Elements of row `i` are `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<usize>,
    /// The elements of these rows and no others.
    pub values: ArrayRef,
}

/// Takes a list column apart; `None` if it is not one.
pub fn lists(array: &ArrayRef) -> Option<Lists> {
    let (offsets, values): (Vec<usize>, ArrayRef) = match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            (list.value_offsets().iter().map(|&o| o as usize).collect(), list.values().clone())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (list.value_offsets().iter().map(|&o| o as usize).collect(), list.values().clone())
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let width = list.value_length() as usize;
            ((0..=list.len()).map(|i| i * width).collect(), list.values().clone())
        }
        _ => return None,
    };
    let (first, last) = (*offsets.first()?, *offsets.last()?);
    let values = values.slice(first, last - first);
    Some(Lists { offsets: offsets.into_iter().map(|offset| offset - first).collect(), values })
}

/// Which elements are null, dictionary values included; `None` if none is.
pub fn nulls(array: &ArrayRef) -> Option<NullBuffer> {
    array.logical_nulls().filter(|nulls| nulls.null_count() > 0)
}

/// The type to ask a Parquet reader for: strings as dictionaries (so that each is hashed once), other
/// dictionaries as their plain values.
pub fn read_type(kind: &DataType) -> DataType {
    match kind {
        kind if is_string(kind) => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            let inner = read_type(list_item(kind).unwrap_or(kind));
            let item = std::sync::Arc::new(item.as_ref().clone().with_data_type(inner));
            match kind {
                DataType::LargeList(_) => DataType::LargeList(item),
                DataType::FixedSizeList(_, length) => DataType::FixedSizeList(item, *length),
                _ => DataType::List(item),
            }
        }
        other => other.clone(),
    }
}

fn string_ids(array: &ArrayRef, out: &mut Vec<u64>) -> Result<(), ArrowError> {
    match array.data_type() {
        DataType::Utf8 => hash_all(array.as_string::<i32>(), out),
        DataType::LargeUtf8 => hash_all(array.as_string::<i64>(), out),
        DataType::Utf8View => hash_all(array.as_string_view(), out),
        other => return Err(unexpected(other)),
    }
    Ok(())
}

fn hash_all<'a>(strings: impl StringArrayType<'a>, out: &mut Vec<u64>) {
    out.extend(strings.iter().map(|text| text.map_or(0, string_id)));
}

fn extend<T: ArrowNativeType, U>(array: &ArrayRef, out: &mut Vec<U>, convert: impl Fn(T) -> U) {
    let data = array.to_data();
    out.extend(data.buffer::<T>(0)[..array.len()].iter().map(|&value| convert(value)));
}

/// Types are checked when the footers are read; a file that was replaced since can still end here.
fn unexpected(kind: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("values of type {kind} cannot be used here"))
}
