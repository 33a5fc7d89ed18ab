//! From a parser's message to the file, line, key and nearest right key.

use crate::error::Error;

/// An error about one key of the job.
pub fn key_error(message: &str, key: &str) -> Error {
    Error::job(message.to_string()).at("key", key)
}
