use super::super::schema::{Purpose, Schema};
use super::super::testing::{floats, ints, job, schema};
use super::*;
use crate::data::batch::Target;
use crate::data::columns::string_id;
use arrow::array::*;
use arrow::compute::cast;
use arrow::datatypes::*;
use half::f16;

const PLACE: Place = Place { file: "f.parquet", row_group: 9, number: 3, first_row: 100 };

fn statistics_for(schema: &Schema) -> Statistics {
    let numeric = Numeric {
        count: 4,
        mean: 2.0,
        std: 4.0,
        min: -2.0,
        max: 6.0,
        boundaries: vec![0.0, 1.0, 5.0],
        ..Numeric::default()
    };
    let mut statistics = Statistics::default();
    schema.numeric_features().iter().for_each(|feature| statistics.insert(feature.name, numeric.clone()));
    statistics
}

fn decode(yaml: &str, columns: &[(&str, ArrayRef)]) -> Result<Batch> {
    let schema = Arc::new(schema(yaml));
    let rows = RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, a)| (*n, a.clone(), true))).unwrap();
    Decoder::new(schema.clone(), &statistics_for(&schema))?.record_batch(&rows, &PLACE)
}

fn feature(options: &str, column: ArrayRef) -> Result<Batch> {
    decode(&format!("features: [{{name: x, {options}}}]\ntasks: []"), &[("x", column)])
}

fn ids(options: &str, column: ArrayRef) -> Vec<Vec<u64>> {
    let batch = feature(options, column).unwrap();
    (0..batch.rows).map(|row| batch.ids[0].row(row).to_vec()).collect()
}

fn dense(options: &str, column: ArrayRef) -> Vec<f32> {
    feature(options, column).unwrap().dense
}

fn message(result: Result<Batch>) -> String {
    let message = result.unwrap_err().to_string();
    for part in ["f.parquet", "row group 3", "column", "fix:"] {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
    message
}

/// Every scalar type with values 1, 0 (null), 3, written as integers.
fn integer_arrays() -> Vec<ArrayRef> {
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
    let units = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    let mut kinds = vec![
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Date64,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Duration(TimeUnit::Second),
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Int64)),
    ];
    kinds.extend(units.map(|unit| DataType::Timestamp(unit, None)));
    let mut arrays: Vec<ArrayRef> = kinds.iter().map(|kind| cast(&wide, kind).unwrap()).collect();
    let narrow = cast(&wide, &DataType::Int32).unwrap();
    arrays.extend([DataType::Date32, DataType::Time32(TimeUnit::Second)].iter().map(|k| cast(&narrow, k).unwrap()));
    arrays
}

#[test]
fn every_integer_type_gives_ids_and_numbers() {
    for array in integer_arrays() {
        let kind = array.data_type().clone();
        assert_eq!(ids("kind: categorical", array.clone()), [vec![1], vec![], vec![3]], "{kind}");
        // (x − 2) / 4; the null is the mean.
        assert_eq!(dense("kind: numeric, transform: standardize", array), [-0.25, 0.0, 0.25], "{kind}");
    }
    let negative: ArrayRef = Arc::new(Int8Array::from(vec![-1]));
    assert_eq!(ids("kind: categorical", negative), [[-1i64 as u64]]);
    let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
    assert_eq!(ids("kind: categorical", large), [[u64::MAX]]);
}

#[test]
fn floats_and_booleans_give_numbers() {
    let halves: ArrayRef = Arc::new(Float16Array::from(vec![f16::from_f32(1.5), f16::from_f32(-2.0)]));
    let singles: ArrayRef = Arc::new(Float32Array::from(vec![1.5, -2.0]));
    for array in [halves, singles, floats([1.5, -2.0])] {
        assert_eq!(dense("kind: numeric, transform: none", array), [1.5, -2.0]);
    }
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]));
    assert_eq!(dense("kind: numeric, transform: none", flags.clone()), [1.0, 0.0, 2.0]);
    assert_eq!(ids("kind: categorical", flags), [vec![1], vec![0], vec![]]);
}

#[test]
fn strings_hash_alike_in_every_encoding() {
    let plain: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("ü"), Some(""), Some("a")]));
    let expected = [vec![string_id("a")], vec![], vec![string_id("ü")], vec![string_id("")], vec![string_id("a")]];
    let dictionary = |key| DataType::Dictionary(Box::new(key), Box::new(DataType::Utf8));
    let kinds = [
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        dictionary(DataType::Int8),
        dictionary(DataType::Int32),
        dictionary(DataType::UInt64),
        DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::LargeUtf8)),
    ];
    for kind in kinds {
        assert_eq!(ids("kind: categorical", cast(&plain, &kind).unwrap()), expected, "{kind}");
    }
    assert_eq!(string_id("a"), 0xe6c6_32b6_1e96_4e1f, "the hash is part of the checkpoint format");
}

