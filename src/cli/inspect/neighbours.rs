//! `tandem inspect --neighbours`: the rows of a table that are nearest to one row.

use crate::checkpoint::{Manifest, TableEntry, read_tables};
use crate::data::string_id;
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

/// How near two rows are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Nearness {
    /// Their inner product: what `mf` scores by.
    #[default]
    Dot,
    /// The cosine of their angle.
    Cosine,
}

/// A row that is near.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its id.
    pub id: u64,
    /// How near it is.
    pub score: f32,
}

/// Orders by score, then the smaller id first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Ranked(u32, Reverse<u64>);

impl Ranked {
    fn of(neighbour: Neighbour) -> Self {
        // The bits of floats in the order of their values.
        let bits = neighbour.score.to_bits();
        Self(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }, Reverse(neighbour.id))
    }
}

/// What is asked: `TABLE=ID`, where an id that is no integer is text and hashed.
pub fn parsed(text: &str) -> Result<(&str, u64)> {
    let (table, id) = text.split_once('=').ok_or_else(|| {
        Error::job(format!("`{text}` names no row")).fix("give a table and an id, as in `--neighbours user=17`")
    })?;
    let id = id.parse::<i64>().map(|id| id as u64).or_else(|_| id.parse::<u64>());
    Ok((table, id.unwrap_or_else(|_| string_id(text.split_once('=').map_or("", |(_, id)| id)))))
}

/// The `count` rows of `table` that are nearest to the row `id` of the table `of`, the nearest first. Reads the
/// checkpoint's files twice and holds some of them. A row is no neighbour of itself.
///
/// # Errors
/// Tables that are not there, of different dims, or without the row.
pub fn nearest(
    path: &Path,
    manifest: &Manifest,
    (of, id): (&str, u64),
    table: &str,
    count: usize,
    nearness: Nearness,
) -> Result<Vec<Neighbour>> {
    let (of, table) = (find(manifest, of)?, find(manifest, table)?);
    let (dim, other) = (manifest.tables[of].dim, manifest.tables[table].dim);
    if dim != other {
        let (a, b) = (&manifest.tables[of].name, &manifest.tables[table].name);
        return Err(Error::job(format!("rows of `{a}` have {dim} floats, those of `{b}` {other}")));
    }
    let query = row(path, manifest, of, id)?;
    let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let query_norm = norm(&query);
    let mut nearest: BinaryHeap<Reverse<(Ranked, u64, u32)>> = BinaryHeap::new();
    read_tables(path, manifest, 0..manifest.buckets, |index, rows| {
        if index != table {
            return Ok(());
        }
        for (&other, row) in rows.ids.iter().zip(rows.values.chunks(dim)) {
            if of == table && other == id {
                continue;
            }
            let dot: f32 = row.iter().zip(&query).map(|(a, b)| a * b).sum();
            let score = match nearness {
                Nearness::Dot => dot,
                Nearness::Cosine => dot / (norm(row) * query_norm).max(f32::MIN_POSITIVE),
            };
            nearest.push(Reverse((Ranked::of(Neighbour { id: other, score }), other, score.to_bits())));
            if nearest.len() > count {
                nearest.pop();
            }
        }
        Ok(())
    })?;
    let mut found = nearest.into_vec();
    found.sort();
    Ok(found.into_iter().map(|Reverse((_, id, bits))| Neighbour { id, score: f32::from_bits(bits) }).collect())
}

fn find(manifest: &Manifest, name: &str) -> Result<usize> {
    manifest.tables.iter().position(|table| table.name == name).ok_or_else(|| {
        let names: Vec<&str> = manifest.tables.iter().map(|table: &TableEntry| table.name.as_str()).collect();
        Error::job(format!("there is no table `{name}`")).fix(format!("the tables are: {}", names.join(", ")))
    })
}

fn row(path: &Path, manifest: &Manifest, table: usize, id: u64) -> Result<Vec<f32>> {
    let dim = manifest.tables[table].dim;
    let mut found = None;
    read_tables(path, manifest, 0..manifest.buckets, |index, rows| {
        if let Some(row) = rows.ids.iter().position(|&known| index == table && known == id) {
            found = Some(rows.values[row * dim..][..dim].to_vec());
        }
        Ok(())
    })?;
    found.ok_or_else(|| {
        Error::job(format!("table `{}` has no row of the id {id}", manifest.tables[table].name))
            .fix("ids that training did not see, did not admit, or dropped have none")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_integers_or_hashed_text() {
        assert_eq!(parsed("user=17").unwrap(), ("user", 17));
        assert_eq!(parsed("user=-1").unwrap(), ("user", u64::MAX));
        assert_eq!(parsed("user=18446744073709551615").unwrap(), ("user", u64::MAX));
        assert_eq!(parsed("city=New=York").unwrap(), ("city", string_id("New=York")));
        assert!(parsed("user").unwrap_err().to_string().contains("--neighbours user=17"));
    }

    #[test]
    fn higher_scores_rank_higher_and_then_smaller_ids() {
        let ranked = |score: f32, id| Ranked::of(Neighbour { id, score });
        for (low, high) in [(-2.0, -1.0), (-1.0, -0.0), (0.0, 1e-30), (1.0, f32::INFINITY)] {
            assert!(ranked(low, 1) < ranked(high, 2), "{low} {high}");
        }
        assert!(ranked(1.0, 2) < ranked(1.0, 1));
    }
}
