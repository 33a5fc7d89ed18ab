//! Dense optimizers on flat slices, learning-rate schedules, clipping.
//!
//! Each rank owns one slice of the flat parameter vector and keeps the optimizer's moments for that
//! slice only; see `train::step`. Formulas are PyTorch's: the scalars of an update (bias corrections, step
//! size) are taken in float64 and rounded once, the element-wise part runs in float32.

mod adagrad;
mod adam;
mod adamw;
pub mod clip;
mod moments;
pub mod schedule;
mod sgd;

use crate::config::{Component, unknown_kind};
use crate::error::{Error, Result};

pub use schedule::Schedule;

/// An optimizer of dense parameters: element-wise, so that a slice can be updated alone.
pub trait DenseOptimizer: std::fmt::Debug {
    /// Names of the moment vectors, each as long as the slice, for example `["m", "v"]`. All start at 0.
    fn slot_names(&self) -> &'static [&'static str];

    /// Base learning rate, before the schedule.
    fn lr(&self) -> f64;

    /// Updates `params` in place from `grads`. `slots[i]` is the moment named `slot_names()[i]`; all are
    /// slices of one length. `lr` includes the schedule; `t` counts updates from 1.
    fn update(&self, params: &mut [f32], grads: &[f32], slots: &mut [Vec<f32>], lr: f64, t: u64);
}

/// Place of the component in the job, for messages.
const KEY: &str = "optimizer.dense";

type Build = fn(&mut Component) -> Result<Box<dyn DenseOptimizer>>;

/// Every dense optimizer by name.
const REGISTRY: &[(&str, Build)] =
    &[("sgd", sgd::build), ("adam", adam::build), ("adamw", adamw::build), ("adagrad", adagrad::build)];

/// Names of all dense optimizers.
pub fn kinds() -> Vec<&'static str> {
    REGISTRY.iter().map(|(name, _)| *name).collect()
}

/// Builds the optimizer named by `optimizer.dense` and fills all defaults into `component`.
///
/// # Errors
/// An unknown kind or option, or a value out of range: an error of the job.
pub fn build(component: &mut Component) -> Result<Box<dyn DenseOptimizer>> {
    match REGISTRY.iter().find(|(name, _)| *name == component.kind) {
        Some((_, build)) => build(component),
        None => {
            let known: Vec<&str> = REGISTRY.iter().map(|(name, _)| *name).collect();
            Err(unknown_kind(KEY, &component.kind, &known))
        }
    }
}

/// Refuses an option that is not finite or for which `valid` is false.
fn require(key: &str, option: &str, value: f64, valid: impl Fn(f64) -> bool, range: &str) -> Result<()> {
    if value.is_finite() && valid(value) {
        return Ok(());
    }
    Err(Error::job(format!("{option} is {value}")).at("key", format!("{key}.{option}")).fix(format!("give {range}")))
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_optimizer_or_option_is_an_error_of_the_job() {
        let error = build(&mut Component::named("adma")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("did you mean `adam`"), "{error}");
        let mut component: Component = serde_yaml::from_str("{kind: adam, beta: 0.9}").unwrap();
        let error = build(&mut component).unwrap_err().to_string();
        assert!(error.contains("beta") && error.contains("optimizer.dense"), "{error}");
        for text in ["{kind: adam, lr: -1}", "{kind: sgd, momentum: 1.5}", "{kind: adamw, betas: [0.9, 1.0]}"] {
            assert!(build(&mut serde_yaml::from_str(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn building_writes_the_defaults_into_the_job() {
        for (name, _) in REGISTRY {
            let mut component = Component::named(name);
            let optimizer = build(&mut component).unwrap();
            assert_eq!(component.options.get("lr").and_then(|v| v.as_f64()), Some(optimizer.lr()), "{name}");
            let again = build(&mut component.clone()).unwrap();
            assert_eq!(format!("{again:?}"), format!("{optimizer:?}"));
        }
    }
}