#[test]
fn a_dictionary_without_values_is_all_null() {
    let values = || StringArray::from(Vec::<&str>::new());
    let narrow: DictionaryArray<Int8Type> = DictionaryArray::new(Int8Array::from(vec![None; 2]), Arc::new(values()));
    let plain: DictionaryArray<Int32Type> = DictionaryArray::new(Int32Array::from(vec![None; 2]), Arc::new(values()));
    for array in [Arc::new(narrow) as ArrayRef, Arc::new(plain)] {
        assert_eq!(ids("kind: categorical", array), [Vec::<u64>::new(), vec![]]);
    }
}

#[test]
fn a_null_inside_a_dictionary_is_a_null() {
    let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let keys = Int32Array::from(vec![Some(1), Some(0), None]);
    let array: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
    assert_eq!(ids("kind: categorical", array), [vec![], vec![string_id("a")], vec![]]);
}

/// `[[1, null, 2, 3], null, [], [4]]` as each list type (the last one without a fixed size).
fn list_arrays() -> Vec<ArrayRef> {
    let rows = || [Some(vec![Some(1), None, Some(2), Some(3)]), None, Some(vec![]), Some(vec![Some(4)])];
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows()));
    let large: ArrayRef = Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(rows()));
    // A slice of a longer list must not see the elements before it.
    let longer = [Some(vec![Some(9), Some(9)])].into_iter().chain(rows()).chain([Some(vec![Some(9)])]);
    let longer = ListArray::from_iter_primitive::<Int64Type, _, _>(longer);
    vec![list, large, Arc::new(longer.slice(1, 4))]
}

#[test]
fn lists_keep_the_first_or_the_last() {
    for array in list_arrays() {
        assert_eq!(ids("kind: categorical", array.clone()), [vec![1, 2, 3], vec![], vec![], vec![4]]);
        assert_eq!(ids("kind: categorical, max_len: 2", array.clone()), [vec![1, 2], vec![], vec![], vec![4]]);
        assert_eq!(ids("kind: sequence, max_len: 2", array.clone()), [vec![2, 3], vec![], vec![], vec![4]]);
        assert_eq!(ids("kind: sequence", array), [vec![1, 2, 3], vec![], vec![], vec![4]]);
    }
    let long = ListArray::from_iter_primitive::<Int64Type, _, _>([Some((0..60).map(Some))]);
    assert_eq!(ids("kind: sequence", Arc::new(long)), [(10..60).collect::<Vec<u64>>()]);
}

#[test]
fn lists_of_strings_are_hashed() {
    let mut builder = ListBuilder::new(StringBuilder::new());
    builder.append_value([Some("a"), Some("b"), Some("a")]);
    builder.append_null();
    let (a, b) = (string_id("a"), string_id("b"));
    assert_eq!(ids("kind: sequence, max_len: 2", Arc::new(builder.finish())), [vec![b, a], vec![]]);
}

#[test]
fn crosses_hash_all_columns_and_nulls_count() {
    let yaml = "features: [{name: c, kind: cross, columns: [a, b]}]\ntasks: []";
    let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(1), None, Some(0)]));
    let b: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("x"), Some("x")]));
    let batch = decode(yaml, &[("a", a), ("b", b)]).unwrap();
    let x = string_id("x");
    let expected = [cross_id(&[1, x]), cross_id(&[1, NULL_ID]), cross_id(&[NULL_ID, x]), cross_id(&[0, x])];
    assert_eq!((batch.ids[0].ids(), batch.ids[0].rows()), (&expected[..], 4));
    assert!((0..4).all(|i| (0..i).all(|j| expected[i] != expected[j])));
}

#[test]
fn transforms_follow_the_statistics() {
    let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), Some(-8.0), None, Some(6.0)]));
    let numeric = |transform: &str| dense(&format!("kind: numeric, transform: {transform}"), column.clone());
    assert_eq!(numeric("none"), [0.0, -8.0, 2.0, 6.0]);
    assert_eq!(numeric("standardize"), [-0.5, -2.5, 0.0, 1.0]);
    assert_eq!(numeric("min_max"), [0.25, 0.0, 0.5, 1.0]);
    let log = |x: f64| (x.signum() * x.abs().ln_1p()) as f32;
    assert_eq!(numeric("log1p"), [0.0, log(-8.0), log(2.0), log(6.0)]);
    // Boundaries 0, 1, 5: four buckets, and a fifth for nulls.
    assert_eq!(ids("kind: numeric, transform: quantile", column), [[1], [0], [4], [3]]);
}

