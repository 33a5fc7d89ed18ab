//! `tandem inspect --diff`: what another checkpoint has that this one has not.

use crate::checkpoint::{Manifest, read_dense, read_tables};
use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

/// From one checkpoint to another.
#[derive(Debug, Serialize)]
pub struct Diff {
    /// Steps of both.
    steps: [u64; 2],
    /// Whether both were trained on the same rows.
    same_data: bool,
    /// Parameters that both have: ‖b − a‖ / ‖a‖, the most changed first.
    parameters: Vec<(String, f64)>,
    /// Parameters and tables that one alone has, or that have another shape.
    only: [Vec<String>; 2],
    /// Tables that both have.
    tables: Vec<TableDiff>,
}

/// One table.
#[derive(Debug, Default, Serialize)]
struct TableDiff {
    name: String,
    /// Rows of the second alone, of the first alone, and of both.
    added: u64,
    removed: u64,
    kept: u64,
    /// Rows of both that differ in a bit.
    changed: u64,
    /// Mean of ‖b − a‖ over the rows of both.
    mean_distance: f64,
}

/// Compares two checkpoints, of which it holds one file's buckets at a time.
///
/// # Errors
/// Checkpoints of different numbers of buckets, and what cannot be read.
pub fn diff(a: (&Path, &Manifest), b: (&Path, &Manifest)) -> Result<Diff> {
    if a.1.buckets != b.1.buckets {
        return Err(Error::job(format!("the checkpoints have {} and {} buckets", a.1.buckets, b.1.buckets))
            .fix("compare checkpoints of jobs with the same `checkpoint.buckets`"));
    }
    let shapes = |manifest: &Manifest| -> HashMap<String, Vec<usize>> {
        let parameters = manifest.parameters.iter().map(|p| (format!("parameter {}", p.name), p.shape.clone()));
        parameters.chain(manifest.tables.iter().map(|t| (format!("table {}", t.name), vec![t.dim]))).collect()
    };
    let (of_a, of_b) = (shapes(a.1), shapes(b.1));
    let missing = |from: &HashMap<String, Vec<usize>>, other: &HashMap<String, Vec<usize>>| {
        let mut names: Vec<String> =
            from.iter().filter(|(name, shape)| other.get(*name) != Some(shape)).map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    };
    let only = [missing(&of_a, &of_b), missing(&of_b, &of_a)];
    Ok(Diff {
        steps: [a.1.step, b.1.step],
        same_data: a.1.data == b.1.data,
        parameters: parameters(a, b, &only[0])?,
        tables: tables(a, b, &only[0])?,
        only,
    })
}

fn parameters(a: (&Path, &Manifest), b: (&Path, &Manifest), left_out: &[String]) -> Result<Vec<(String, f64)>> {
    let mut first: HashMap<String, Vec<f32>> = HashMap::new();
    read_dense(a.0, a.1, |name, values| drop(first.insert(name.to_string(), values)))?;
    let mut changes = Vec::new();
    read_dense(b.0, b.1, |name, values| {
        if let Some(before) = first.get(name).filter(|_| !left_out.contains(&format!("parameter {name}"))) {
            changes.push((name.to_string(), distance(before, &values) / norm(before).max(f64::MIN_POSITIVE)));
        }
    })?;
    changes.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(changes)
}

fn tables(a: (&Path, &Manifest), b: (&Path, &Manifest), left_out: &[String]) -> Result<Vec<TableDiff>> {
    let common: Vec<&str> = a.1.tables.iter().map(|table| table.name.as_str()).collect();
    let common = common.into_iter().filter(|name| !left_out.contains(&format!("table {name}")));
    let mut diffs: Vec<TableDiff> =
        common.map(|name| TableDiff { name: name.to_string(), ..TableDiff::default() }).collect();
    for (first, last) in a.1.files.iter().filter_map(|file| file.buckets) {
        let mut before: HashMap<(usize, u64), Vec<f32>> = HashMap::new();
        let of = |manifest: &Manifest, index: usize, diffs: &[TableDiff]| {
            diffs.iter().position(|diff| diff.name == manifest.tables[index].name)
        };
        read_tables(a.0, a.1, first..last + 1, |index, rows| {
            if let Some(table) = of(a.1, index, &diffs) {
                let values = rows.values.chunks(a.1.tables[index].dim).map(<[f32]>::to_vec);
                before.extend(rows.ids.iter().map(|&id| (table, id)).zip(values));
            }
            Ok(())
        })?;
        read_tables(b.0, b.1, first..last + 1, |index, rows| {
            if let Some(table) = of(b.1, index, &diffs) {
                for (&id, values) in rows.ids.iter().zip(rows.values.chunks(b.1.tables[index].dim)) {
                    diffs[table].add(before.remove(&(table, id)).as_deref(), values);
                }
            }
            Ok(())
        })?;
        before.keys().for_each(|(table, _)| diffs[*table].removed += 1);
    }
    for diff in &mut diffs {
        diff.mean_distance /= diff.kept.max(1) as f64;
    }
    Ok(diffs)
}

impl TableDiff {
    fn add(&mut self, before: Option<&[f32]>, values: &[f32]) {
        let Some(before) = before else {
            self.added += 1;
            return;
        };
        self.kept += 1;
        self.changed += u64::from(before != values);
        self.mean_distance += distance(before, values);
    }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*b) - f64::from(*a)).powi(2)).sum::<f64>().sqrt()
}

fn norm(a: &[f32]) -> f64 {
    a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// As lines.
pub fn text(diff: &Diff) -> String {
    let data = if diff.same_data { "the same rows" } else { "other rows" };
    let mut text = format!("step {} → step {}, trained on {data}\n", diff.steps[0], diff.steps[1]);
    // Writing to a string cannot fail.
    for (which, names) in ["first", "second"].iter().zip(&diff.only) {
        for name in names {
            let _ = writeln!(text, "only in the {which}: {name}");
        }
    }
    let width = diff.tables.iter().map(|table| table.name.len()).max().unwrap_or(0).max(5);
    let _ = writeln!(
        text,
        "\n{:<width$}  {:>10}  {:>10}  {:>10}  {:>10}  {:>13}",
        "table", "added", "removed", "kept", "changed", "mean distance"
    );
    for TableDiff { name, added, removed, kept, changed, mean_distance } in &diff.tables {
        let _ = writeln!(
            text,
            "{name:<width$}  {added:>10}  {removed:>10}  {kept:>10}  {changed:>10}  {mean_distance:>13.6}"
        );
    }
    let _ = writeln!(text, "\nchange of parameters, as a share of their norm");
    for (name, change) in &diff.parameters {
        let _ = writeln!(text, "{change:>10.6}  {name}");
    }
    text
}
