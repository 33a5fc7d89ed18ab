//! Small Parquet logs with every type of column that a job can read. Each value is a pure function of the row.

use arrow::array::{
    ArrayRef, Float32Builder, Float64Array, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray,
    StringBuilder,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tandem::random::{text, unit};

/// Columns by name.
pub type Columns = Vec<(&'static str, ArrayRef)>;

/// Writes `columns` to `path`, in row groups of `row_group_rows`.
pub fn write(path: &Path, columns: Columns, row_group_rows: usize) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(row_group_rows)).build();
    let file = File::create(path).expect("a new file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows written");
    writer.close().expect("a footer");
}

/// A column of integers.
pub fn ints(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

/// A column of floats.
pub fn floats(values: impl IntoIterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Float64Array>())
}

/// The draw of `row` for one purpose, in [0, 1).
pub fn draw(row: u64, what: &str) -> f64 {
    unit(5, &[row, text(what)])
}

/// An integer below `n`.
fn below(row: u64, what: &str, n: u64) -> i64 {
    (draw(row, what) * n as f64) as i64
}

/// The user of a row: few users have many rows.
fn user(row: u64) -> i64 {
    (draw(row, "user").powi(2) * 40.0) as i64
}

fn age(row: u64) -> Option<f64> {
    (draw(row, "no age") > 0.1).then(|| 20.0 + 40.0 * draw(row, "age"))
}

/// 1 more often for even users and high ages.
pub fn click(row: u64) -> i64 {
    let chance = 0.2 + 0.3 * (1 - user(row) % 2) as f64 + 0.01 * (age(row).unwrap_or(40.0) - 20.0);
    i64::from(draw(row, "click") < chance)
}

/// The rows `rows` of the log that [`super::job::EVERY_FEATURE`] reads.
pub fn columns(rows: Range<u64>) -> Columns {
    let int = |of: &dyn Fn(u64) -> i64| ints(rows.clone().map(|row| Some(of(row))));
    let float = |of: &dyn Fn(u64) -> Option<f64>| floats(rows.clone().map(of));
    // `buy` means something where `click` is 1; elsewhere it holds what no label may be.
    let buy = |row| if click(row) == 1 { i64::from(draw(row, "buy") < 0.4) } else { 9 };
    let stars = |row| (draw(row, "no stars") > 0.4).then(|| 5.0 * draw(row, "stars") - click(row) as f64);
    vec![
        ("user", int(&user)),
        ("tags", tags(rows.clone())),
        ("item", Arc::new(rows.clone().map(|row| Some(item(row, "item"))).collect::<StringArray>())),
        ("history", history(rows.clone())),
        ("hour", int(&|row| below(row, "hour", 6))),
        ("age", float(&age)),
        ("price", float(&|row| (draw(row, "no price") > 0.2).then(|| -(1.0 - draw(row, "price")).ln()))),
        ("image", image(rows.clone())),
        ("importance", float(&|row| Some(0.5 + draw(row, "importance")))),
        ("click", int(&click)),
        ("buy", int(&buy)),
        ("stars", float(&stars)),
        ("genre", int(&|row| (below(row, "genre", 2) + user(row)) % 3)),
    ]
}

fn item(row: u64, what: &str) -> String {
    format!("item-{}", below(row, what, 15))
}

/// No list, an empty one, or up to three integers.
fn tags(rows: Range<u64>) -> ArrayRef {
    let mut lists = ListBuilder::new(Int64Builder::new());
    for row in rows {
        let n = below(row, "tags", 5);
        (0..n.min(3)).for_each(|i| lists.values().append_value(below(row, &format!("tag {i}"), 12)));
        lists.append(n != 4 || draw(row, "no tags") < 0.5);
    }
    Arc::new(lists.finish())
}

/// Up to six items.
fn history(rows: Range<u64>) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in rows {
        (0..below(row, "history", 7)).for_each(|i| lists.values().append_value(item(row, &format!("seen {i}"))));
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// Three floats.
fn image(rows: Range<u64>) -> ArrayRef {
    let mut lists = ListBuilder::new(Float32Builder::new());
    for row in rows {
        (0..3).for_each(|i| lists.values().append_value(draw(row, &format!("pixel {i}")) as f32 - 0.5));
        lists.append(true);
    }
    Arc::new(lists.finish())
}
