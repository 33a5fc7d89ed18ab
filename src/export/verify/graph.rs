//! The ONNX model, run by tract.

use super::operators;
use super::rows::Ids;
use crate::error::{Error, Result};
use crate::export::schema::GraphInput;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tract_onnx::prelude::{
    Datum, Framework, InferenceFact, InferenceModelExt, IntoRunnable, TValue, TVec, Tensor, TractError, TractResult,
    TypedModel, TypedRunnableModel, tvec,
};

/// A model that is ready to score a batch of one length.
pub struct Model<'a> {
    path: PathBuf,
    model: Arc<TypedRunnableModel>,
    inputs: &'a [GraphInput],
    ids: &'a BTreeMap<&'a str, Ids>,
    rows: usize,
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::checkpoint(format!("the model cannot be run: {error:#}")).at("file", path.display())
}

impl<'a> Model<'a> {
    /// Reads a model for batches of `rows` rows. Inputs that are called `ids.<feature>` or `mask.<feature>` are made of
    /// the feature's `ids`.
    pub fn read(path: &Path, inputs: &'a [GraphInput], ids: &'a BTreeMap<&'a str, Ids>, rows: usize) -> Result<Self> {
        let build = || {
            let proto = tract_onnx::onnx().proto_model_for_path(path)?;
            operators::check(&proto).map_err(TractError::msg)?;
            let mut model = tract_onnx::onnx().model_for_proto_model(&proto)?;
            for (index, input) in inputs.iter().enumerate() {
                let kind = if input.dtype == "int64" { i64::datum_type() } else { f32::datum_type() };
                model.set_input_fact(index, InferenceFact::dt_shape(kind, shape(input, ids, rows)))?;
            }
            let model = model.into_typed()?;
            check_sizes(&model)?;
            model.into_runnable()
        };
        let model = build().map_err(|e: TractError| failed(path, format!("{e:#}")))?;
        Ok(Self { path: path.to_path_buf(), model, inputs, ids, rows })
    }

    /// The outputs in order. `numbers` gives an input that is not made of ids.
    pub fn run(&self, numbers: impl Fn(&GraphInput) -> Result<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        let mut tensors: TVec<TValue> = tvec!();
        for input in self.inputs {
            let shape = shape(input, self.ids, self.rows);
            let tensor = match input.name.split_once('.') {
                Some(("ids", feature)) => Tensor::from_shape(&shape, &self.ids_of(feature)?.padded(shape[1])),
                Some(("mask", feature)) => Tensor::from_shape(&shape, &self.ids_of(feature)?.mask(shape[1])),
                _ if input.dtype == "int64" => {
                    let integers: Vec<i64> = numbers(input)?.iter().map(|&value| value as i64).collect();
                    Tensor::from_shape(&shape, &integers)
                }
                _ => Tensor::from_shape(&shape, &numbers(input)?),
            };
            tensors.push(tensor.map_err(|e| failed(&self.path, e))?.into());
        }
        let outputs = self.model.run(tensors).map_err(|e| failed(&self.path, format!("{e:#}")))?;
        let floats = |tensor: &Tensor| -> Result<Vec<f32>> {
            let plain = tensor.try_as_plain_ram().map_err(|e| failed(&self.path, e))?;
            Ok(plain.as_slice::<f32>().map_err(|e| failed(&self.path, e))?.to_vec())
        };
        outputs.iter().map(|output| floats(output)).collect()
    }

    fn ids_of(&self, feature: &str) -> Result<&Ids> {
        self.ids.get(feature).ok_or_else(|| failed(&self.path, format!("no ids of `{feature}`")))
    }
}

/// No value of the model may be larger than [`BYTES_LIMIT`]: two short tensors can be broadcast to any size.
fn check_sizes(model: &TypedModel) -> TractResult<()> {
    for fact in model.nodes.iter().flat_map(|node| &node.outputs).map(|output| &output.fact) {
        let size =
            fact.shape.as_concrete().map_or(0, |dims| dims.iter().fold(1usize, |size, &n| size.saturating_mul(n)));
        if size.saturating_mul(fact.datum_type.size_of()) > BYTES_LIMIT {
            return Err(TractError::msg(format!("it computes a tensor of {size} numbers")));
        }
    }
    Ok(())
}

/// Of one value: 1 GiB.
const BYTES_LIMIT: usize = 1 << 30;

/// The shape of an input for `rows` rows. A length that is free is that of the longest row.
fn shape(input: &GraphInput, ids: &BTreeMap<&str, Ids>, rows: usize) -> Vec<usize> {
    let longest = || input.name.split_once('.').and_then(|(_, feature)| ids.get(feature)).map_or(1, Ids::longest);
    let length = |&dim: &i64| usize::try_from(dim).unwrap_or_else(|_| longest());
    std::iter::once(rows).chain(input.dims.iter().map(length)).collect()
}
