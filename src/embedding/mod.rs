//! Embedding tables: growable hash tables of rows, sharded by bucket over the ranks.
//!
//! ```text
//!  ids of a batch                     this rank                     the owner of a bucket
//!  ──────────────                     ─────────                     ─────────────────────
//!  bags ──dedup──► distinct ids ──one message, all tables──► dedup over ranks ─► admission ─► slots
//!  pooled ◄──pool── distinct rows ◄──one message, all tables── gather
//!  d pooled ──unpool──► distinct gradients ──one message──► sum over ranks ─► sparse optimizer ─► eviction
//! ```
//!
//! Every table is cut into the same number of buckets ([`bucket`]), and a rank owns a range of buckets.
//! No value depends on who owns it: initial rows, admission and eviction are functions of the seed, the
//! table's name, the id, the bucket and the step. Tables live outside candle, as plain `f32` pages.

mod admission;
mod arena;
pub mod bucket;
mod dedup;
mod embeddings;
mod eviction;
mod exchange;
mod fetch;
mod file_init;
mod init;
mod lookup;
mod memory;
mod message;
pub mod optimizer;
mod options;
mod pool;
mod row_gradients;
mod rows;
mod snapshot;
mod spec;
mod stats;
mod table;
mod task_exchange;
#[cfg(test)]
mod tests;
mod update;

pub use admission::Admission;
pub use embeddings::Embeddings;
pub use eviction::Eviction;
pub use file_init::FileInit;
pub use init::Init;
pub use lookup::{Lookup, SequenceRows};
pub use memory::available_bytes;
pub use row_gradients::{RowGradients, TableGradients};
pub use rows::TableRows;
pub use snapshot::TableSnapshot;
pub use spec::{BagKind, BagSpec, Mode, Pool, TableSpec};
pub use stats::{RowCost, TableStats};
pub use update::BatchGradient;
