//! Learning-rate schedules: a factor of the base rate, the same for dense and sparse optimizers.
//!
//! Every kind may start with a linear `warmup` (`500 steps`, `0.1 epochs`) from 1/n to 1; the shape proper
//! begins after it. A period may be in epochs, so building needs the number of steps of one.

use super::require;
use crate::config::{Component, Every, unknown_kind};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// A learning-rate schedule.
pub trait Schedule: std::fmt::Debug {
    /// Factor for `step` (from 0) of a run planned to have `total_steps`.
    fn factor(&self, step: u64, total_steps: u64) -> f64;
}

/// Place of the component in the job, for messages.
const KEY: &str = "optimizer.schedule";

const KINDS: &[&str] = &["constant", "linear", "cosine", "step", "exponential", "inverse_sqrt"];

/// Names of all schedules.
pub fn kinds() -> Vec<&'static str> {
    KINDS.to_vec()
}

/// Builds the schedule named by `optimizer.schedule` and fills all defaults into `component`.
///
/// # Errors
/// An unknown kind or option, or a value out of range: an error of the job.
pub fn build(component: &mut Component, steps_per_epoch: u64) -> Result<Box<dyn Schedule>> {
    let steps = |every: Every| every.steps(steps_per_epoch).unwrap_or(0);
    let (warmup, shape) = match component.kind.as_str() {
        "constant" => {
            let options: Warmup = resolved(component)?;
            (options.warmup, Shape::Constant)
        }
        kind @ ("linear" | "cosine") => {
            let shape = if kind == "linear" { Shape::Linear } else { Shape::Cosine };
            let options: Decay = resolved(component)?;
            require(KEY, "final", options.end, |x| x >= 0.0, "a factor ≥ 0")?;
            (options.warmup, shape(options.end))
        }
        kind @ ("step" | "exponential") => {
            let smooth = kind == "exponential";
            let options: Geometric = resolved(component)?;
            require(KEY, "gamma", options.gamma, |x| x > 0.0 && x <= 1.0, "a factor in (0, 1]")?;
            require(KEY, "final", options.end, |x| x >= 0.0, "a factor ≥ 0")?;
            let every = steps(options.every).max(1);
            (options.warmup, Shape::Geometric { every, gamma: options.gamma, end: options.end, smooth })
        }
        "inverse_sqrt" => {
            let options: Decay = resolved(component)?;
            require(KEY, "final", options.end, |x| x >= 0.0, "a factor ≥ 0")?;
            (options.warmup, Shape::InverseSqrt(options.end))
        }
        other => return Err(unknown_kind(KEY, other, KINDS)),
    };
    Ok(Box::new(Planned { warmup: steps(warmup), shape }))
}

/// Parses the options and writes them back with their defaults.
fn resolved<T: for<'de> Deserialize<'de> + Serialize>(component: &mut Component) -> Result<T> {
    let options: T = component.options(KEY)?;
    component.resolve(&options)?;
    Ok(options)
}

/// Options of `constant`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Warmup {
    #[serde(default = "never")]
    warmup: Every,
}

/// Options of `linear`, `cosine` and `inverse_sqrt`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decay {
    #[serde(default = "never")]
    warmup: Every,
    /// Factor at the end of the run; for `inverse_sqrt` the factor that it never falls below.
    #[serde(default, rename = "final")]
    end: f64,
}

/// Options of `step` and `exponential`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Geometric {
    #[serde(default = "never")]
    warmup: Every,
    /// The period over which the factor falls by `gamma`: at once for `step`, evenly for `exponential`.
    #[serde(default = "one_epoch")]
    every: Every,
    #[serde(default = "tenth")]
    gamma: f64,
    /// The factor that it never falls below.
    #[serde(default, rename = "final")]
    end: f64,
}

fn never() -> Every {
    Every::Never
}

fn one_epoch() -> Every {
    Every::Epochs(1.0)
}

fn tenth() -> f64 {
    0.1
}

/// A schedule with all periods in steps.
#[derive(Debug)]
struct Planned {
    warmup: u64,
    shape: Shape,
}

/// What happens after the warm-up; the last number of each is the final factor.
#[derive(Debug)]
enum Shape {
    Constant,
    Linear(f64),
    Cosine(f64),
    Geometric { every: u64, gamma: f64, end: f64, smooth: bool },
    InverseSqrt(f64),
}

