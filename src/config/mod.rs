//! The job file: as written ([`job`]) → checked.
//!
//! The types of [`job`] mirror the YAML. Components that are chosen by name (`model`, `balance`,
//! optimizers) are kept as a [`Component`]: their options are parsed by the component itself, in the
//! file that uses them.

pub mod component;
pub mod job;
pub mod load;
mod locate;
mod units;

pub use component::Component;
pub use job::Job;
pub use load::{Source, load};
pub use units::Every;
