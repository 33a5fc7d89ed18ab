//! The tables of one rank. The two halves of a step are in `lookup.rs` and `update.rs`.

use super::bucket::Buckets;
use super::dedup::Dedup;
use super::exchange::{Begun, TableRoute, Wire};
use super::memory::Memory;
use super::optimizer::Slot;
use super::rows::TableRows;
use super::spec::{BagKind, BagSpec, Pool, TableSpec};
use super::stats::TableStats;
use super::table::Table;
use crate::comm::WireFormat;
use crate::error::{Error, Result};
use std::ops::Range;

/// All embedding tables, as far as this rank owns their rows.
#[derive(Debug)]
pub struct Embeddings {
    pub(super) tables: Vec<Table>,
    pub(super) bags: Vec<Bag>,
    /// How many bags read each column of a batch's ids.
    pub(super) sets: usize,
    /// Bags of each table, in order.
    pub(super) bags_of: Vec<Vec<usize>>,
    pub(super) dims: Vec<usize>,
    /// Floats of the gradient of a row: `dims`, or 0 where the table is frozen.
    pub(super) gradient_dims: Vec<usize>,
    pub(super) buckets: Buckets,
    pub(super) size: usize,
    pub(super) pooled_width: usize,
    pub(super) memory: Memory,
    /// Grows whenever rows are dropped: a lookup from before must not be used for an update.
    pub(super) generation: u64,
    pub(super) dedups: Vec<Dedup>,
    pub(super) wire: Wire,
    /// Of rows and gradients between ranks in training.
    pub(super) wire_format: WireFormat,
    /// Routes of the last update, whose buffers the next lookup uses again.
    pub(super) spare: Option<Vec<TableRoute>>,
    /// The next training lookup, if it was announced.
    pub(super) ahead: Option<Ahead>,
}

/// A training lookup whose ids are on their way to their owners.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The step that it is for.
    pub(super) step: u64,
    pub(super) routes: Vec<TableRoute>,
    pub(super) ids: Begun,
}

/// A bag and its place in the lookup.
#[derive(Debug)]
pub(super) struct Bag {
    pub(super) spec: BagSpec,
    /// First column of the pooled rows; or position among the sequences.
    pub(super) start: usize,
    /// Position among the bags of its table.
    pub(super) nth: usize,
}

impl Embeddings {
    /// Empty tables for `rank` of `size` ranks, cut into `buckets` buckets. `bags` are the id features of a
    /// batch in order.
    ///
    /// # Errors
    /// A bucket count that is no power of two, two tables of one name, a table without width, or a bag that
    /// names no table.
    pub fn new(
        tables: Vec<TableSpec>,
        bags: Vec<BagSpec>,
        buckets: usize,
        seed: u64,
        rank: usize,
        size: usize,
    ) -> Result<Self> {
        let buckets = Buckets::new(buckets, rank, size)?;
        for (i, table) in tables.iter().enumerate() {
            if table.dim == 0 {
                return Err(Error::job("embedding dim is 0").at("table", &table.name).fix("use a dim of at least 1"));
            }
            if tables[..i].iter().any(|other| other.name == table.name) {
                return Err(Error::internal("two embedding tables of one name").at("table", &table.name));
            }
        }
        let dims: Vec<usize> = tables.iter().map(|table| table.dim).collect();
        let (bags, bags_of, pooled_width) = place_bags(bags, &dims)?;
        Ok(Self {
            gradient_dims: tables.iter().map(|table| if table.frozen { 0 } else { table.dim }).collect(),
            dedups: tables.iter().map(|_| Dedup::default()).collect(),
            tables: tables.into_iter().map(|spec| Table::new(spec, &buckets, seed)).collect(),
            bags,
            sets: 1,
            bags_of,
            dims,
            buckets,
            size,
            pooled_width,
            memory: Memory::new(None),
            generation: 0,
            wire: Wire::default(),
            wire_format: WireFormat::default(),
            spare: None,
            ahead: None,
        })
    }

    /// Lets every id feature be read by `sets` bags: the bags are those of the first set in the order of the batch's ids,
    /// then those of the second, and so on.
    #[must_use]
    pub fn with_sets(mut self, sets: usize) -> Self {
        self.sets = sets;
        self
    }

    /// Limits this rank's tables to `limit_bytes`, instead of what the machine has left. To be called while
    /// the tables are empty.
    #[must_use]
    pub fn with_memory_limit(mut self, limit_bytes: u64) -> Self {
        self.memory = Memory::new(Some(limit_bytes));
        self
    }

    /// Lets the rows of training lookups and their gradients travel as `format`. Those of evaluation travel whole, so
    /// that predictions are what one rank gives.
    #[must_use]
    pub fn with_wire(mut self, format: WireFormat) -> Self {
        self.wire_format = format;
        self
    }

    /// Columns of [`super::Lookup::pooled`]: the dims of the pooled bags, in order.
    pub fn pooled_width(&self) -> usize {
        self.pooled_width
    }

    /// The columns of a pooled bag in [`super::Lookup::pooled`]; `None` for a sequence.
    pub fn columns(&self, bag: usize) -> Option<Range<usize>> {
        let bag = &self.bags[bag];
        let start = matches!(bag.spec.kind, BagKind::Pooled(_)).then_some(bag.start)?;
        Some(start..start + self.dims[bag.spec.table])
    }

