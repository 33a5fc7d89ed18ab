//! Commands.

pub mod synth;
