//! Features and tasks resolved to columns, and what is refused.

use super::*;
use crate::data::testing::job;
use arrow::datatypes::{DataType, Field};

const JOB: &str = "
features:
  - {name: age, kind: numeric, transform: standardize}
  - {name: user, kind: categorical}
  - {name: emb, kind: vector, length: 4}
  - {name: history, kind: sequence, table: item, max_len: 20}
  - {name: price, kind: numeric, transform: quantile, buckets: 10}
  - {name: item_user, kind: cross, columns: [item, user]}
tasks:
  - {name: click, label: click, gauc: user}
  - {name: buy, label: buy, where: click, gauc: user}
";

#[test]
fn features_keep_their_order_and_share_columns() {
    let schema = Schema::new(&job(JOB), Purpose::Evaluate).unwrap();
    let ids: Vec<_> = schema.id_features.iter().map(|f| (f.name.as_str(), f.table.as_str(), f.max_len)).collect();
    let expected = [
        ("user", "user", None),
        ("history", "item", Some(20)),
        ("price", "price", Some(1)),
        ("item_user", "item_user", Some(1)),
    ];
    assert_eq!(ids, expected);
    let dense: Vec<_> = schema.dense_features.iter().map(|f| (f.name.as_str(), f.start, f.width)).collect();
    assert_eq!((dense, schema.dense_width), (vec![("age", 0, 1), ("emb", 1, 4)], 5));
    let columns: Vec<_> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["age", "user", "emb", "history", "price", "item", "click", "buy"]);
    assert_eq!(schema.group_columns, ["user"]);
    assert_eq!(schema.tasks[1].mask, schema.tasks[0].label);
    assert_eq!((schema.tasks[0].group, schema.tasks[1].group), (Some(0), Some(0)));
}

#[test]
fn predicting_reads_no_labels() {
    let schema = Schema::new(&job(JOB), Purpose::Predict).unwrap();
    assert!(schema.columns.iter().all(|column| !["click", "buy"].contains(&column.name.as_str())));
    assert_eq!((schema.tasks.len(), schema.group_columns.len()), (2, 0));
    assert!(Schema::new(&job(JOB), Purpose::Train).unwrap().group_columns.is_empty());
}

#[test]
fn wrong_options_name_their_key() {
    for (yaml, key) in [
        ("features: [{name: a, kind: vector}]\ntasks: []", "length"),
        ("features: [{name: a, kind: cross, columns: [b]}]\ntasks: []", "columns"),
        ("features: [{name: a, kind: sequence, max_len: 0}]\ntasks: []", "max_len"),
        ("features: [{name: a, kind: numeric, transform: quantile, buckets: 1}]\ntasks: []", "buckets"),
        ("features: [{name: a, kind: numeric}, {name: a, kind: categorical}]\ntasks: []", "twice"),
        ("features: []\ntasks: [{name: t, label: t, kind: multiclass}]", "classes"),
    ] {
        let message = Schema::new(&job(yaml), Purpose::Train).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn a_missing_column_names_the_nearest() {
    let schema = Schema::new(&job("features: [{name: user_id, kind: categorical}]\ntasks: []"), Purpose::Train);
    let fields = |name: &str, kind| arrow::datatypes::Schema::new(vec![Field::new(name, kind, true)]);
    let schema = schema.unwrap();
    let check = |fields, partitions: &[String]| schema.check("a.parquet", &fields, partitions);
    let message = check(fields("userid", DataType::Int64), &[]).unwrap_err().to_string();
    assert!(message.contains("`userid`") && message.contains("a.parquet"), "{message}");
    check(fields("userid", DataType::Int64), &["user_id".to_string()]).unwrap();
    check(fields("user_id", DataType::Int64), &[]).unwrap();
    let message = check(fields("user_id", DataType::Float32), &[]).unwrap_err().to_string();
    assert!(message.contains("Float32") && message.contains("integer"), "{message}");
}
