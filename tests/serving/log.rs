//! A log with a column for every kind of feature, and jobs that read it.

use arrow::array::*;
use arrow::datatypes::{Float32Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use tandem::random;

/// Every kind of feature, transform, pooling and task.
pub const FEATURES: &str = "
features:
  - {name: price, kind: numeric}
  - {name: age, kind: numeric, transform: standardize}
  - {name: spent, kind: numeric, transform: log1p}
  - {name: score, kind: numeric, column: price, transform: min_max}
  - {name: income, kind: numeric, column: spent, transform: quantile, buckets: 8, dim: 4}
  - {name: user, kind: categorical, dim: 8}
  - {name: item, kind: categorical, dim: 8}
  - {name: city, kind: categorical, dim: 4}
  - {name: tags, kind: categorical, dim: 4, pooling: sum, max_len: 3}
  - {name: recent, kind: sequence, column: history, table: item, max_len: 2, pooling: mean}
  - {name: history, kind: sequence, table: item, max_len: 5, pooling: attention, target: item}
  - {name: user_city, kind: cross, columns: [user, city], dim: 4}
  - {name: image, kind: vector, length: 3}
";

/// A task of every kind that is not a relation.
pub const TASKS: &str = "
tasks:
  - {name: click, label: click}
  - {name: buy, label: buy, where: click}
  - {name: stars, label: stars, kind: regression}
  - {name: color, label: color, kind: multiclass, classes: 3}
";

/// A job on the log in `folder` with these features, tasks and model.
pub fn job(folder: &Path, features: &str, tasks: &str, model: &str) -> String {
    let folder = folder.display();
    let scenario = if model.contains("kind: mf") { "" } else { ", scenario: scene" };
    // The vectors that `write_knowledge` wrote are not trained.
    let (knowledge, freeze) = match features.contains("table: knowledge") {
        true => {
            let table = format!("knowledge: {{init: {{kind: file, path: {folder}/users.parquet}}}}, ");
            (table, "freeze: {tables: [knowledge]}\n")
        }
        false => (String::new(), ""),
    };
    format!(
        "name: shop\ndata: {{train: {folder}/train, test: {folder}/test{scenario}}}\n{features}{tasks}\
         model: {model}\n\
         tables: {{{knowledge}user: {{admission: {{min_count: 2}}}}}}\n{freeze}\
         optimizer: {{sparse: {{kind: adagrad, lr: 0.1}}}}\n\
         train: {{global_batch: 100, epochs: 2, eval: {{every: never, best: {{metric: loss}}}}}}\n\
         checkpoint: {{buckets: 8}}\nthreads: 1\n"
    )
}

/// Writes `train/`, of two files, and `test/`, which has ids that training never saw.
pub fn write(folder: &Path) {
    rows(&folder.join("train/0.parquet"), 0..300, 40);
    rows(&folder.join("train/1.parquet"), 300..600, 40);
    rows(&folder.join("test/0.parquet"), 600..900, 60);
}

/// Writes `users.parquet` and `scenarios.parquet`: vectors of most users, and of the scenes, as `tandem knowledge` does.
pub fn write_knowledge(folder: &Path) {
    let vectors = |rows: u64, dim: u64, seed: u64| -> ArrayRef {
        let vector = |row| Some((0..dim).map(move |i| Some(random::unit(seed, &[row, i]) as f32 - 0.4)));
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>((0..rows).map(vector)))
    };
    let keys = |keys: std::ops::Range<i64>| -> ArrayRef { Arc::new(Int64Array::from_iter_values(keys)) };
    let users = [("key", keys(-3..37)), ("vector", vectors(40, 5, 1))];
    let scenes = [("key", keys(0..3)), ("vector", vectors(3, 4, 2)), ("user_mean", vectors(3, 5, 3))];
    for (name, columns) in [("users.parquet", users.to_vec()), ("scenarios.parquet", scenes.to_vec())] {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(folder.join(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

fn rows(path: &Path, rows: std::ops::Range<u64>, items: u64) {
    let draw = |row: u64, what: u64| random::unit(5, &[row, what]);
    let pick = |row: u64, what: u64, of: u64| (draw(row, what) * of as f64) as u64;
    let known = |row: u64, what: u64| pick(row, what, 9) > 0;
    let float = |what: u64, scale: f64| -> ArrayRef {
        let value = |row: u64| known(row, what + 100).then(|| scale * (draw(row, what) - 0.4));
        Arc::new(rows.clone().map(value).collect::<Float64Array>())
    };
    let ids = |what: u64, of: u64| -> ArrayRef {
        Arc::new(
            rows.clone()
                .map(|row| known(row, what + 100).then(|| pick(row, what, of) as i64 - 3))
                .collect::<Int64Array>(),
        )
    };
    let city =
        rows.clone().map(|row| known(row, 3).then(|| ["Rome", "Oslo", "São Paulo", ""][pick(row, 4, 4) as usize]));
    let tags = rows.clone().map(|row| {
        let tags = (0..pick(row, 5, 6)).map(move |i| (i != 1).then(|| pick(row, 6 + i, 20) as i64));
        known(row, 12).then(|| tags.collect::<Vec<_>>())
    });
    let history = rows.clone().map(|row| {
        let items = (0..pick(row, 13, 9)).map(move |i| Some(pick(row, 20 + i, items) as i64 - 3));
        known(row, 14).then(|| items.collect::<Vec<_>>())
    });
    let image = rows.clone().map(|row| known(row, 15).then(|| (0..3).map(move |i| Some(draw(row, 40 + i) as f32))));
    let click: Vec<bool> = rows.clone().map(|row| draw(row, 16) < 0.3 + 0.4 * draw(row, 50)).collect();
    let flags = |what: u64| rows.clone().map(|row| (draw(row, what) < 0.4) as i8).collect::<Int8Array>();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("price", float(50, 10.0)),
        ("age", float(51, 80.0)),
        ("spent", float(52, 1e4)),
        ("user", ids(53, 50)),
        ("item", ids(54, items)),
        ("city", Arc::new(city.collect::<StringArray>())),
        ("tags", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(tags))),
        ("history", Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(history))),
        ("image", Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(image, 3))),
        (
            "scene",
            Arc::new(rows.clone().map(|row| known(row, 17).then(|| pick(row, 18, 3) as i32)).collect::<Int32Array>()),
        ),
        ("click", Arc::new(BooleanArray::from(click))),
        ("buy", Arc::new(flags(60))),
        ("stars", Arc::new(rows.clone().map(|row| 5.0 * draw(row, 61)).collect::<Float64Array>())),
        ("color", Arc::new(rows.clone().map(|row| pick(row, 62, 3) as u8).collect::<UInt8Array>())),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(70)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
