//! `config.pbtxt` of a Triton Inference Server model repository.

use super::onnx::{Input, Output};
use std::fmt::Write;

/// Rows that Triton may put into one batch.
const MAX_BATCH: usize = 8192;

/// The configuration of the model `name`.
pub fn config(name: &str, inputs: &[Input], outputs: &[Output]) -> String {
    let mut text = format!("name: \"{name}\"\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: {MAX_BATCH}\n");
    let inputs: Vec<String> = inputs.iter().map(|input| tensor(&input.name, &input.dims, input.is_integer)).collect();
    let outputs = outputs.iter().flat_map(|output| {
        let one = |kind: &str| tensor(&format!("{kind}_{}", output.task), &[output.width], false);
        [one("pred"), one("logits")]
    });
    // Writing to a string cannot fail.
    let _ = write!(text, "input [\n{}\n]\n", inputs.join(",\n"));
    let _ = write!(text, "output [\n{}\n]\n", outputs.collect::<Vec<_>>().join(",\n"));
    text.push_str("dynamic_batching { }\n");
    text
}

/// The batch is not part of the shape. A number a row has the shape [1] for clients, and none for the model.
fn tensor(name: &str, dims: &[usize], is_integer: bool) -> String {
    let kind = if is_integer { "TYPE_INT64" } else { "TYPE_FP32" };
    let shape = match dims {
        [] => "dims: [ 1 ] reshape: { shape: [ ] }".to_string(),
        _ => format!("dims: [ {} ]", dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    format!("  {{ name: \"{name}\" data_type: {kind} {shape} }}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::onnx::Last;

    #[test]
    fn the_batch_is_left_out_and_scalars_are_reshaped() {
        let inputs = [
            Input { name: "pooled".into(), dims: vec![8], is_integer: false },
            Input { name: "scenario".into(), dims: vec![], is_integer: true },
        ];
        let text = config("shop", &inputs, &[Output { task: "buy".into(), width: 1, last: Last::Sigmoid }]);
        assert!(text.contains("{ name: \"pooled\" data_type: TYPE_FP32 dims: [ 8 ] },\n"), "{text}");
        assert!(text.contains("{ name: \"scenario\" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }\n]"));
        assert!(text.contains("{ name: \"pred_buy\" data_type: TYPE_FP32 dims: [ 1 ] },\n"), "{text}");
    }
}
