//! What a schema must satisfy before anything is laid out by its numbers: it may have come from anywhere.

use crate::export::schema::{BundleSchema, GraphInput};
use std::collections::BTreeMap;

/// The widest row, in numbers: of a table, of an input, of a sequence.
const WIDTH_LIMIT: usize = 1 << 20;

/// Numbers of one input over all golden rows: 1 GiB of them.
const NUMBERS_LIMIT: usize = 1 << 28;

/// What is wrong with it, if anything.
pub fn check(schema: &BundleSchema) -> Result<(), String> {
    let width = |what: &str, width: usize| match width {
        1..=WIDTH_LIMIT => Ok(()),
        _ => Err(format!("{what} is {width} numbers wide")),
    };
    let mut dims = BTreeMap::new();
    for table in &schema.tables {
        width(&format!("table `{}`", table.name), table.dim)?;
        dims.insert(table.name.as_str(), table.dim);
    }
    let dim_of = |name: &str| {
        let feature = schema.ids.iter().find(|feature| feature.name == name);
        feature.and_then(|feature| dims.get(feature.table.as_str()).copied()).ok_or(format!("`{name}` has no table"))
    };
    let mut start = 0;
    for part in &schema.pooled {
        if part.start != start || part.width != dim_of(&part.feature)? {
            return Err(format!("`{}` stands in another place of the pooled rows", part.feature));
        }
        start += part.width;
        width("the pooled row", start)?;
    }
    for sequence in &schema.sequences {
        if sequence.dim != dim_of(&sequence.feature)? {
            return Err(format!("sequence `{}` has other rows than its table", sequence.feature));
        }
        width(&format!("sequence `{}`", sequence.feature), sequence.max_len.saturating_mul(sequence.dim))?;
    }
    let mut start = 0;
    for feature in &schema.dense {
        width(&format!("`{}`", feature.name), feature.width)?;
        if feature.start != start {
            return Err(format!("`{}` stands in another place of the dense row", feature.name));
        }
        start += feature.width;
        width("the dense row", start)?;
    }
    let self_contained = schema.onnx.self_contained.iter().flat_map(|model| &model.inputs);
    schema.onnx.inputs.iter().chain(self_contained).try_for_each(check_input)
}

fn check_input(input: &GraphInput) -> Result<(), String> {
    let dims = input.dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(1));
    let size = dims.fold(1usize, usize::saturating_mul);
    let of_ids = input.name.starts_with("ids.") || input.name.starts_with("mask.");
    if size > WIDTH_LIMIT || (of_ids && input.dims.is_empty()) {
        return Err(format!("the input `{}` has shape {:?}", input.name, input.dims));
    }
    Ok(())
}

/// The same for as many golden rows.
pub fn check_rows(schema: &BundleSchema, rows: usize) -> Result<(), String> {
    let pooled = schema.pooled.iter().map(|part| part.width).sum::<usize>();
    let dense = schema.dense.iter().map(|feature| feature.width).sum::<usize>();
    let sequences = schema.sequences.iter().map(|sequence| sequence.max_len * sequence.dim);
    let widest = sequences.chain([pooled, dense]).max().unwrap_or(0);
    match rows.saturating_mul(widest) <= NUMBERS_LIMIT {
        true => Ok(()),
        false => Err(format!("{rows} golden rows of {widest} numbers are too many")),
    }
}
