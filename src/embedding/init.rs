//! Initial rows: a pure function of (seed, table name, id), so that any rank draws the same row.

use super::{FileInit, options};
use crate::config::{Component, unknown_kind};
use crate::error::Result;
use crate::random::{hash, mix, text, to_unit};
use serde::{Deserialize, Serialize};

/// How a new row is filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// Uniform in ±bound.
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Zero where a file has no row ([`FileInit`]).
    File,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ZerosOptions {}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UniformOptions {
    /// Default 1/√dim.
    bound: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NormalOptions {
    std: f64,
}

impl Default for NormalOptions {
    fn default() -> Self {
        Self { std: 0.05 }
    }
}

const KINDS: [&str; 4] = ["uniform", "normal", "zeros", "file"];

impl Init {
    /// Uniform in ±1/√dim: the dot product of two fresh rows then has a standard deviation of 1/(3√dim).
    pub fn default_for(dim: usize) -> Self {
        Self::Uniform(1.0 / (dim.max(1) as f64).sqrt())
    }

    /// Names of all kinds.
    pub fn kinds() -> Vec<&'static str> {
        KINDS.to_vec()
    }

    /// Builds the initialiser named by `init:` at `key` for rows of `dim` floats, and fills in defaults.
    pub fn build(component: &mut Component, key: &str, dim: usize) -> Result<Self> {
        match component.kind.as_str() {
            "zeros" => {
                component.options::<ZerosOptions>(key)?;
                Ok(Self::Zeros)
            }
            "uniform" => {
                let given: UniformOptions = component.options(key)?;
                let bound = given.bound.unwrap_or(1.0 / (dim.max(1) as f64).sqrt());
                options::check(bound >= 0.0, key, "bound", bound, "a number ≥ 0")?;
                component.resolve(&UniformOptions { bound: Some(bound) })?;
                Ok(Self::Uniform(bound))
            }
            "normal" => {
                let options: NormalOptions = component.options(key)?;
                options::check(options.std >= 0.0, key, "std", options.std, "a number ≥ 0")?;
                component.resolve(&options)?;
                Ok(Self::Normal(options.std))
            }
            "file" => {
                let options: FileInit = component.options(key)?;
                component.resolve(&options)?;
                Ok(Self::File)
            }
            kind => Err(unknown_kind(key, kind, &KINDS)),
        }
    }

    /// Fills `row`, the first row of `id`. `table` is what `table_seed` gives.
    pub fn fill(self, table: u64, id: u64, row: &mut [f32]) {
        let start = mix(table ^ mix(id));
        // SplitMix64 started at `start`: element i is its i-th output.
        let draw = |i: usize| to_unit(mix(start.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        match self {
            Self::Zeros | Self::File => row.fill(0.0),
            Self::Uniform(bound) => {
                for (i, x) in row.iter_mut().enumerate() {
                    *x = ((2.0 * draw(i) - 1.0) * bound) as f32;
                }
            }
            Self::Normal(std) => {
                // Box & Muller 1958: two uniform draws make two normal ones.
                for (pair, two) in row.chunks_mut(2).enumerate() {
                    let radius = std * (-2.0 * (1.0 - draw(2 * pair)).ln()).sqrt();
                    let (sin, cos) = (std::f64::consts::TAU * draw(2 * pair + 1)).sin_cos();
                    for (x, part) in two.iter_mut().zip([cos, sin]) {
                        *x = (radius * part) as f32;
                    }
                }
            }
        }
    }
}

/// The seed of everything random about one table.
pub fn table_seed(seed: u64, name: &str) -> u64 {
    hash(seed, &[text("embedding table"), text(name)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(init: Init) -> (f64, f64, f64) {
        let mut all = Vec::new();
        let mut row = [0.0; 7];
        for id in 0..10_000 {
            init.fill(table_seed(1, "item"), id, &mut row);
            all.extend(row.map(f64::from));
        }
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        (mean, variance.sqrt(), all.iter().fold(0.0, |m: f64, x| m.max(x.abs())))
    }

    #[test]
    fn draws_have_the_asked_moments() {
        let (mean, std, max) = moments(Init::Uniform(0.3));
        assert!(mean.abs() < 0.003 && (std - 0.3 / 3f64.sqrt()).abs() < 0.003 && max <= 0.3, "{mean} {std} {max}");
        let (mean, std, max) = moments(Init::Normal(0.05));
        assert!(mean.abs() < 0.001 && (std - 0.05).abs() < 0.001 && max < 0.4, "{mean} {std} {max}");
        assert_eq!(moments(Init::Zeros), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_row_depends_on_seed_table_and_id_only() {
        let row = |seed, name: &str, id| {
            let mut row = [0.0; 4];
            Init::Uniform(1.0).fill(table_seed(seed, name), id, &mut row);
            row
        };
        assert_eq!(row(1, "a", 5), row(1, "a", 5));
        for other in [row(2, "a", 5), row(1, "b", 5), row(1, "a", 6)] {
            assert_ne!(row(1, "a", 5), other);
        }
    }

    #[test]
    fn options_are_checked_and_resolved() {
        let mut component: Component = serde_yaml::from_str("{kind: uniform}").unwrap();
        assert_eq!(Init::build(&mut component, "tables.item.init", 16).unwrap(), Init::Uniform(0.25));
        assert_eq!(serde_yaml::to_string(&component).unwrap(), "kind: uniform\nbound: 0.25\n");
        let parse = |yaml: &str| {
            let mut component: Component = serde_yaml::from_str(yaml).unwrap();
            Init::build(&mut component, "tables.item.init", 4).map_err(|e| e.to_string())
        };
        assert_eq!(parse("{kind: normal, std: 0.01}"), Ok(Init::Normal(0.01)));
        assert_eq!(parse("{kind: zeros}"), Ok(Init::Zeros));
        assert!(parse("{kind: normal, std: -1}").unwrap_err().contains("tables.item.init.std"));
        assert!(parse("{kind: normal, sdt: 1}").unwrap_err().contains("sdt"));
        assert!(parse("{kind: zeros, std: 1}").is_err());
        assert!(parse("{kind: unifrom}").unwrap_err().contains("did you mean `uniform`"));
    }
}
