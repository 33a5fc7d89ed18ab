//! A model with the embedding tables inside: ids go in, predictions come out.
//!
//! ```text
//! ids.<feature>      [batch, L] int64      a row's ids, filled up with anything
//! mask.<feature>     [batch, L] float32    1 where there is an id, else 0
//!      │
//!      ▼ binary search among the table's sorted ids, 2^k, …, 2, 1: plain operators, so that every runtime has them
//! place of each id, or that of a row of zeros ──Gather──► vectors ──sum, mean──► pooled, sequence.<feature>, …
//! ```

use super::describe::{DENSE, POOLED, mask_input};
use super::onnx::{self, Input, Output, Writer, integer, used};
use super::schema::{BundleSchema, GraphInput, Pooling};
use crate::error::{Error, Result};
use crate::nn::Program;
use std::collections::BTreeMap;

/// A protobuf message ends at 2 GiB, and the dense part needs its share.
const LIMIT_BYTES: u64 = 1_800_000_000;

/// Name of the file in a bundle.
pub const FILE: &str = "self_contained.onnx";

/// The rows of one table, in memory.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// N ids.
    pub ids: Vec<u64>,
    /// N · dim numbers.
    pub vectors: Vec<f32>,
}

/// An error unless tables with these numbers of rows and floats fit into one file.
pub fn check_size(tables: impl Iterator<Item = (u64, usize)>) -> Result<()> {
    let bytes: u64 = tables.map(|(rows, dim)| rows * (8 + 4 * dim as u64)).sum();
    if bytes <= LIMIT_BYTES {
        return Ok(());
    }
    Err(Error::job(format!("the tables have {bytes} bytes; a self-contained model holds at most {LIMIT_BYTES}"))
        .at("option", "--self-contained")
        .fix("leave it out, and look the vectors up in a store: docs/serving.md"))
}

/// The model, and its inputs as the schema lists them. `inputs` are all that the program may read.
pub fn write(
    program: &Program,
    inputs: &[Input],
    outputs: &[Output],
    schema: &BundleSchema,
    rows: &BTreeMap<String, Rows>,
) -> Result<(Vec<u8>, Vec<GraphInput>)> {
    let mut graph = Graph { writer: Writer::new(&schema.job), listed: Vec::new(), looked_up: BTreeMap::new() };
    for table in &schema.tables {
        let rows = rows.get(&table.name).ok_or_else(|| Error::internal(format!("no rows of `{}`", table.name)))?;
        graph.table(&table.name, table.dim, rows);
    }
    for feature in &schema.ids {
        let length = schema.sequences.iter().find(|s| s.feature == feature.name).map(|s| s.max_len);
        let is_read = length.is_some() || schema.pooled.iter().any(|part| part.feature == feature.name);
        if is_read {
            let table = schema.tables.iter().find(|table| table.name == feature.table);
            let rows = table.map_or(0, |table| table.rows) as usize;
            graph.look_up(&feature.name, &feature.table, rows, length);
        }
    }
    graph.pooled(schema)?;
    graph.sequences(schema)?;
    for input in used(program, inputs).iter().filter(|input| input.name == DENSE || input.name == onnx::SCENARIO) {
        graph.writer.input(input);
        graph.listed.extend(super::describe::graph_inputs(std::slice::from_ref(input)));
    }
    graph.writer.program(program);
    graph.writer.program_outputs(program, outputs);
    Ok((graph.writer.model(), graph.listed))
}

struct Graph {
    writer: Writer,
    listed: Vec<GraphInput>,
    looked_up: BTreeMap<String, LookedUp>,
}

/// Names of what a feature's ids became.
struct LookedUp {
    /// `[batch, L, dim]`, zeros where there is no id.
    vectors: String,
    /// `[batch, 1]`: how many ids there are.
    count: String,
}

impl Graph {
    /// Adds a table's ids, sorted as signed integers, and its vectors with a row of zeros behind them.
    fn table(&mut self, name: &str, dim: usize, rows: &Rows) {
        let mut order: Vec<usize> = (0..rows.ids.len()).collect();
        order.sort_unstable_by_key(|&row| rows.ids[row] as i64);
        let mut keys: Vec<i64> = order.iter().map(|&row| rows.ids[row] as i64).collect();
        let mut vectors: Vec<f32> = order.iter().flat_map(|&row| &rows.vectors[row * dim..][..dim]).copied().collect();
        vectors.resize(vectors.len() + dim, 0.0);
        if keys.is_empty() {
            // A search needs something to look at; its row is the one of zeros.
            keys.push(0);
        }
        self.writer.integers(&keys_of(name), &[keys.len()], &keys);
        let stored = vectors.len() / dim.max(1);
        self.writer.floats(&vectors_of(name), &[stored, dim], &vectors);
    }

