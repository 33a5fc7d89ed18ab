//! From Parquet files to batches.

pub mod batch;
