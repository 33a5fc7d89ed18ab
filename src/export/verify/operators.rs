//! What an ONNX model may contain before it is handed to the library that runs it: the operators that `tandem export` writes, all
//! of them plain arithmetic, and nothing that names another file.

use tract_onnx::pb::{ModelProto, TensorProto, tensor_proto::DataLocation};

/// Operators that `tandem export` writes.
const OPERATORS: [&str; 31] = [
    "Abs",
    "Add",
    "And",
    "Cast",
    "Concat",
    "Div",
    "Equal",
    "Erf",
    "Exp",
    "Gather",
    "Identity",
    "LeakyRelu",
    "LessOrEqual",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mul",
    "Not",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Sqrt",
    "Sub",
    "Tanh",
    "Transpose",
    "Where",
];

/// What is wrong with it, if anything.
pub fn check(model: &ModelProto) -> Result<(), String> {
    let Some(graph) = &model.graph else { return Err("it has no graph".to_string()) };
    if !model.functions.is_empty() || !graph.sparse_initializer.is_empty() {
        return Err("it has functions or sparse tensors, which `tandem export` never writes".to_string());
    }
    for node in &graph.node {
        if !node.domain.is_empty() || !OPERATORS.contains(&node.op_type.as_str()) {
            return Err(format!("it has the operator `{}`, which `tandem export` never writes", node.op_type));
        }
        if node.attribute.iter().any(|attribute| attribute.g.is_some() || attribute.t.is_some()) {
            return Err(format!("the operator `{}` holds a graph or a tensor", node.op_type));
        }
    }
    graph.initializer.iter().try_for_each(check_tensor)
}

fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    if !tensor.external_data.is_empty() || tensor.data_location.is_some_and(|at| at == DataLocation::External as i32) {
        return Err(format!("the tensor `{}` is in another file", tensor.name));
    }
    Ok(())
}
