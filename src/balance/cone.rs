//! The cone of updates that conflict with no task, {d : ⟨g_k, d⟩ ≥ 0 for all k}: what UPGrad and DualProj project onto.
//!
//! By duality the projection of Σ y_k u_k (u_k the unit gradients) adds Σ x_k u_k with the x ≥ 0 that makes the sum
//! shortest.

use super::gram::Scaled;
use super::preference::Preference;
use super::solvers::nonnegative_quadratic;
use super::{KEY, Signal, check_ridge};
use crate::config::Component;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Options of `{kind: upgrad}` and `{kind: dual_proj}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    /// Weight of each task; empty: 1 over the number of tasks.
    pub preference: Preference,
    /// Multiple of trace(G) added to the diagonal of G. 0 is the exact projection; TorchJD has 1e-4.
    ridge: f64,
}

impl Options {
    /// Reads and checks the component's options, and fills in its defaults.
    pub fn read(component: &mut Component, tasks: usize) -> Result<Self> {
        let options: Self = component.options(KEY)?;
        options.preference.check("preference", tasks)?;
        check_ridge(options.ridge)?;
        component.resolve(&options)?;
        Ok(options)
    }

    /// The gradients of the tasks that are there, with the ridge.
    pub fn gradients(&self, signal: &Signal, present: &[usize]) -> Scaled {
        Scaled::new(signal.gram, signal.present.len(), present).regularised(self.ridge)
    }
}

/// What projecting Σ y_k u_k adds to it, in unit gradients whose cosines these are: the x ≥ 0 of least
/// ‖Σ (y_k + x_k) u_k‖.
pub(super) fn correction(cosines: &[f64], y: &[f64]) -> Vec<f64> {
    let rows = cosines.chunks_exact(y.len().max(1));
    let against: Vec<f64> = rows.map(|row| -row.iter().zip(y).map(|(c, y)| c * y).sum::<f64>()).collect();
    nonnegative_quadratic(cosines, &against)
}
