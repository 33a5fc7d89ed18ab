//! Gradient reversal: the identity on the way forward, a factor of −α on the way back (Ganin & Lempitsky, ICML 2015).
//!
//! What follows learns to tell classes apart by its input; what made the input learns to give it nothing to tell them by.

use super::program::{Describe, Program, Value, exactly};
use super::{Context, Kernels, reference};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

/// `x`, whose gradient is multiplied by −`strength` (α). Any shape.
pub fn reverse_gradient(x: &Tensor, strength: f64, context: &Context) -> Result<Tensor> {
    if context.kernels == Kernels::Reference {
        return Ok(reference::reverse_gradient(x, strength)?);
    }
    context.graph.one(&x.contiguous()?, Reverse { strength })
}

struct Reverse {
    strength: f64,
}

impl Describe for Reverse {
    fn describe(&self, _: &mut Program, inputs: &[Value]) -> Result<Value> {
        let [x] = exactly(inputs)?;
        Ok(x)
    }
}

impl CustomOp1 for Reverse {
    fn name(&self) -> &'static str {
        "reverse-gradient"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        super::floats::stored(super::floats::slice(x, layout)?.to_vec(), layout.shape().clone())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some((dy * -self.strength)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, check_matches, context, numbers, random};
    use super::super::{ParamStore, backward_from, program::evaluate::check_description};
    use super::*;
    use candle_core::Var;

    #[test]
    fn values_stay_and_gradients_are_reversed() {
        let (x, dy) = (Var::from_tensor(&random(&[5, 3], 1)).unwrap(), random(&[5, 3], 2));
        for strength in [0.0, 0.4, 1.0] {
            let y = reverse_gradient(&x, strength, &context(true, 5)).unwrap();
            assert_eq!(numbers(&y), numbers(&x));
            let gradients = backward_from(&[(&y, dy.clone())]).unwrap();
            let expected: Vec<f64> = numbers(&dy).iter().map(|g| g * -strength).collect();
            assert_close(&numbers(gradients.get(&x).unwrap()), &expected, 1e-6, "reversed");
        }
        let fused = |t: &[Tensor]| Ok(reverse_gradient(&t[0], 0.7, &context(true, 5)).unwrap());
        check_matches(&[random(&[5, 3], 1)], fused, |t| reference::reverse_gradient(&t[0], 0.7));
        check_description(&[random(&[5, 3], 1)], &ParamStore::new(0), |t, at| {
            let y = reverse_gradient(&t[0], 0.7, at)?;
            super::super::add(&at.graph, &y, &y)
        });
    }
}
