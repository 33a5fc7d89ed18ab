//! The job file: as written ([`job`]) → checked ([`check`]).
//!
//! ```text
//!  text ──yaml──► value ──--set──► value ──serde──► Job ──check──► Checked
//!    └──marks──► Locator: key path → line, or the override that set it
//! ```
//!
//! The types of [`job`] mirror the YAML. Components that are chosen by name (`model`, `balance`,
//! optimizers) are kept as a [`Component`]: their options are parsed by the component itself, in the
//! file that uses them. An error about a key carries the place `key` with its path from the top of the
//! job (`tasks[1].where`); [`Source::locate`] adds the file and line to it.

pub mod check;
pub mod component;
mod explain;
pub mod job;
pub mod load;
mod locate;
mod overrides;
mod resolve;
mod schema;
mod suggest;
mod units;

pub use check::Checked;
pub use component::{Component, unknown_kind};
pub use job::Job;
pub use load::{Loaded, Source, from_text, load};
pub use resolve::to_yaml;
pub use schema::job as job_schema;
pub use suggest::{nearest, suggest};
pub use units::{Bytes, Every, TimeLimit};