impl Schedule for Planned {
    fn factor(&self, step: u64, total_steps: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let done = (step - self.warmup) as f64;
        // In [0, 1]; 1 is the end of the run.
        let progress = (done / total_steps.saturating_sub(self.warmup).max(1) as f64).min(1.0);
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear(end) => 1.0 + (end - 1.0) * progress,
            Shape::Cosine(end) => end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Shape::Geometric { every, gamma, end, smooth } => {
                let periods = done / every as f64;
                gamma.powf(if smooth { periods } else { periods.floor() }).max(end)
            }
            // 1 at the end of the warm-up, then as 1/√step (Vaswani et al. 2017, section 5.3).
            Shape::InverseSqrt(end) => {
                let origin = self.warmup.max(1) as f64;
                (origin / (origin + done)).sqrt().max(end)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(job: &str, steps: &[u64], total: u64) -> Vec<f64> {
        let schedule = build(&mut serde_yaml::from_str(job).unwrap(), 100).unwrap();
        steps.iter().map(|&s| schedule.factor(s, total)).collect()
    }

    fn assert_factors(job: &str, at: &[(u64, f64)], total: u64) {
        let steps: Vec<u64> = at.iter().map(|(s, _)| *s).collect();
        for ((step, want), got) in at.iter().zip(factors(job, &steps, total)) {
            assert!((got - want).abs() < 1e-12, "{job}: step {step} has {got}, not {want}");
        }
    }

    #[test]
    fn shapes_have_their_values_at_hand_computed_steps() {
        assert_factors("{kind: constant}", &[(0, 1.0), (999, 1.0)], 1000);
        assert_factors("{kind: constant, warmup: 4 steps}", &[(0, 0.25), (3, 1.0), (4, 1.0)], 1000);
        assert_factors("{kind: linear, final: 0.2}", &[(0, 1.0), (50, 0.6), (100, 0.2), (200, 0.2)], 100);
        assert_factors("{kind: cosine}", &[(0, 1.0), (25, 0.5 + 0.125f64.sqrt()), (50, 0.5), (100, 0.0)], 100);
        assert_factors("{kind: cosine, warmup: 20 steps, final: 0.1}", &[(19, 1.0), (20, 1.0), (60, 0.55)], 100);
        assert_factors("{kind: step, every: 10 steps, gamma: 0.5}", &[(9, 1.0), (10, 0.5), (29, 0.25)], 100);
        assert_factors("{kind: step, gamma: 0.5, final: 0.2}", &[(99, 1.0), (100, 0.5), (900, 0.2)], 1000);
        assert_factors("{kind: exponential, every: 10 steps, gamma: 0.25}", &[(5, 0.5), (10, 0.25)], 100);
        assert_factors("{kind: inverse_sqrt, warmup: 0.25 epochs}", &[(24, 1.0), (25, 1.0), (100, 0.5)], 1000);
        assert_factors("{kind: inverse_sqrt}", &[(0, 1.0), (3, 0.5)], 1000);
    }

    #[test]
    fn no_shape_leaves_its_range_or_rises_after_the_warmup() {
        for kind in KINDS {
            let job = format!("{{kind: {kind}, warmup: 0.1 epochs}}");
            let all = factors(&job, &(0..300).collect::<Vec<_>>(), 250);
            assert!(all.iter().all(|f| (0.0..=1.0).contains(f)), "{kind}");
            assert!(all[9..].windows(2).all(|w| w[1] <= w[0] + 1e-15), "{kind}");
            assert!(all[..10].windows(2).all(|w| w[1] > w[0]), "{kind}");
        }
    }

    #[test]
    fn a_warmup_longer_than_the_run_is_only_a_ramp() {
        assert_factors("{kind: cosine, warmup: 100 steps}", &[(9, 0.1), (10, 0.11)], 10);
    }

    #[test]
    fn mistakes_are_errors_of_the_job() {
        for job in
            ["{kind: cosin}", "{kind: constant, gamma: 2}", "{kind: step, gamma: 0}", "{kind: linear, final: -1}"]
        {
            let error = build(&mut serde_yaml::from_str(job).unwrap(), 100).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{job}");
        }
    }

    #[test]
    fn the_resolved_options_build_the_same_schedule() {
        let mut component: Component = serde_yaml::from_str("{kind: step, warmup: 5 steps}").unwrap();
        let first = build(&mut component, 100).unwrap();
        assert_eq!(component.options.len(), 4);
        assert_eq!(format!("{:?}", build(&mut component, 100).unwrap()), format!("{first:?}"));
    }
}
