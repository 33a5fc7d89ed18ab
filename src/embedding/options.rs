//! Checks of options, shared by admission, initialisers and optimizers.

use crate::error::{Error, Result};

/// Checks one number among a component's options.
pub fn check(ok: bool, key: &str, option: &str, value: f64, wanted: &str) -> Result<()> {
    if ok && value.is_finite() {
        return Ok(());
    }
    Err(Error::job(format!("`{option}` is {value}")).at("key", format!("{key}.{option}")).fix(format!("use {wanted}")))
}
