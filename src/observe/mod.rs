//! What a person or a program sees of a run: progress, logs, events and the time of each stage.

pub mod environment;
pub mod events;
pub mod json_line;
pub mod log;
pub mod memory;
pub mod progress;
pub mod stages;
pub mod tensorboard;
pub mod terminal;
pub mod threads;
pub mod watchdog;

pub use environment::Environment;
pub use events::{Event, Events};
pub use progress::Progress;
pub use stages::{Stage, Stages};
pub use terminal::{Format, Terminal};
