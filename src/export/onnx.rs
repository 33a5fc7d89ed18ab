//! A [`Program`] as an ONNX model.
//!
//! ```text
//! inputs     pooled, dense, sequence.<feature>, mask.<feature>, scenario        [batch, …]
//! nodes      the program's, without what no output needs
//! outputs    logits_<task> and pred_<task>                                      [batch, outputs]
//! ```
//!
//! The protobuf messages are those of `tract-onnx`, the reader that `tandem verify` uses: they come ready made, so that no
//! protobuf compiler is needed to build tandem.

use crate::nn::{Node, Primitive, Program, Source, Value};
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType,
    tensor_shape_proto, type_proto,
};

/// Version of ONNX's operators that models use.
pub const OPSET: i64 = 17;

/// Version of the file format that goes with it.
const IR_VERSION: i64 = 8;

/// Name of the batch's length.
const BATCH: &str = "batch";

/// Name of the input with the number of each row's scenario.
pub const SCENARIO: &str = "scenario";

/// An input of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its shape behind the batch.
    pub dims: Vec<usize>,
    /// Whether it is int64; else float32.
    pub is_integer: bool,
}

/// What is made of a task's logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Nothing.
    Identity,
    /// 1 / (1 + exp(−x)).
    Sigmoid,
    /// Softmax over the classes.
    Softmax,
}

/// A task's two outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Name of the task.
    pub task: String,
    /// Logits a row.
    pub width: usize,
    /// From the logits to the prediction.
    pub last: Last,
}

/// A graph while it is written.
#[derive(Default)]
pub(super) struct Writer {
    pub graph: GraphProto,
    made: usize,
}

/// The model in ONNX's binary format. `inputs` are those that the program may read: the ones that it does read are
/// inputs of the model, in this order. The program's outputs are the logits of `outputs`.
pub fn write(program: &Program, inputs: &[Input], outputs: &[Output], name: &str) -> Vec<u8> {
    let mut writer = Writer::new(name);
    for input in used(program, inputs) {
        writer.input(&input);
    }
    writer.program(program);
    writer.program_outputs(program, outputs);
    writer.model()
}

/// Those of `inputs` that the outputs of `program` depend on.
pub fn used(program: &Program, inputs: &[Input]) -> Vec<Input> {
    let needed = needed(program);
    let is_read = |input: &&Input| {
        program.sources().iter().zip(&needed).any(|(source, &needed)| {
            needed
                && match source {
                    Source::Input(name) => *name == input.name,
                    Source::Scenarios => input.name == SCENARIO,
                    _ => false,
                }
        })
    };
    inputs.iter().filter(is_read).cloned().collect()
}

/// Which values the outputs depend on.
fn needed(program: &Program) -> Vec<bool> {
    let mut needed = vec![false; program.sources().len()];
    program.outputs().iter().for_each(|value| needed[value.index()] = true);
    for node in program.nodes().iter().rev().filter(|node| !node.inputs.is_empty()) {
        if needed[node.output.index()] {
            node.inputs.iter().for_each(|value| needed[value.index()] = true);
        }
    }
    needed
}

fn name_of(program: &Program, value: Value) -> String {
    match &program.sources()[value.index()] {
        Source::Input(name) => name.clone(),
        Source::Scenarios => SCENARIO.to_string(),
        Source::Constant { name, .. } if !name.is_empty() => format!("parameter.{name}"),
        Source::Constant { .. } | Source::Computed => format!("v{}", value.index()),
    }
}

impl Writer {
    pub fn new(name: &str) -> Self {
        Self { graph: GraphProto { name: name.to_string(), ..GraphProto::default() }, made: 0 }
    }

    /// Declares an input.
    pub fn input(&mut self, input: &Input) {
        let kind = if input.is_integer { DataType::Int64 } else { DataType::Float };
        self.graph.input.push(value_info(&input.name, &input.dims, kind));
    }

    /// Declares an input `[batch, length]`, where no length is any.
    pub fn list_input(&mut self, name: &str, length: Option<usize>, is_integer: bool) {
        use tensor_shape_proto::dimension::Value::{DimParam, DimValue};
        let kind = if is_integer { DataType::Int64 } else { DataType::Float };
        let length = length.map_or_else(|| DimParam(format!("length.{name}")), |length| DimValue(length as i64));
        self.graph.input.push(shaped(name, vec![length], kind));
    }

    /// Declares the tasks' outputs and adds what makes predictions of the program's logits.
    pub fn program_outputs(&mut self, program: &Program, outputs: &[Output]) {
        let logits: Vec<String> = program.outputs().iter().map(|&value| name_of(program, value)).collect();
        for (logits, output) in logits.iter().zip(outputs) {
            let (raw, prediction) = (format!("logits_{}", output.task), format!("pred_{}", output.task));
            self.named_node("Identity", &[logits], &raw, Vec::new());
            match output.last {
                Last::Identity => self.named_node("Identity", &[logits], &prediction, Vec::new()),
                Last::Sigmoid => self.named_node("Sigmoid", &[logits], &prediction, Vec::new()),
                Last::Softmax => self.named_node("Softmax", &[logits], &prediction, vec![integer("axis", -1)]),
            }
            for name in [prediction, raw] {
                self.graph.output.push(value_info(&name, &[output.width], DataType::Float));
            }
        }
    }

