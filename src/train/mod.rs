//! Training: the step, the epochs around it, evaluation and prediction.
//!
//! `step` is the heart; `run` repeats it over epochs, evaluates, stops and saves.

mod context;
pub mod dataset;
mod dense;
pub mod events;
#[cfg(feature = "serving")]
pub mod export;
mod freeze;
pub mod goal;
pub mod init;
mod layout;
mod leaves;
mod loss_parts;
mod losses;
pub mod non_finite;
mod persist;
pub mod predict;
mod pretrained;
pub mod prometheus;
mod ranking;
pub mod ranks;
pub mod resources;
mod row_classes;
pub mod run;
mod setup;
pub mod sizes;
pub mod step;
pub mod tensorboard;
pub mod trained;
mod weigh;
