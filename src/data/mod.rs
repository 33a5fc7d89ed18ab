//! From Parquet files to batches.
//!
//! ```text
//! store      patterns → files                       plan        footers → row groups, rows
//! lanes      rows → lanes → steps                   schema      job → columns and what they become
//! reader     row group → Arrow arrays               columns     Arrow arrays → ids, numbers
//! decode     ids, numbers → rows of a batch         statistics  means, bounds, quantiles of numerics
//! stream     one lane: windows, permuted            loader      all lanes of a rank → one batch a step
//! sharing    row groups that several lanes read    scan        files in order, all columns, for `predict`
//! pairs      features → the sides of pairs      relations  what the log pairs, for negatives and ranking
//! sample     some rows of a log, counted            partition  rows by scenario, into files
//! everywhere a path → this machine or a store   remote      object stores and web servers
//! windows    few large reads for many small ones
//! place      the address of rows, for messages       scenarios  values of the scenario column, numbered
//! profile    what the columns of a file look like
//! ```

pub mod accepts;
pub mod batch;
mod columns;
pub mod decode;
pub mod everywhere;
mod ids;
pub mod lanes;
pub mod loader;
mod negatives;
pub mod pairs;
pub mod partition;
pub mod place;
pub mod plan;
pub mod profile;
pub mod reader;
pub mod relations;
#[cfg(feature = "cloud")]
pub mod remote;
pub mod sample;
pub mod scan;
pub mod scenarios;
pub mod schema;
mod sharing;
pub mod statistics;
pub mod store;
mod stream;
pub mod synth;
#[cfg(test)]
pub(crate) mod testing;
mod windows;

pub use columns::{Lists, lists, string_id};