    /// What reads the tables, one a column of a batch's ids.
    pub fn bags(&self) -> impl Iterator<Item = &BagSpec> {
        self.bags.iter().map(|bag| &bag.spec)
    }

    /// Names of the tables, in order.
    pub fn table_names(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().map(|table| table.spec.name.as_str())
    }

    /// Floats of a row of a table.
    pub fn dim(&self, table: usize) -> usize {
        self.dims[table]
    }

    /// Whether the rows of a table stay as they are.
    pub fn is_frozen(&self, table: usize) -> bool {
        self.tables[table].spec.frozen
    }

    /// The parts of the optimizer state of a table's rows.
    pub fn slots(&self, table: usize) -> Vec<Slot> {
        self.tables[table].spec.slots()
    }

    /// Number of buckets of every table.
    pub fn buckets(&self) -> usize {
        self.buckets.count()
    }

    /// The buckets of this rank.
    pub fn owned_buckets(&self) -> Range<usize> {
        self.buckets.owned()
    }

    /// Copies the rows of those of `buckets` that this rank owns. A large table is best exported in pieces:
    /// the copy takes as much memory as the rows.
    pub fn export(&self, table: usize, buckets: Range<usize>) -> TableRows {
        self.tables[table].export(buckets)
    }

    /// Adds rows and candidates of `rows` whose buckets this rank owns, whatever ranks wrote them; returns how
    /// many rows and candidates it took, so that the loader can account for every one.
    ///
    /// # Errors
    /// Columns that do not fit the table, an id that is there already, or not enough memory.
    pub fn import(&mut self, table: usize, rows: &TableRows) -> Result<(usize, usize)> {
        self.generation += 1;
        self.tables[table].import(rows, &self.memory)
    }

    /// Adds rows of another run's table, as [`Embeddings::import`] does: last seen before the first step, and with the
    /// optimizer state of new rows unless `keep_state`.
    ///
    /// # Errors
    /// As for [`Embeddings::import`].
    pub fn import_renewed(&mut self, table: usize, mut rows: TableRows, keep_state: bool) -> Result<(usize, usize)> {
        self.tables[table].renew(&mut rows, keep_state)?;
        self.import(table, &rows)
    }

    /// Replaces the values of those of `ids` that have a row on this rank by `values`, `ids.len() × dim` floats.
    pub fn overwrite(&mut self, table: usize, ids: &[u64], values: &[f32]) {
        self.tables[table].overwrite(ids, values);
    }

    /// Cuts the tables to their limits as after the update of `step`. Without effect on the tables of a checkpoint,
    /// unless their limits have been changed since it was saved.
    pub fn trim(&mut self, step: u64) {
        let mut evicted = false;
        for table in &mut self.tables {
            evicted |= table.evict(step);
        }
        self.generation += u64::from(evicted);
    }

    /// Rows and bytes of each table on this rank.
    pub fn stats(&self) -> Vec<TableStats> {
        self.tables.iter().map(Table::stats).collect()
    }

    /// At most `count` ids of this rank with the most training rows, and their rows: the most first, then by id.
    pub fn hottest(&self, table: usize, count: usize) -> Vec<(u64, u32)> {
        self.tables[table].hottest(count)
    }

    /// Rows of each table on this rank.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.tables.iter().map(Table::len)
    }

    pub(super) fn pooled_bags(&self) -> impl Iterator<Item = (&Bag, Pool)> {
        self.bags.iter().filter_map(|bag| match bag.spec.kind {
            BagKind::Pooled(pool) => Some((bag, pool)),
            BagKind::Sequence { .. } => None,
        })
    }

    pub(super) fn sequence_bags(&self) -> impl Iterator<Item = (&Bag, usize)> {
        self.bags.iter().filter_map(|bag| match bag.spec.kind {
            BagKind::Pooled(_) => None,
            BagKind::Sequence { max_len } => Some((bag, max_len)),
        })
    }
}

/// Gives every bag its columns or its place among the sequences.
fn place_bags(bags: Vec<BagSpec>, dims: &[usize]) -> Result<(Vec<Bag>, Vec<Vec<usize>>, usize)> {
    let mut placed = Vec::with_capacity(bags.len());
    let mut bags_of = vec![Vec::new(); dims.len()];
    let (mut width, mut sequences) = (0, 0);
    for (index, spec) in bags.into_iter().enumerate() {
        let Some(&dim) = dims.get(spec.table) else {
            return Err(Error::internal("a feature names no embedding table").at("feature", spec.name));
        };
        let (start, next) = match spec.kind {
            BagKind::Pooled(_) => (width, (width + dim, sequences)),
            BagKind::Sequence { max_len: 0 } => {
                return Err(Error::job("`max_len` is 0").at("feature", spec.name).fix("use at least 1"));
            }
            BagKind::Sequence { .. } => (sequences, (width, sequences + 1)),
        };
        (width, sequences) = next;
        let of_table: &mut Vec<usize> = &mut bags_of[spec.table];
        placed.push(Bag { nth: of_table.len(), spec, start });
        of_table.push(index);
    }
    Ok((placed, bags_of, width))
}
