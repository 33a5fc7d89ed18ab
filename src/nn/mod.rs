//! Layers of the dense part, with their own backward, and the store of their parameters.

mod context;
mod params;

pub use context::{AllSum, Context};
pub use params::{Builder, Init, ParamStore};
