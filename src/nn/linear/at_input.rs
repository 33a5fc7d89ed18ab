//! Layers that read the model's input: what they do together.

use super::super::activation::Activation;
use super::super::floats::{self, Floats};
use super::super::graph::{Family, Operation, Pass, Reached};
use super::super::input_gradient::{Blocks, Part};
use super::super::mix::add;
use super::super::program::{Describe, Program, Value};
use super::super::repeats::Parted;
use super::super::{Context, Graph, Kernels, narrow, parallel};
use super::Linear;
use super::fused::{Fused, bias_gradient};
use candle_core::{Result, Tensor};
use std::sync::{Arc, OnceLock};

/// A layer that reads the model's input: it leaves its dz, from which dx is computed once for all tasks.
pub(super) struct AtInput {
    pub op: Fused,
    /// Its input, where rows repeat.
    pub parted: Option<Arc<Parted>>,
    /// Of [`Linear::forward_all`].
    pub family: Option<Family>,
}

impl Describe for AtInput {
    fn describe(&self, program: &mut Program, inputs: &[Value]) -> crate::Result<Value> {
        self.op.describe(program, inputs)
    }
}

impl Operation for AtInput {
    fn backward(
        &self,
        inputs: &[Tensor],
        y: &Tensor,
        dy: &Tensor,
        pass: &mut Pass,
    ) -> crate::Result<Vec<Option<Tensor>>> {
        let [x, weight, bias] = inputs else {
            return Err(crate::Error::internal("a linear layer has three inputs"));
        };
        let dims = self.op.dims(x.dims(), weight.dims())?;
        let dz = self.op.activation_gradient(y, dy, dims.y())?;
        let (dw, db, blocks) = match &self.parted {
            Some(parted) => parted_gradients(parted, &dz, weight, bias, pass.passes)?,
            None => {
                let (dw, db) = self.op.parameter_gradients(dims, &dz, x, weight, bias)?;
                (dw, db, Blocks::None)
            }
        };
        pass.at_input.push(Part::Linear { weight: weight.clone(), dz, blocks, precision: self.op.precision });
        Ok(vec![None, Some(dw), Some(db)])
    }

    fn family(&self) -> Option<Family> {
        self.family
    }

    fn backward_together(&self, family: &[Reached], pass: &mut Pass) -> crate::Result<Vec<Vec<Option<Tensor>>>> {
        let Some([x, ..]) = family.first().map(|first| first.inputs) else { return Ok(Vec::new()) };
        let dzs = family.iter().map(|reached| reached.dy.contiguous()).collect::<Result<Vec<_>>>()?;
        let input = floats::rows_of(x.dims()).1;
        let dws = {
            let values = dzs.iter().map(Floats::of).collect::<Result<Vec<_>>>()?;
            let outputs = dzs.iter().map(|dz| floats::rows_of(dz.dims()).1);
            let layers: Vec<_> = values.iter().map(|dz| &**dz).zip(outputs).collect();
            narrow::weight_gradients(&Floats::of(x)?, input, &layers)
        };
        let of_layer = |((reached, dz), dw): ((&Reached, Tensor), Vec<f32>)| {
            let [_, weight, bias] = reached.inputs else {
                return Err(crate::Error::internal("a linear layer has three inputs"));
            };
            let db = floats::tensor(bias_gradient(&Floats::of(&dz)?, weight.dims()[1]), bias.dims())?;
            let dw = floats::tensor(dw, weight.dims())?;
            let (precision, blocks) = (self.op.precision, Blocks::None);
            pass.at_input.push(Part::Linear { weight: weight.clone(), dz, blocks, precision });
            Ok(vec![None, Some(dw), Some(db)])
        };
        family.iter().zip(dzs).zip(dws).map(of_layer).collect()
    }
}

/// dW and db of a layer whose input is parted, and what the blocks add to dx. With several `passes` that is left to their
/// weighted sum: the sums over equal rows are then taken once more, which is less work than a product for each pass.
fn parted_gradients(
    parted: &Parted,
    dz: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    passes: usize,
) -> Result<(Tensor, Tensor, Blocks)> {
    let (values, output) = (Floats::of(dz)?, weight.dims2()?.1);
    let (dw, blocks) = match passes {
        0 | 1 => {
            let (dw, blocks) = parted.gradients(&values, &Floats::of(weight)?, output);
            (dw, Blocks::Done(blocks))
        }
        _ => (parted.weight_gradient(&values, output), Blocks::Left),
    };
    let db = bias_gradient(&values, output);
    Ok((floats::tensor(dw, weight.dims())?, floats::tensor(db, bias.dims())?, blocks))
}

impl Linear {
    /// [`Linear::forward`] of several layers of one `x`. Narrow ones without activation, as gates are, read the model's
    /// input together: it comes from memory once for all of them, on the way back too.
    pub fn forward_all(layers: &[&Self], x: &Tensor, context: &Context) -> crate::Result<Vec<Tensor>> {
        let (rows, input) = floats::rows_of(x.dims());
        let narrow = |layer: &&Self| layer.is_narrow() && layer.activation == Activation::None && layer.input == input;
        let graph = &context.graph;
        let at_input = matches!(graph, Graph::None | Graph::Trace(_)) || graph.is_input(x);
        let together = at_input && context.kernels == Kernels::Fused && layers.len() > 1 && layers.iter().all(narrow);
        if !together {
            return layers.iter().map(|layer| layer.forward(x, context)).collect();
        }
        let x = x.contiguous()?;
        let products = {
            let weights = layers.iter().map(|layer| Floats::of(&layer.weight)).collect::<Result<Vec<_>>>()?;
            let weights: Vec<_> = weights.iter().zip(layers).map(|(weight, layer)| (&**weight, layer.output)).collect();
            narrow::forward(&Floats::of(&x)?, input, &weights)
        };
        let finish = |(layer, mut y): (&&Self, Vec<f32>)| {
            let Self { weight, bias, output, activation, .. } = *layer;
            let values = Floats::of(bias)?;
            parallel::rows(
                &mut y,
                *output,
                #[inline(always)]
                |_, row| add(row, &values),
            );
            let y = floats::tensor(y, (rows, *output))?;
            let (precision, input) = (context.precision.of_layer(input, *output), OnceLock::new());
            let op = Fused { groups: 1, activation: *activation, precision, wants_dx: false, input };
            let family = Some(Family { kind: "narrow", reads: x.id(), settings: [0; 2] });
            graph.record(&[&x, weight, bias], &y, AtInput { op, parted: None, family })?;
            Ok(y)
        };
        layers.iter().zip(products).map(finish).collect()
    }
}
