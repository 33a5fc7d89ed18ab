//! The way back along the tape.

use super::super::floats;
use super::super::input_gradient::Part;
use super::super::mix::add as add_numbers;
use super::super::parallel;
use super::super::seed::check_shape;
use super::{Node, Operation, Pass, Reached, Tape};
use crate::error::Result;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

impl Tape {
    pub(super) fn tracks(&self, x: &Tensor) -> bool {
        x.is_variable() || self.outputs.contains(&x.id())
    }

    pub(super) fn record(&mut self, inputs: &[&Tensor], output: &Tensor, op: Box<dyn Operation>) {
        if inputs.iter().any(|x| self.tracks(x)) {
            self.outputs.insert(output.id());
            let inputs = inputs.iter().map(|&x| x.clone()).collect();
            self.nodes.push(Node { inputs, output: output.clone(), op });
        }
    }

    /// Through those nodes that `goes` names by their number. Gradients that arrive at another node's output are left
    /// there.
    pub(super) fn backward(
        &self,
        mut pass: Pass,
        outputs: &[(&Tensor, Tensor)],
        goes: impl Fn(usize) -> bool,
    ) -> Result<Pass> {
        for (output, gradient) in outputs {
            check_shape(output, gradient)?;
            add(&mut pass.grads, output, gradient.clone())?;
        }
        let mut rest = self.nodes.len();
        while let Some(last) = rest.checked_sub(1) {
            let first = self.family_of(last);
            rest = first;
            let nodes = (first..=last).rev().filter(|&index| goes(index)).map(|index| &self.nodes[index]);
            let reached = nodes.filter_map(|node| Some((node, pass.grads.remove(&node.output)?))).collect::<Vec<_>>();
            self.pull_back(reached, &mut pass)?;
        }
        if let Some(dx) = self.input.as_ref().and_then(|input| pass.grads.remove(&input.leaf)) {
            pass.at_input.push(Part::Whole(dx));
        }
        Ok(pass)
    }

    /// The first of the nodes up to `last` that can be pulled back with it: of one family, none reading another's output.
    fn family_of(&self, last: usize) -> usize {
        let Some(family) = self.nodes[last].op.family() else { return last };
        let mut first = last;
        while let Some(before) = first.checked_sub(1) {
            let node = &self.nodes[before];
            let reads = |later: &Node| later.inputs.iter().any(|x| x.id() == node.output.id());
            if node.op.family() != Some(family) || self.nodes[first..=last].iter().any(reads) {
                break;
            }
            first = before;
        }
        first
    }

    /// Through the nodes of one family, or one node.
    fn pull_back(&self, reached: Vec<(&Node, Tensor)>, pass: &mut Pass) -> Result<()> {
        let gradients = match reached.as_slice() {
            [] => return Ok(()),
            [(node, dy)] => vec![node.op.backward(&node.inputs, &node.output, dy, pass)?],
            [(first, _), ..] => {
                let family: Vec<_> = reached
                    .iter()
                    .map(|(node, dy)| Reached { inputs: &node.inputs, output: &node.output, dy: dy.clone() })
                    .collect();
                first.op.backward_together(&family, pass)?
            }
        };
        for ((node, _), gradients) in reached.iter().zip(gradients) {
            for (x, dx) in node.inputs.iter().zip(gradients) {
                match dx {
                    Some(dx) if self.tracks(x) => add(&mut pass.grads, x, dx)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Adds `gradient` to that of `x`.
fn add(grads: &mut GradStore, x: &Tensor, gradient: Tensor) -> Result<()> {
    match grads.get(x) {
        Some(sum) => Ok(sum.inplace_op2(&gradient.contiguous()?, &AddAssign)?),
        None => {
            grads.insert(x, gradient);
            Ok(())
        }
    }
}

struct AddAssign;

impl InplaceOp2 for AddAssign {
    fn name(&self) -> &'static str {
        "add-assign"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<()> {
        /// Numbers added at a time.
        const CHUNK: usize = 1024;
        let x = floats::slice(x, x_layout)?;
        parallel::rows(
            floats::slice_mut(sum, sum_layout)?,
            CHUNK,
            #[inline(always)]
            |chunk, sum| {
                add_numbers(sum, &x[chunk * CHUNK..]);
            },
        );
        Ok(())
    }
}