#[test]
fn values_that_are_not_finite_have_an_address() {
    for bad in [f64::NAN, f64::INFINITY] {
        for transform in ["none", "min_max", "quantile"] {
            let result = feature(&format!("kind: numeric, transform: {transform}"), floats([1.0, bad]));
            let message = message(result);
            assert!(message.contains("row 101") && message.contains("column x"), "{message}");
        }
    }
    let message = message(feature("kind: numeric, transform: none", floats([1e300])));
    assert!(message.contains("out of range"), "{message}");
    // Under a null there may be anything.
    let nulls = Some(vec![true, false].into());
    let hidden: ArrayRef = Arc::new(Float64Array::new(vec![1.0, f64::NAN].into(), nulls));
    assert_eq!(dense("kind: numeric, transform: none", hidden), [1.0, 2.0]);
}

#[test]
fn vectors_have_their_length() {
    let rows = [Some(vec![Some(1.0), Some(2.0)]), None, Some(vec![Some(3.0), Some(4.0)])];
    let list = ListArray::from_iter_primitive::<Float32Type, _, _>(rows.clone());
    let fixed = FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(
        rows.iter().map(|row| row.as_ref().map(|row| row.iter().map(|x| x.map(f64::from)).collect::<Vec<_>>())),
        2,
    );
    for array in [Arc::new(list) as ArrayRef, Arc::new(fixed.clone()), Arc::new(fixed.slice(0, 3))] {
        assert_eq!(dense("kind: vector, length: 2", array), [1.0, 2.0, 0.0, 0.0, 3.0, 4.0]);
    }
    assert_eq!(dense("kind: vector, length: 2", Arc::new(fixed.slice(2, 1))), [3.0, 4.0]);
    let short = ListArray::from_iter_primitive::<Float32Type, _, _>([Some([Some(1.0)])]);
    let message_of = |array: ListArray| message(feature("kind: vector, length: 2", Arc::new(array)));
    assert!(message_of(short).contains("a vector of 1 numbers where `length` is 2"));
    let null = ListArray::from_iter_primitive::<Float32Type, _, _>([Some([Some(1.0), None])]);
    assert!(message_of(null).contains("null inside"));
    let nan = ListArray::from_iter_primitive::<Float32Type, _, _>([Some([Some(1.0), Some(f32::NAN)])]);
    assert!(message_of(nan).contains("NaN"));
}

#[test]
fn dense_features_lie_side_by_side() {
    let yaml = "features: [{name: a, kind: numeric, transform: none}, {name: v, kind: vector, length: 2}, \
                {name: b, kind: numeric, transform: none}]\ntasks: []";
    let v = ListArray::from_iter_primitive::<Float64Type, _, _>([[5.0, 6.0], [7.0, 8.0]].map(|r| Some(r.map(Some))));
    let columns = [("a", floats([1.0, 2.0])), ("v", Arc::new(v) as ArrayRef), ("b", floats([3.0, 4.0]))];
    assert_eq!(decode(yaml, &columns).unwrap().dense, [1.0, 5.0, 6.0, 3.0, 2.0, 7.0, 8.0, 4.0]);
}

#[test]
fn targets_carry_masks_nulls_and_weights() {
    let yaml = "
features: []
data: {train: unused, weight: w}
tasks:
  - {name: click, label: click}
  - {name: buy, label: buy, where: click}
  - {name: time, label: time, kind: regression}
  - {name: stars, label: stars, kind: multiclass, classes: 5}
";
    let click: ArrayRef = Arc::new(Int8Array::from(vec![Some(1), Some(0), None]));
    // The second label would be wrong, but `click` is 0 there.
    let buy: ArrayRef = Arc::new(Float32Array::from(vec![0.0, f32::NAN, 1.0]));
    let columns = [
        ("w", floats([0.5, 2.0, 0.0])),
        ("click", click),
        ("buy", buy),
        ("time", floats([-1.5, 2.5, 3.5])),
        ("stars", ints([4, 0, 1])),
    ];
    let batch = decode(yaml, &columns).unwrap();
    let target =
        |label: [f32; 3], weight: [f32; 3]| super::super::batch::Target { label: label.into(), weight: weight.into() };
    assert_eq!(batch.targets[0], target([1.0, 0.0, 0.0], [0.5, 2.0, 0.0]));
    assert_eq!(batch.targets[1], target([0.0, 0.0, 0.0], [0.5, 0.0, 0.0]));
    assert_eq!(batch.targets[2], target([-1.5, 2.5, 3.5], [0.5, 2.0, 0.0]));
    assert_eq!(batch.targets[3], target([4.0, 0.0, 1.0], [0.5, 2.0, 0.0]));
    assert_eq!(batch.origin[2], Origin { row_group: 9, row: 102 });
    assert_eq!((batch.slots, batch.present), (vec![0, 1, 2], vec![true; 3]));
}

