//! From ids to the model's inputs: rows of the tables' Parquet files, pooled or in order.

use super::rows::Ids;
use crate::checkpoint::inside;
use crate::error::{Error, Result};
use crate::export::schema::{BundleSchema, Pooling};
use crate::export::tables::read_rows;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// The rows of the ids that are asked for, by table.
pub struct Vectors(HashMap<String, HashMap<u64, Vec<f32>>>);

impl Vectors {
    /// Reads the tables once; of each only the rows of `ids` are kept.
    pub fn read(dir: &Path, schema: &BundleSchema, ids: &BTreeMap<&str, Ids>) -> Result<Self> {
        let mut wanted: HashMap<&str, HashSet<u64>> = HashMap::new();
        for feature in &schema.ids {
            let ids = ids.get(feature.name.as_str()).into_iter().flat_map(|ids| ids.0.iter().flatten());
            wanted.entry(&feature.table).or_default().extend(ids);
        }
        let mut vectors = HashMap::new();
        for table in &schema.tables {
            let file = table.files.get("parquet");
            let file = file.ok_or_else(|| Error::data(format!("table `{}` has no Parquet file", table.name)))?;
            let wanted = wanted.remove(table.name.as_str()).unwrap_or_default();
            let mut rows = HashMap::new();
            let mut found = 0;
            read_rows(&inside(dir, file)?, table.dim, |ids, numbers| {
                found += ids.len() as u64;
                for (id, row) in ids.iter().zip(numbers.chunks(table.dim)).filter(|(id, _)| wanted.contains(*id)) {
                    rows.insert(*id, row.to_vec());
                }
                Ok(())
            })?;
            if found != table.rows {
                let what = format!("table `{}` has {found} rows, the schema says {}", table.name, table.rows);
                return Err(Error::data(what).at("path", dir.display()));
            }
            vectors.insert(table.name.clone(), rows);
        }
        Ok(Self(vectors))
    }

    /// The inputs that are made of embeddings, by name.
    pub fn inputs(
        &self,
        schema: &BundleSchema,
        ids: &BTreeMap<&str, Ids>,
        rows: usize,
    ) -> Result<BTreeMap<String, Vec<f32>>> {
        let of_feature = |name: &str| {
            let feature = schema.ids.iter().find(|feature| feature.name == name);
            let table = feature.and_then(|feature| self.0.get(&feature.table));
            let found = table.zip(ids.get(name));
            found.ok_or_else(|| Error::data(format!("the schema has no ids of `{name}`")))
        };
        let width: usize = schema.pooled.iter().map(|part| part.width).sum();
        let mut pooled = vec![0f32; rows * width];
        for part in &schema.pooled {
            let (table, ids) = of_feature(&part.feature)?;
            let other = part.with.as_deref().map(of_feature).transpose()?.map(|(_, ids)| ids);
            let whole = |row: usize| other.is_none_or(|other| !other.0[row].is_empty());
            for (row, ids) in ids.0.iter().enumerate().filter(|(row, _)| whole(*row)) {
                let out = &mut pooled[row * width + part.start..][..part.width];
                for vector in ids.iter().filter_map(|id| table.get(id)) {
                    out.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
                }
                if part.pooling == Pooling::Mean && ids.len() > 1 {
                    out.iter_mut().for_each(|sum| *sum /= ids.len() as f32);
                }
            }
        }
        let mut inputs = BTreeMap::from([("pooled".to_string(), pooled)]);
        for sequence in &schema.sequences {
            let (table, ids) = of_feature(&sequence.feature)?;
            let mut values = vec![0f32; rows * sequence.max_len * sequence.dim];
            let mut mask = vec![0f32; rows * sequence.max_len];
            for (row, ids) in ids.0.iter().enumerate() {
                let last = &ids[ids.len().saturating_sub(sequence.max_len)..];
                for (place, id) in last.iter().enumerate() {
                    let at = row * sequence.max_len + place;
                    mask[at] = 1.0;
                    if let Some(vector) = table.get(id) {
                        values[at * sequence.dim..][..sequence.dim].copy_from_slice(vector);
                    }
                }
            }
            inputs.insert(sequence.values.clone(), values);
            inputs.insert(sequence.mask.clone(), mask);
        }
        Ok(inputs)
    }
}
