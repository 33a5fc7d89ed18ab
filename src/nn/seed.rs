//! Starts a backward pass from gradients that are already known.

use super::floats;
use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

/// Backward from `outputs`, where each is given with the gradient of the loss with respect to it: what
/// [`super::Loss::with_gradient`] returns for logits. Costs no forward operation and no product with the gradient.
pub fn backward_from(outputs: &[(&Tensor, Tensor)]) -> Result<GradStore> {
    let mut total: Option<Tensor> = None;
    for (output, gradient) in outputs {
        check_shape(output, gradient)?;
        let scalar = output.apply_op1(Seed(gradient.clone()))?;
        total = Some(match total {
            Some(sum) => (sum + scalar)?,
            None => scalar,
        });
    }
    let total = total.ok_or_else(|| Error::internal("a backward pass from no output"))?;
    Ok(total.backward()?)
}

/// A gradient has the shape of what it is the gradient by.
pub(super) fn check_shape(output: &Tensor, gradient: &Tensor) -> Result<()> {
    if output.dims() == gradient.dims() {
        return Ok(());
    }
    let shapes = format!("{:?} and {:?}", output.dims(), gradient.dims());
    Err(Error::internal(format!("an output and its gradient differ in shape: {shapes}")))
}

/// A scalar whose backward hands a given gradient to its argument.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        floats::stored(vec![0.0], ())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn the_given_gradients_are_pulled_back_and_added() {
        let x = Var::new(&[2f32, 3.0], &Device::Cpu).unwrap();
        let square = x.sqr().unwrap();
        let double = (x.as_tensor() * 2.0).unwrap();
        let gradient = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let outputs = [(&square, gradient(&[1.0, 10.0])), (&double, gradient(&[5.0, 0.5]))];
        let gradients = backward_from(&outputs).unwrap();
        assert_eq!(gradients.get(&x).unwrap().to_vec1::<f32>().unwrap(), [14.0, 61.0]);
        assert!(backward_from(&[]).is_err());
        assert!(backward_from(&[(&square, gradient(&[1.0]))]).is_err());
    }
}