#[test]
fn wrong_labels_and_weights_have_an_address() {
    let wrong = |options: &str, column: ArrayRef| {
        let yaml = format!("features: []\ntasks: [{{name: t, label: y{options}}}]");
        message(decode(&yaml, &[("y", column)]))
    };
    let text = wrong("", ints([1, 0, 2]));
    assert!(text.contains("neither 0 nor 1") && text.contains("row 102") && text.contains("value 2"), "{text}");
    assert!(wrong("", floats([0.0, f64::NAN])).contains("row 101"));
    assert!(wrong(", kind: regression", floats([f64::INFINITY])).contains("not a finite"));
    assert!(wrong(", kind: multiclass, classes: 3", ints([2, 3])).contains("no class in 0..3"));
    assert!(wrong(", kind: multiclass, classes: 3", floats([0.5])).contains("no class"));
    for weights in [floats([-1.0]), floats([f64::NAN]), Arc::new(Float64Array::from(vec![None]))] {
        let yaml = "features: []\ndata: {train: u, weight: w}\ntasks: [{name: t, label: y}]";
        assert!(message(decode(yaml, &[("w", weights), ("y", ints([1]))])).contains("row weight"));
    }
}

#[test]
fn a_label_can_be_made_of_listed_values() {
    let labels = |positive: &str, column: ArrayRef| {
        let yaml = format!("features: []\ntasks: [{{name: t, label: y, positive: {positive}}}]");
        let Target { label, weight } = decode(&yaml, &[("y", column)]).unwrap().targets.remove(0);
        label.into_iter().zip(weight).map(|(y, w)| (w > 0.0).then_some(y)).collect::<Vec<_>>()
    };
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("BA"), None, Some("none"), Some("PhD")]));
    let expected = [Some(1.0), None, Some(0.0), Some(1.0)];
    assert_eq!(labels("[PhD, BA]", texts.clone()), expected);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    assert_eq!(labels("[PhD, BA]", cast(&texts, &dictionary).unwrap()), expected);
    assert_eq!(labels("[3, -1]", ints([3, 1, -1, 0])), [1.0, 0.0, 1.0, 0.0].map(Some));
}

#[test]
fn groups_are_ids_and_predicting_needs_no_labels() {
    let yaml = "features: [{name: x, kind: categorical}]\ntasks: [{name: t, label: y, gauc: g}]";
    let g: ArrayRef = Arc::new(StringArray::from(vec![Some("u"), None]));
    let batch = decode(yaml, &[("x", ints([1, 2])), ("y", ints([1, 0])), ("g", g)]).unwrap();
    assert_eq!(batch.groups, [[string_id("u"), NULL_ID]]);

    let schema = Arc::new(Schema::new(&job(yaml), Purpose::Predict).unwrap());
    let rows = RecordBatch::try_from_iter([("x", ints([1, 2]))]).unwrap();
    let batch = Decoder::new(schema, &Statistics::default()).unwrap().record_batch(&rows, &PLACE).unwrap();
    assert_eq!((batch.rows, batch.targets[0].weight.as_slice()), (2, &[0.0, 0.0][..]));
}

#[test]
fn dictionary_hashes_follow_the_dictionary() {
    let schema = Arc::new(schema("features: [{name: x, kind: categorical}]\ntasks: []"));
    let mut decoder = Decoder::new(schema, &Statistics::default()).unwrap();
    for words in [["a", "b"], ["c", "a"], ["b", "c"]] {
        let array: DictionaryArray<Int32Type> = words.into_iter().collect();
        let batch = decoder.whole_batch(&[Arc::new(array)], 2, &PLACE).unwrap();
        assert_eq!(batch.ids[0].ids(), words.map(string_id));
    }
}

#[test]
fn a_numeric_feature_without_statistics_is_an_error() {
    let schema = Arc::new(schema("features: [{name: x, kind: numeric}]\ntasks: []"));
    let error = Decoder::new(schema, &Statistics::default()).err().unwrap().to_string();
    assert!(error.contains("no statistics") && error.contains("`x`"), "{error}");
}
