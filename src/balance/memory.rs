//! What methods remember from step to step, on its way into a checkpoint and back.

use crate::error::{Error, Result};

/// [`Balancer::state`](super::Balancer::state) and [`Balancer::restore`](super::Balancer::restore) of a method whose whole
/// memory is the vector in one field, of a length that the job fixes.
macro_rules! remembers {
    ($field:ident) => {
        fn state(&self) -> Vec<f64> {
            self.$field.clone()
        }

        fn restore(&mut self, saved: &[f64]) -> Result<()> {
            crate::balance::memory::restore_exactly(&mut self.$field, saved)
        }
    };
}
pub(super) use remembers;

/// Copies a saved state over `own`, if it is as long.
pub(super) fn restore_exactly(own: &mut [f64], saved: &[f64]) -> Result<()> {
    if own.len() != saved.len() {
        let what = format!("the balancing method has {} numbers of state, the checkpoint {}", own.len(), saved.len());
        return Err(
            Error::checkpoint(what).fix("resume with the `balance:` and the tasks that the checkpoint was made with")
        );
    }
    own.copy_from_slice(saved);
    Ok(())
}

/// Takes over a saved state of as many blocks of `block` numbers as there were tensors or tables: how many there are is
/// known at the first step only, which checks it by [`fit`].
pub(super) fn restore_blocks(own: &mut Vec<f64>, saved: &[f64], block: usize) -> Result<()> {
    if !saved.len().is_multiple_of(block.max(1)) {
        let what = format!("{} numbers of the balancing method in the checkpoint do not fit these tasks", saved.len());
        return Err(Error::checkpoint(what).fix("resume with the tasks that the checkpoint was made with"));
    }
    own.clear();
    own.extend_from_slice(saved);
    Ok(())
}

/// Makes a state of `len` zeros at the first step; later ones, and those of a resumed run, must be as long.
pub(super) fn fit(own: &mut Vec<f64>, len: usize) -> Result<()> {
    if own.is_empty() {
        own.resize(len, 0.0);
    }
    if own.len() != len {
        let what = format!("the balancing method keeps {len} numbers for this model, the checkpoint has {}", own.len());
        return Err(Error::checkpoint(what).fix("resume with the `model:` that the checkpoint was made with"));
    }
    Ok(())
}
