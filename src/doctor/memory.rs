//! Memory of each rank: its share of the tables and the dense part. Batches and what readers hold come on top.

use super::report::{Finding, error, note, warning};
use super::{Patient, amount};
use crate::embedding::available_bytes;

const NAME: &str = "memory";

/// Left for batches, readers, activations and the system.
const RESERVE: f64 = 0.25;

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    let (ranks, here) = (patient.options.ranks as u64, patient.options.ranks_per_node as u64);
    let tables = |rows: fn(&super::TableIds) -> u64| -> u64 {
        patient.tables.iter().map(|table| rows(table).saturating_mul(table.row_bytes as u64) / ranks).sum()
    };
    // Each virtual rank has a dense part of its own.
    let all = patient.job.reproducible.virtual_ranks().unwrap_or(patient.options.ranks);
    let dense = patient.sizes.dense_bytes(all) * (all as u64).div_ceil(ranks);
    let (low, high) = (tables(|table| table.low), tables(|table| table.high));
    let range = if low == high { amount(high) } else { format!("{} to {}", amount(low), amount(high)) };
    let what = format!("each of {ranks} ranks: {range} of tables, {} of dense parameters and gradients", amount(dense));
    let mut found = vec![note(NAME, what)];
    let budget = match patient.job.memory_limit {
        Some(limit) => (limit.0, "`memory_limit` is".to_string()),
        None => {
            let left = (available_bytes() as f64 * (1.0 - RESERVE)) as u64 / here;
            (left, format!("with {here} ranks on a machine like this one a rank has"))
        }
    };
    let needed = |tables: u64| if patient.job.memory_limit.is_some() { tables } else { tables + dense };
    let fix = "start more ranks on more machines, set `tables.<name>.eviction.max_rows` or `admission.min_count`, or \
               use smaller dims (--ranks and --ranks-per-node say what is planned)";
    let over = |needed: u64| format!("a rank needs {}, and {} {}", amount(needed), budget.1, amount(budget.0));
    if needed(low) > budget.0 {
        found.push(error(NAME, over(needed(low))).fix(fix));
    } else if needed(high) > budget.0 {
        found.push(warning(NAME, format!("{} if ids go on as in the sample", over(needed(high)))).fix(fix));
    }
    found
}
