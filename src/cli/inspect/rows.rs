//! `tandem inspect --rows`: what the tables of a checkpoint hold.

use crate::checkpoint::{Manifest, read_tables};
use crate::error::Result;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;
use std::path::Path;

/// One table.
#[derive(Debug, Default, Serialize)]
pub struct TableRows {
    name: String,
    rows: u64,
    /// Of values, optimizer state and ids.
    bytes: u64,
    /// Of the rows' values: mean and largest Euclidean norm.
    mean_norm: f64,
    max_norm: f64,
    /// Rows whose last training row was in the last tenth of the steps.
    recent: u64,
    /// The ids with the most training rows, and these.
    hottest: Vec<(u64, u32)>,
}

/// Reads all tables, one of the checkpoint's files at a time.
pub fn read(path: &Path, manifest: &Manifest, top: usize) -> Result<Vec<TableRows>> {
    let mut found: Vec<TableRows> =
        manifest.tables.iter().map(|table| TableRows { name: table.name.clone(), ..TableRows::default() }).collect();
    let mut hottest: Vec<BinaryHeap<(Reverse<u32>, u64)>> = vec![BinaryHeap::new(); found.len()];
    let recent = manifest.step - manifest.step / 10;
    read_tables(path, manifest, 0..manifest.buckets, |index, rows| {
        let (table, dim) = (&mut found[index], manifest.tables[index].dim);
        table.rows += rows.ids.len() as u64;
        table.bytes += (8 * rows.ids.len() + 4 * (rows.values.len() + rows.state.len())) as u64;
        table.recent += rows.last_steps.iter().filter(|&&step| u64::from(step) >= recent).count() as u64;
        for values in rows.values.chunks(dim.max(1)) {
            let norm = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            table.mean_norm += norm;
            table.max_norm = table.max_norm.max(norm);
        }
        for (&id, &count) in rows.ids.iter().zip(&rows.counts) {
            hottest[index].push((Reverse(count), id));
            if hottest[index].len() > top {
                hottest[index].pop();
            }
        }
        Ok(())
    })?;
    for (table, hottest) in found.iter_mut().zip(hottest) {
        table.mean_norm /= table.rows.max(1) as f64;
        table.hottest = hottest.into_sorted_vec().into_iter().map(|(Reverse(count), id)| (id, count)).collect();
    }
    Ok(found)
}

/// As lines.
pub fn text(tables: &[TableRows]) -> String {
    let mut text = String::new();
    for table in tables {
        let TableRows { name, rows, bytes, mean_norm, max_norm, recent, hottest } = table;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\ntable {name}: {rows} rows, {:.1} MiB; norms {mean_norm:.4} in the mean, {max_norm:.4} at most; \
             {recent} rows trained in the last tenth of the steps",
            *bytes as f64 / 1048576.0
        );
        if !hottest.is_empty() {
            let _ = writeln!(text, "{:>20}  training rows", "id");
        }
        for (id, count) in hottest {
            let _ = writeln!(text, "{id:>20}  {count}");
        }
    }
    text
}