    /// Adds the inputs of a feature and what looks its ids up among `rows` rows.
    fn look_up(&mut self, feature: &str, table: &str, rows: usize, length: Option<usize>) {
        let (ids, mask) = (format!("ids.{feature}"), mask_input(feature));
        for (name, dtype) in [(&ids, "int64"), (&mask, "float32")] {
            self.writer.list_input(name, length, dtype == "int64");
            let dims = vec![length.map_or(-1, |length| length as i64)];
            self.listed.push(GraphInput { name: name.clone(), dims, dtype: dtype.to_string() });
        }

        let writer = &mut self.writer;
        let keys = keys_of(table);
        let place = search(writer, &keys, rows.max(1), &ids);
        let key = writer.node("Gather", &[&keys, &place], vec![integer("axis", 0)]);
        let is_known = writer.node("Equal", &[&key, &ids], Vec::new());
        let nothing = writer.constant_floats(&[], &[0.0]);
        let is_absent = writer.node("Equal", &[&mask, &nothing], Vec::new());
        let is_there = writer.node("Not", &[&is_absent], Vec::new());
        let is_found = writer.node("And", &[&is_known, &is_there], Vec::new());
        let zeros = writer.constant_integers(&[rows as i64]);
        let row = writer.node("Where", &[&is_found, &place, &zeros], Vec::new());
        let vectors = writer.node("Gather", &[&vectors_of(table), &row], vec![integer("axis", 0)]);
        let axis = writer.constant_integers(&[1]);
        let count = writer.node("ReduceSum", &[&mask, &axis], vec![integer("keepdims", 1)]);
        self.looked_up.insert(feature.to_string(), LookedUp { vectors, count });
    }

    fn of(&self, feature: &str) -> Result<&LookedUp> {
        self.looked_up.get(feature).ok_or_else(|| Error::internal(format!("`{feature}` was not looked up")))
    }

    fn pooled(&mut self, schema: &BundleSchema) -> Result<()> {
        let mut parts = Vec::new();
        for part in &schema.pooled {
            let LookedUp { vectors, count } = self.of(&part.feature)?;
            let (vectors, count) = (vectors.clone(), count.clone());
            let writer = &mut self.writer;
            let axis = writer.constant_integers(&[1]);
            let sum = writer.node("ReduceSum", &[&vectors, &axis], vec![integer("keepdims", 0)]);
            parts.push(match part.pooling {
                Pooling::Sum => sum,
                Pooling::Mean => {
                    let one = writer.constant_floats(&[], &[1.0]);
                    let count = writer.node("Max", &[&count, &one], Vec::new());
                    writer.node("Div", &[&sum, &count], Vec::new())
                }
            });
        }
        if !parts.is_empty() {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            self.writer.named_node("Concat", &parts, POOLED, vec![integer("axis", 1)]);
        }
        Ok(())
    }

    fn sequences(&mut self, schema: &BundleSchema) -> Result<()> {
        for sequence in &schema.sequences {
            // Its mask is an input already, of the name that the program reads.
            let vectors = self.of(&sequence.feature)?.vectors.clone();
            self.writer.named_node("Identity", &[&vectors], &sequence.values, Vec::new());
        }
        Ok(())
    }
}

fn keys_of(table: &str) -> String {
    format!("table.{table}.ids")
}

fn vectors_of(table: &str) -> String {
    format!("table.{table}.vectors")
}

/// The place of the last of `n` sorted keys that is not above each id; 0 where all are.
fn search(writer: &mut Writer, keys: &str, n: usize, ids: &str) -> String {
    let (zero, one) = (writer.constant_integers(&[0]), writer.constant_integers(&[1]));
    let (last, count) = (writer.constant_integers(&[n as i64 - 1]), writer.constant_integers(&[n as i64]));
    // How many keys are not above the id, found bit by bit.
    let mut below = writer.node("Mul", &[ids, &zero], Vec::new());
    for bit in (0..=n.ilog2()).rev() {
        let step = writer.constant_integers(&[1 << bit]);
        let more = writer.node("Add", &[&below, &step], Vec::new());
        let place = writer.node("Sub", &[&more, &one], Vec::new());
        let place = writer.node("Min", &[&place, &last], Vec::new());
        let key = writer.node("Gather", &[keys, &place], vec![integer("axis", 0)]);
        let is_below = writer.node("LessOrEqual", &[&key, ids], Vec::new());
        let is_key = writer.node("LessOrEqual", &[&more, &count], Vec::new());
        let moves = writer.node("And", &[&is_below, &is_key], Vec::new());
        below = writer.node("Where", &[&moves, &more, &below], Vec::new());
    }
    let place = writer.node("Sub", &[&below, &one], Vec::new());
    writer.node("Max", &[&place, &zero], Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        check_size([(1_000_000, 64)].into_iter()).unwrap();
        let error = check_size([(1_000_000, 64), (30_000_000, 32)].into_iter()).unwrap_err().to_string();
        assert!(error.contains("--self-contained"), "{error}");
    }
}
