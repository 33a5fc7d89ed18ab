//! Messages about components chosen by name, shared by initialisers and optimizers.

use crate::error::{Error, Result};

/// The error for a `kind` that is not registered.
pub fn unknown(what: &str, kind: &str, key: &str, known: &[&str]) -> Error {
    let nearest = known.iter().copied().min_by_key(|name| strsim::damerau_levenshtein(name, kind));
    let hint = match nearest {
        Some(name) if strsim::damerau_levenshtein(name, kind) <= 3 => format!("did you mean `{name}`? "),
        _ => String::new(),
    };
    Error::job(format!("unknown {what} `{kind}`"))
        .at("key", format!("{key}.kind"))
        .fix(format!("{hint}known kinds: {}", known.join(", ")))
}

/// Checks one number among a component's options.
pub fn check(ok: bool, key: &str, option: &str, value: f64, wanted: &str) -> Result<()> {
    if ok && value.is_finite() {
        return Ok(());
    }
    Err(Error::job(format!("`{option}` is {value}")).at("key", format!("{key}.{option}")).fix(format!("use {wanted}")))
}
