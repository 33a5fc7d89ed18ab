//! A pull of some parameters towards given values: the gradient μ(θ − θ*) of (μ/2)‖θ − θ*‖², on a slice.
//!
//! It is the proximal term of FedProx (Li et al., MLSys 2020, eq. 2) and Ditto (Li et al., ICML 2021, eq. 1). It is added after
//! the loss's gradient was clipped, whose norm it is no part of.

use super::DensePart;
use crate::comm::Communicator;
use crate::error::Result;
use crate::nn::ParamStore;

/// By element of this rank's slice.
pub(super) struct Pull {
    /// μ, and 0 where nothing pulls.
    strength: Vec<f32>,
    /// θ*.
    towards: Vec<f32>,
}

impl Pull {
    /// Adds μ(θ − θ*) to `direction`.
    pub fn add_to(&self, direction: &mut [f32], params: &[f32]) {
        for (i, direction) in direction.iter_mut().enumerate() {
            if self.strength[i] != 0.0 {
                *direction += self.strength[i] * (params[i] - self.towards[i]);
            }
        }
    }
}

impl DensePart {
    /// Pulls each parameter for which `towards` has values, by its number, with strength `mu` towards them, from the next step
    /// on; 0 ends it.
    pub fn pull(
        &mut self,
        store: &ParamStore,
        comm: &dyn Communicator,
        mu: f64,
        towards: &[Option<Vec<f32>>],
    ) -> Result<()> {
        if mu == 0.0 {
            self.pull = None;
            return Ok(());
        }
        let strength = self.slice_of(comm.rank(), |index, values| {
            values.fill(if towards[index].is_some() { mu as f32 } else { 0.0 });
            Ok(())
        })?;
        let towards = self.slice_of(comm.rank(), |index, values| match &towards[index] {
            Some(target) => {
                values.copy_from_slice(target);
                Ok(())
            }
            None => store.read(index, values),
        })?;
        self.pull = Some(Pull { strength, towards });
        Ok(())
    }
}
