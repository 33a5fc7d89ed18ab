//! What tables hold and what they cost, for reports and for the error when they cost too much.

use super::embeddings::Embeddings;
use super::memory::Shortage;
use super::table::{Bucket, Meta, Table};
use crate::error::Error;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Rows and bytes of one table on one rank.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Name of the table.
    pub name: String,
    /// Rows.
    pub rows: usize,
    /// Ids that wait for admission.
    pub candidates: usize,
    /// Values of the rows.
    pub payload_bytes: usize,
    /// Optimizer state of the rows.
    pub optimizer_bytes: usize,
    /// Ids of the rows, 8 bytes each.
    pub id_bytes: usize,
    /// Counts and last steps of the rows, 8 bytes each.
    pub meta_bytes: usize,
    /// The indices.
    pub index_bytes: usize,
    /// Candidates.
    pub candidate_bytes: usize,
    /// Allocated, but holding no row: the end of the last page and slots of evicted rows.
    pub spare_bytes: usize,
}

/// Bytes of one row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowCost {
    /// In memory, its share of the index included.
    pub memory: usize,
    /// In a checkpoint.
    pub disk: usize,
}

/// Bytes of an entry of the index, at the lowest load that it has.
const INDEX_BYTES: usize = (size_of::<u32>() + 1) * 16 / 7;

impl Embeddings {
    /// What a row of a table costs.
    pub fn row_cost(&self, table: usize) -> RowCost {
        let disk = self.tables[table].rows.row_bytes() + size_of::<Meta>();
        RowCost { memory: disk + INDEX_BYTES, disk }
    }
}

impl TableStats {
    /// Everything allocated.
    pub fn total_bytes(&self) -> usize {
        self.necessary_bytes() + self.meta_bytes + self.index_bytes + self.candidate_bytes + self.spare_bytes
    }

    /// Values, optimizer state and ids: what any representation must hold.
    pub fn necessary_bytes(&self) -> usize {
        self.payload_bytes + self.optimizer_bytes + self.id_bytes
    }
}

impl Table {
    /// Rows and bytes.
    pub fn stats(&self) -> TableStats {
        let rows = self.len();
        let payload_bytes = rows * self.spec.dim * size_of::<f32>();
        let row_bytes = self.rows.row_bytes();
        TableStats {
            name: self.spec.name.clone(),
            rows,
            candidates: self.shards.iter().map(|s| s.candidates.len()).sum(),
            payload_bytes,
            optimizer_bytes: rows * row_bytes - payload_bytes,
            id_bytes: rows * size_of::<u64>(),
            meta_bytes: rows * (size_of::<Meta>() - size_of::<u64>()),
            index_bytes: self.shards.iter().map(|s| s.index.allocation_size()).sum::<usize>()
                + self.shards.len() * size_of::<Bucket>(),
            candidate_bytes: self.shards.iter().map(|s| s.candidates.allocation_size()).sum(),
            spare_bytes: self.rows.bytes() + self.meta.bytes() - rows * (row_bytes + size_of::<Meta>())
                + self.free.capacity() * size_of::<u32>(),
        }
    }

    /// At most `count` ids with the most training rows, and their rows: the most first, then by id.
    pub fn hottest(&self, count: usize) -> Vec<(u64, u32)> {
        let mut hottest = BinaryHeap::with_capacity(count + 1);
        for &slot in self.shards.iter().flat_map(|shard| &shard.index) {
            let meta = self.meta(slot);
            hottest.push((Reverse(meta.count), meta.id));
            if hottest.len() > count {
                hottest.pop();
            }
        }
        hottest.into_sorted_vec().into_iter().map(|(Reverse(rows), id)| (id, rows)).collect()
    }

    /// The error for growth that was refused.
    pub fn too_large(&self, shortage: Shortage) -> Error {
        let amount = |bytes: u64| match bytes {
            0..0x100_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
            _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        };
        let left = match shortage.left_bytes {
            Some(bytes) if shortage.by_limit => format!("`memory_limit` leaves {}", amount(bytes)),
            Some(bytes) => format!("{} are left", amount(bytes)),
            None => "the system gives none".to_string(),
        };
        let raise = if shortage.by_limit { "raise `memory_limit`, " } else { "" };
        Error::data(format!(
            "embedding table `{}` needs {} more memory, and {left}",
            self.spec.name,
            amount(shortage.needed_bytes)
        ))
        .at("table", &self.spec.name)
        .at("rows on this rank", self.len())
        .at("bytes on this rank", self.stats().total_bytes())
        .fix(format!(
            "{raise}set `tables.{0}.eviction.max_rows` or `tables.{0}.admission.min_count`, use a smaller dim, or more \
             ranks on more machines",
            self.spec.name
        ))
    }
}