    /// The whole model.
    pub fn model(self) -> Vec<u8> {
        let opset = OperatorSetIdProto { domain: String::new(), version: OPSET };
        let about = StringStringEntryProto { key: "tandem".into(), value: env!("CARGO_PKG_VERSION").into() };
        let model = ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![opset],
            producer_name: "tandem".to_string(),
            producer_version: env!("CARGO_PKG_VERSION").to_string(),
            metadata_props: vec![about],
            graph: Some(self.graph),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    /// The nodes and constants that the program's outputs need. Its inputs must be there under their names.
    pub fn program(&mut self, program: &Program) {
        let needed = needed(program);
        for (index, source) in program.sources().iter().enumerate() {
            if let (Source::Constant { name, dims, values }, true) = (source, needed[index]) {
                let name = if name.is_empty() { format!("v{index}") } else { format!("parameter.{name}") };
                self.floats(&name, dims, values);
            }
        }
        for node in program.nodes().iter().filter(|node| needed[node.output.index()]) {
            self.primitive(program, node);
        }
    }

    fn primitive(&mut self, program: &Program, node: &Node) {
        use Primitive as P;
        let names: Vec<String> = node.inputs.iter().map(|&value| name_of(program, value)).collect();
        let mut inputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let out = name_of(program, node.output);
        let mut plain = |kind: &str, attributes| self.named_node(kind, &inputs, &out, attributes);
        match &node.primitive {
            P::Add => plain("Add", Vec::new()),
            P::Sub => plain("Sub", Vec::new()),
            P::Mul => plain("Mul", Vec::new()),
            P::Div => plain("Div", Vec::new()),
            P::MatMul => plain("MatMul", Vec::new()),
            P::Exp => plain("Exp", Vec::new()),
            P::Ln => plain("Log", Vec::new()),
            P::Sqrt => plain("Sqrt", Vec::new()),
            P::Abs => plain("Abs", Vec::new()),
            P::Tanh => plain("Tanh", Vec::new()),
            P::Sigmoid => plain("Sigmoid", Vec::new()),
            P::Relu => plain("Relu", Vec::new()),
            P::LeakyRelu { slope } => plain("LeakyRelu", vec![float("alpha", *slope)]),
            P::Erf => plain("Erf", Vec::new()),
            P::Softmax => plain("Softmax", vec![integer("axis", -1)]),
            P::Mean { axis } => {
                plain("ReduceMean", vec![integers("axes", &[*axis as i64]), integer("keepdims", 1)]);
            }
            P::Transpose(axes) => {
                let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
                plain("Transpose", vec![integers("perm", &axes)]);
            }
            P::Concat { axis } => plain("Concat", vec![integer("axis", *axis as i64)]),
            P::Gather => plain("Gather", vec![integer("axis", 0)]),
            P::NotZero => {
                let zero = self.constant_floats(&[], &[0.0]);
                let is_zero = self.node("Equal", &[inputs[0], &zero], Vec::new());
                let is_not = self.node("Not", &[&is_zero], Vec::new());
                self.named_node("Cast", &[&is_not], &out, vec![integer("to", DataType::Float as i64)]);
            }
            P::Sum { axis } => {
                let axes = self.constant_integers(&[*axis as i64]);
                inputs.push(&axes);
                self.named_node("ReduceSum", &inputs, &out, vec![integer("keepdims", 1)]);
            }
            P::Reshape(dims) => {
                let dims = self.constant_integers(dims);
                inputs.push(&dims);
                self.named_node("Reshape", &inputs, &out, Vec::new());
            }
            P::Slice { axis, start, end } => {
                let bounds = [*start, *end, *axis].map(|bound| self.constant_integers(&[bound as i64]));
                inputs.extend(bounds.iter().map(String::as_str));
                self.named_node("Slice", &inputs, &out, Vec::new());
            }
        }
    }

    /// Adds a node whose output has a name of its own; returns that name.
    pub fn node(&mut self, kind: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.fresh();
        self.named_node(kind, inputs, &output, attributes);
        output
    }

    /// Adds a node with an output of this name.
    pub fn named_node(&mut self, kind: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            name: format!("{kind}_{output}"),
            op_type: kind.to_string(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.to_string()],
            attribute: attributes,
            ..NodeProto::default()
        });
    }

    /// Adds a constant without a name of its own.
    pub fn constant_floats(&mut self, dims: &[usize], values: &[f32]) -> String {
        let name = self.fresh();
        self.floats(&name, dims, values);
        name
    }

    /// Adds a list of integers.
    pub fn constant_integers(&mut self, values: &[i64]) -> String {
        let name = self.fresh();
        self.integers(&name, &[values.len()], values);
        name
    }

    /// Adds a float32 constant.
    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, dims, DataType::Float, bytes);
    }

    /// Adds an int64 constant.
    pub fn integers(&mut self, name: &str, dims: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, dims, DataType::Int64, bytes);
    }

    fn tensor(&mut self, name: &str, dims: &[usize], kind: DataType, raw_data: Vec<u8>) {
        self.graph.initializer.push(TensorProto {
            name: name.to_string(),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: kind as i32,
            raw_data,
            ..TensorProto::default()
        });
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("t{}", self.made)
    }
}

/// A float attribute.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: value, ..attribute(name, AttributeType::Float) }
}

/// An integer attribute.
pub(super) fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: value, ..attribute(name, AttributeType::Int) }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_string(), r#type: kind as i32, ..AttributeProto::default() }
}

/// `[batch, dims…]`.
fn value_info(name: &str, dims: &[usize], kind: DataType) -> ValueInfoProto {
    let dims = dims.iter().map(|&length| tensor_shape_proto::dimension::Value::DimValue(length as i64));
    shaped(name, dims.collect(), kind)
}

/// The same with lengths that may be free.
fn shaped(name: &str, dims: Vec<tensor_shape_proto::dimension::Value>, kind: DataType) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = |value| Dimension { value: Some(value), ..Dimension::default() };
    let batch = dim(dimension::Value::DimParam(BATCH.to_string()));
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(dims.into_iter().map(dim)).collect() };
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(shape) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_string(), r#type: Some(kind), ..ValueInfoProto::default() }
}
