//! Helpers of this module's tests: Parquet files and jobs in a line.

use super::schema::{Purpose, Schema};
use crate::config::Job;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A job from its `features:`, `tasks:` and, if need be, other keys.
pub fn job(yaml: &str) -> Job {
    let rest = if yaml.contains("data:") { "" } else { "data: {train: unused}\n" };
    serde_yaml::from_str(&format!("name: test\nmodel: {{kind: mmoe}}\n{rest}{yaml}")).expect("a valid test job")
}

/// The schema of a job, for evaluation (the purpose that reads most).
pub fn schema(yaml: &str) -> Schema {
    Schema::new(&job(yaml), Purpose::Evaluate).expect("a valid test schema")
}

/// A column of integers.
pub fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

/// A column of floats.
pub fn floats(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Float64Array>())
}

/// A Parquet file to be written.
pub struct TestFile {
    batch: RecordBatch,
    row_group_rows: usize,
}

impl TestFile {
    /// A file of these columns.
    pub fn new(columns: &[(&str, ArrayRef)]) -> Self {
        let columns = columns.iter().map(|(name, array)| (*name, array.clone(), true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
        Self { batch, row_group_rows: 1_000_000 }
    }

    /// Sets the rows of a row group.
    pub fn row_group_rows(mut self, rows: usize) -> Self {
        self.row_group_rows = rows;
        self
    }

    /// The columns.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Writes it, in small pages so that starting inside a row group crosses some.
    pub fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .set_data_page_row_count_limit(50)
            .set_write_batch_size(25)
            .build();
        let file = File::create(path).expect("a new file");
        let mut writer = ArrowWriter::try_new(file, self.batch.schema(), Some(properties)).expect("a writer");
        writer.write(&self.batch).expect("rows written");
        writer.close().expect("a footer");
    }
}
