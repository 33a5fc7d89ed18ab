//! The forward pass of a model as a program, traced on batches that are made up.

use crate::comm::Comm;
use crate::comm::solo::Solo;
use crate::data::batch::Batch;
use crate::error::Result;
use crate::export::describe::{self, DENSE, POOLED};
use crate::model::{Input, InputSpec, Sequence};
use crate::nn::{Graph, Kernels, Program};
use crate::random;
use crate::train::context::{Kind, context};
use crate::train::step::Trainable;
use candle_core::{Device, Tensor};
use std::rc::Rc;
use std::sync::Arc;

/// The program of the model's logits.
///
/// # Errors
/// An operation without a description, or numbers that were computed outside of `nn`.
pub fn program(trainable: &Trainable) -> Result<Program> {
    // What depends on the batch shows in the difference of two that have no number in common, nor a length.
    let program = trace(trainable, 2, 1)?;
    program.same_as(&trace(trainable, 3, 2)?)?;
    Ok(program)
}

fn trace(trainable: &Trainable, rows: usize, seed: u64) -> Result<Program> {
    let input = made_up(&trainable.spec, rows, seed)?;
    let mut names = vec![(POOLED.to_string(), &input.pooled), (DENSE.to_string(), &input.dense)];
    for (spec, sequence) in trainable.spec.sequences.iter().zip(&input.sequences) {
        names.push((describe::sequence_input(&spec.name), &sequence.values));
        names.push((describe::mask_input(&spec.name), &sequence.mask));
    }
    let named: Vec<(&str, &Tensor)> = names.iter().map(|(name, tensor)| (name.as_str(), *tensor)).collect();
    let batch = Batch { rows, slots: (0..rows as u32).collect(), present: vec![true; rows], ..Batch::default() };
    let comm: Comm = Rc::new(Solo);
    let mut context = context(&comm, &batch, Kind::Infer(Kernels::Fused), trainable.seed, 0)?;
    context.graph = Graph::trace(&named, &trainable.store);
    let output = trainable.model.forward(&input, &context)?;
    context.graph.program(&output.logits.iter().collect::<Vec<_>>())
}

/// A scenario for each row, "other" among them, where there are scenarios.
fn scenarios(spec: &InputSpec, rows: usize, seed: u64) -> Arc<[u32]> {
    match spec.scenarios.len() as u64 {
        0 => [].into(),
        known => (0..rows as u64).map(|row| ((row + seed) % (known + 1)) as u32).collect(),
    }
}

/// A batch of numbers between −1 and 1.
fn made_up(spec: &InputSpec, rows: usize, seed: u64) -> Result<Input> {
    let tensor = |dims: &[usize], what: u64| -> Result<Tensor> {
        let count = dims.iter().product::<usize>() as u64;
        let values = (0..count).map(|i| 2.0 * random::unit(seed, &[what, i]) as f32 - 1.0).collect();
        Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
    };
    let width = spec.fields.iter().map(|field| field.width).sum();
    let sequence = |(s, what): (&crate::model::SequenceSpec, u64)| {
        Ok(Sequence {
            values: tensor(&[rows, s.max_len, s.dim], 2 * what)?,
            mask: tensor(&[rows, s.max_len], 2 * what + 1)?,
        })
    };
    Ok(Input {
        pooled: tensor(&[rows, width], 0)?,
        sequences: spec.sequences.iter().zip(1..).map(sequence).collect::<Result<_>>()?,
        dense: tensor(&[rows, spec.dense_width], 1)?,
        scenarios: scenarios(spec, rows, seed),
        repeats: [].into(),
        classes: [].into(),
    })
}
