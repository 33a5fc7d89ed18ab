use super::super::plan::Plan;
use super::super::reader::Columns;
use super::super::store::Local;
use super::super::testing::{TestFile, floats, schema};
use super::*;
use crate::comm::solo::Solo;
use arrow::array::Float64Array;
use proptest::prelude::*;
use std::sync::Arc;

const JOB: &str = "
features:
  - {name: x, kind: numeric, transform: standardize}
  - {name: x_bucket, column: x, kind: numeric, transform: quantile, buckets: 4}
tasks: []
";

fn files(columns: &[ArrayRef], row_group_rows: usize) -> (tempfile::TempDir, Files) {
    let folder = tempfile::tempdir().unwrap();
    for (i, column) in columns.iter().enumerate() {
        let file = TestFile::new(&[("x", column.clone())]).row_group_rows(row_group_rows);
        file.write(&folder.path().join(format!("{i}.parquet")));
    }
    let schema = Arc::new(schema(JOB));
    let plan = Plan::read(&Solo, &Local, &[folder.path().display().to_string()], &schema).unwrap();
    let files = Files::new(Arc::new(Local), Arc::new(plan), schema, Columns::Needed);
    (folder, files)
}

#[test]
fn moments_match_a_reference() {
    let values: Vec<f64> = (0..2500).map(|i| 1e6 + 3.0 * random::unit(1, &[i])).collect();
    let (_folder, files) = files(&[floats(values[..900].to_vec()), floats(values[900..].to_vec())], 700);
    let statistics = Statistics::collect(&Solo, &files).unwrap();
    let numeric = statistics.get("x").unwrap();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let std = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    assert_eq!((numeric.count, numeric.nulls), (2500, 0));
    assert!((numeric.mean - mean).abs() < 1e-7 && (numeric.std - std).abs() < 1e-9, "{numeric:?} {mean} {std}");
    assert_eq!(numeric.min, values.iter().copied().fold(f64::MAX, f64::min));
    assert_eq!(numeric.max, values.iter().copied().fold(f64::MIN, f64::max));

    let mut sorted = values;
    sorted.sort_by(f64::total_cmp);
    let buckets = statistics.get("x_bucket").unwrap();
    assert_eq!(buckets.boundaries, [sorted[625], sorted[1250], sorted[1875]]);
    let third = sorted.iter().filter(|&&x| buckets.bucket(x) == 2).count();
    assert_eq!(third, 625);
}

#[test]
fn nulls_constants_and_empty_columns() {
    let column = |values: Vec<Option<f64>>| Arc::new(Float64Array::from(values)) as ArrayRef;
    let (_folder, constant) = files(&[column(vec![Some(7.1), None, Some(7.1), Some(7.1)])], 100);
    let numeric = Statistics::collect(&Solo, &constant).unwrap().get("x").unwrap().clone();
    assert_eq!((numeric.count, numeric.nulls, numeric.std), (3, 1, 1.0));
    assert!(numeric.apply(Transform::Standardize, 7.1).abs() < 1e-6);
    assert_eq!(numeric.apply(Transform::MinMax, 7.1), 0.0);

    let (_folder, empty) = files(&[column(vec![None, None])], 100);
    let statistics = Statistics::collect(&Solo, &empty).unwrap();
    let numeric = statistics.get("x").unwrap();
    assert_eq!((numeric.count, numeric.nulls, numeric.mean, numeric.std), (0, 2, 0.0, 1.0));
    assert_eq!(numeric.fill(Transform::Standardize), 0.0);
    assert_eq!(statistics.get("x_bucket").unwrap().null_bucket(), 1);
}

#[test]
fn the_number_of_ranks_does_not_change_a_bit() {
    let group = |g: u64| {
        let value = |f: u64| (0..1 + g % 5).map(|i| random::unit(9, &[g, f, i]) * 1e3).collect::<Vec<_>>();
        [Moments::of(&value(0)), Moments::of(&value(1))]
    };
    let merged = |ranks: usize| {
        let of_rank = |rank| (rank..23).step_by(ranks).flat_map(|g| group(g as u64)).collect::<Vec<_>>();
        let parts: Vec<_> = (0..ranks).map(of_rank).collect();
        let counts: Vec<usize> = parts.iter().map(Vec::len).collect();
        merge_in_order(&parts.concat(), &counts, 2, 23).unwrap()
    };
    for ranks in [2, 3, 4, 30] {
        assert_eq!(merged(ranks), merged(1));
    }
}

#[test]
fn heavy_values_get_one_bucket() {
    let bounds = quantiles([0.0; 70].into_iter().chain((0..30).map(f64::from)).collect(), 10);
    assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]) && bounds[0] > 0.0, "{bounds:?}");
    let numeric = Numeric { boundaries: bounds, ..Numeric::default() };
    assert_eq!((numeric.bucket(0.0), numeric.bucket(1e9) + 1), (0, numeric.null_bucket()));
}

#[test]
fn a_nan_in_the_training_rows_has_an_address() {
    let (_folder, files) =
        files(&[floats([1.0; 30]), floats((0..30).map(|i| [f64::NAN, 1.0][(i != 27) as usize]))], 10);
    let message = Statistics::collect(&Solo, &files).unwrap_err().to_string();
    for part in ["1.parquet", "row group 2", "row 7", "column x", "fix:"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_sample_is_about_as_large_as_asked() {
    let rows = SAMPLE_ROWS * 10;
    let picked = (0..20_000).filter(|&row| in_sample(rows, 3, row)).count();
    assert!((1800..2200).contains(&picked), "{picked}");
    assert!((0..100).all(|row| in_sample(SAMPLE_ROWS, 0, row)));
}

#[test]
fn statistics_survive_json_bit_for_bit() {
    let mut statistics = Statistics::default();
    for i in 0..200 {
        let x = random::unit(5, &[i]) * 1e-7;
        let boundaries = vec![x / 3.0, x * 7.0];
        statistics.insert(&format!("f{i}"), Numeric { mean: x, std: x.sqrt(), boundaries, ..Numeric::default() });
    }
    let text = serde_json::to_string(&statistics).unwrap();
    assert_eq!(serde_json::from_str::<Statistics>(&text).unwrap(), statistics);
}

proptest! {
    #[test]
    fn merging_in_parts_equals_the_whole(values in prop::collection::vec(-1e3f64..1e3, 1..200), cut in 0usize..200) {
        let cut = cut.min(values.len());
        let mut merged = Moments::of(&values[..cut]);
        merged.merge(&Moments::of(&values[cut..]));
        let whole = Moments::of(&values);
        prop_assert_eq!((merged.count, merged.min, merged.max), (whole.count, whole.min, whole.max));
        prop_assert!((merged.mean - whole.mean).abs() < 1e-9);
        prop_assert!((merged.squares - whole.squares).abs() <= 1e-9 * (1.0 + whole.squares));
    }
}
