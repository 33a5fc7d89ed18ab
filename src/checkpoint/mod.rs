//! Checkpoints that do not know the rank count.
//!
//! ```text
//! checkpoints/step-00000200/
//!   manifest.json                        what is here: totals, checksums, job, cursor; written last
//!   dense.safetensors                    parameters.<name>, optimizer.<moment>.<name>, buffers.<name>, rows.class
//!   buckets-00000-00015.safetensors      <table>.ids, .values, .state, .counts, … of these buckets,
//!   buckets-00016-00031.safetensors      sorted by (bucket, id)
//!   …
//! ```
//!
//! A folder is written aside as `step-00000200.partial` and renamed once every file is on disk, so a
//! folder without the suffix is whole. Buckets are logical shards: a rank of any world size reads just the
//! buckets that it owns.
//!
//! Training stops for a snapshot ([`begin`]), which shares the pages of the tables until training changes them; a thread
//! of each rank writes it. When all have, the ranks together give it its name ([`Saving::finish`]).

mod disk;
mod files;
mod folder;
mod in_order;
mod inside;
mod load;
mod local_copy;
mod manifest;
mod matches;
mod mirror;
mod save;
mod table_file;
#[cfg(test)]
mod tests;
mod transfer;

pub use disk::Disk;
pub use files::{Data, FileEntry, Named, TensorFile, checksum, write_tensors};
pub use folder::{CheckpointDir, resolve};
pub use inside::inside;
pub use load::{
    load_dense, load_known_dense, load_known_tables, load_row_classes, load_tables, read_dense, read_tables,
};
pub use local_copy::{localised, published};
pub use manifest::{FORMAT, MANIFEST, Manifest, ParameterEntry, Progress, TableEntry};
pub use matches::Matches;
pub use mirror::{Copying, Mirror};
pub use save::{DenseState, Saving, Snapshot, begin};
