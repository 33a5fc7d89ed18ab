//! Messages as JSON, one object a line, for programs that collect logs.

use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU64, Ordering};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// This process's rank, and the steps that it has taken; none yet is `u64::MAX`. Kept for the whole process, since
/// any of its threads may log.
static RANK: AtomicU64 = AtomicU64::new(0);
static STEP: AtomicU64 = AtomicU64::new(u64::MAX);

/// Says on which rank what is logged from now on happens.
pub(super) fn set_rank(rank: usize) {
    RANK.store(rank as u64, Ordering::Relaxed);
}

/// Says after which step what is logged from now on happens.
pub fn set_step(step: u64) {
    STEP.store(step, Ordering::Relaxed);
}

/// The last step, if there is one.
pub(super) fn step() -> Option<u64> {
    Some(STEP.load(Ordering::Relaxed)).filter(|step| *step != u64::MAX)
}

/// `{"time": …, "level": …, "rank": …, "step": …, "message": …}` and `fields`, on one line.
pub fn json_line(level: &str, message: &str, fields: Map<String, Value>) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let mut line = Map::new();
    line.insert("time".to_string(), time.into());
    line.insert("level".to_string(), level.into());
    line.insert("rank".to_string(), RANK.load(Ordering::Relaxed).into());
    line.extend(step().map(|step| ("step".to_string(), step.into())));
    line.insert("message".to_string(), message.into());
    line.extend(fields);
    format!("{}\n", Value::Object(line))
}
