//! tandem: a distributed, data-parallel trainer for multi-task recommenders.
//!
//! The floors of the house, lowest first; a module uses only what stands below it:
//!
//! | floor | modules |
//! |---|---|
//! | 6 | [`cli`] |
//! | 5 | [`train`], [`federated`], [`doctor`] |
//! | 4 | [`checkpoint`], [`knowledge`] |
//! | 3 | [`embedding`], [`model`], [`report`] |
//! | 2 | [`balance`], [`metric`], [`optim`], [`data`], [`ingest`] |
//! | 1 | [`comm`], [`nn`], [`observe`], [`config`] |
//! | 0 | [`error`], [`guard`], [`pulse`], [`random`], `simd` |
//!
//! `docs/architecture.md` follows a row of data through them.

pub mod balance;
pub mod checkpoint;
pub mod cli;
pub mod comm;
pub mod config;
pub mod data;
pub mod doctor;
pub mod embedding;
pub mod error;
#[cfg(feature = "serving")]
pub mod export;
pub mod federated;
pub mod guard;
pub mod ingest;
pub mod knowledge;
pub mod metric;
pub mod model;
pub mod nn;
pub mod observe;
pub mod optim;
pub mod pulse;
pub mod random;
pub mod report;
mod simd;
pub mod train;

pub use error::{Error, Result};
