//! The first half of a step: from the ids of a batch to pooled rows.

use super::embeddings::{Ahead, Bag, Embeddings};
use super::exchange::{Begun, Layout, TableRoute};
use super::memory::Memory;
use super::pool::{self, BagRoute};
use super::spec::Mode;
use super::table::Table;
use crate::comm::{Communicator, WireFormat, collectives};
use crate::data::batch::IdColumn;
use crate::error::{Error, Result};
use crate::nn::Repeats;
use rayon::prelude::*;

/// Batch rows that one thread pools at a time.
const POOL_ROWS: usize = 256;

/// Rows of one sequence feature. B rows of the batch, L the longest length, d the dimension.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SequenceRows {
    /// `[B, L, d]`, oldest first, zeros after the last.
    pub values: Vec<f32>,
    /// `[B, L]`: 1 where there is an element, else 0.
    pub mask: Vec<f32>,
    /// Whether a gradient of `values` is wanted: the table is not frozen.
    pub trained: bool,
}

/// What a lookup found, and the routes by which gradients go back.
#[derive(Debug)]
pub struct Lookup {
    /// `[B, pooled_width]`, row-major.
    pub pooled: Vec<f32>,
    /// One entry per sequence bag, in order.
    pub sequences: Vec<SequenceRows>,
    /// Whether a gradient of `pooled` is wanted: not all of its tables are frozen.
    pub trains_pooled: bool,
    pub(super) batch_rows: usize,
    pub(super) mode: Mode,
    pub(super) generation: u64,
    pub(super) routes: Vec<TableRoute>,
}

impl Embeddings {
    /// Reads the rows of a batch of `rows` rows; `ids` has one column per bag of a set. In training, ids are counted,
    /// admitted and given rows. Collective.
    ///
    /// # Errors
    /// A table that outgrows the memory, a failed exchange, or another step than the one that was
    /// [announced](Self::announce).
    pub fn lookup(&mut self, comm: &dyn Communicator, ids: &[IdColumn], rows: usize, mode: Mode) -> Result<Lookup> {
        let ahead = match mode {
            Mode::Train { step } => self.announced(step)?,
            // An evaluation between two steps goes past what was announced.
            Mode::Evaluate => None,
        };
        let (mut routes, sent) = match ahead {
            Some(Ahead { routes, ids, .. }) => (routes, Some(ids)),
            None => (self.routes_of(ids, rows)?, None),
        };
        match (self.tables.len(), self.size) {
            (0, _) => {}
            (_, 1) => self.resolve_alone(&mut routes, mode)?,
            _ => self.resolve_with(comm, &mut routes, sent, mode)?,
        }
        let (pooled, sequences) = (self.pool(&routes, rows), self.unroll(&routes, rows));
        let trains_pooled = self.trains_pooled();
        Ok(Lookup { pooled, sequences, trains_pooled, batch_rows: rows, mode, generation: self.generation, routes })
    }

    /// Sends the ids of the training lookup of step `step` to their owners already, while the step before it computes: which
    /// ids are wanted does not depend on what is trained. The lookup must be given the same batch. Collective.
    ///
    /// # Errors
    /// A batch that does not fit the bags, or a failed exchange.
    pub fn announce(&mut self, comm: &dyn Communicator, ids: &[IdColumn], rows: usize, step: u64) -> Result<()> {
        if self.size == 1 || self.tables.is_empty() {
            return Ok(());
        }
        let routes = self.routes_of(ids, rows)?;
        let ids = self.wire.begin_ids(comm, &routes, true)?;
        self.ahead = Some(Ahead { step, routes, ids });
        Ok(())
    }

    fn announced(&mut self, step: u64) -> Result<Option<Ahead>> {
        match self.ahead.take() {
            Some(ahead) if ahead.step != step => {
                Err(Error::internal(format!("step {} was announced, and step {step} taken", ahead.step)))
            }
            ahead => Ok(ahead),
        }
    }

    /// Waits for what was announced and is not wanted any more: the ranks may leave only when nothing is on its way.
    /// Collective.
    ///
    /// # Errors
    /// A failed exchange.
    pub fn call_off(&mut self, comm: &dyn Communicator) -> Result<()> {
        let tables = self.tables.len();
        match self.ahead.take() {
            Some(Ahead { ids, .. }) => self.wire.finish_ids(comm, ids, tables, true).map(drop),
            None => Ok(()),
        }
    }

    /// The distinct ids of a batch, and where they go.
    fn routes_of(&mut self, ids: &[IdColumn], rows: usize) -> Result<Vec<TableRoute>> {
        if ids.len() * self.sets != self.bags.len() {
            let (columns, bags, sets) = (ids.len(), self.bags.len(), self.sets);
            return Err(Error::internal(format!("{columns} id columns for {bags} bags in {sets} sets")));
        }
        for (column, bag) in ids.iter().zip(&self.bags) {
            pool::check_column(column, rows, &bag.spec.name)?;
        }
        let mut routes = self.spare.take().unwrap_or_default();
        routes.resize_with(self.tables.len(), TableRoute::default);
        self.read_ids(ids, &mut routes);
        Ok(routes)
    }

    /// Which rows of a training lookup's `pooled` are the same, bag by bag: those with the same id, where no row has several.
    pub fn repeats(&self, lookup: &Lookup) -> Vec<Repeats> {
        let bags: Vec<&Bag> = self.pooled_bags().map(|(bag, _)| bag).collect();
        let of_bag = |bag: &&Bag| {
            let (route, dim) = (&lookup.routes[bag.spec.table], self.dims[bag.spec.table]);
            let none = route.ids.len();
            let keys = route.bags[bag.nth].single(none as u32)?;
            Repeats::of(bag.start..bag.start + dim, &keys, none + 1)
        };
        bags.par_iter().filter_map(of_bag).collect()
    }

    /// Whether a pooled bag reads a table that is trained.
    pub fn trains_pooled(&self) -> bool {
        self.pooled_bags().any(|(bag, _)| !self.is_frozen(bag.spec.table))
    }

    /// Whether each sequence bag's table is trained.
    pub fn trains_sequences(&self) -> Vec<bool> {
        self.sequence_bags().map(|(bag, _)| !self.is_frozen(bag.spec.table)).collect()
    }

    /// Finds the distinct ids of each table over all its bags, grouped by owner.
    fn read_ids(&mut self, ids: &[IdColumn], routes: &mut [TableRoute]) {
        let Self { bags, bags_of, buckets, size, dedups, .. } = self;
        routes.par_iter_mut().zip(dedups).zip(bags_of).for_each(|((route, dedup), of_table)| {
            dedup.begin();
            route.bags.resize_with(of_table.len(), BagRoute::default);
            for (bag_route, &bag) in route.bags.iter_mut().zip(of_table.iter()) {
                bag_route.read(&ids[bag % ids.len()], bags[bag].spec.kind, |id| dedup.insert(id, 1));
            }
            route.take_ids(dedup, buckets, *size);
        });
    }

    /// One rank: its distinct ids are all there are, and rows are read where they stand.
    pub(super) fn resolve_alone(&mut self, routes: &mut [TableRoute], mode: Mode) -> Result<()> {
        let Self { tables, memory, .. } = self;
        let done: Vec<Result<()>> = tables
            .par_iter_mut()
            .zip(routes)
            .map(|(table, route)| {
                find(table, &route.ids, &route.counts, mode, memory, &mut route.slots)?;
                route.rows.resize(route.ids.len() * table.spec.dim, 0.0);
                table.gather(&route.slots, &mut route.rows);
                Ok(())
            })
            .collect();
        done.into_iter().collect()
    }

    /// Several ranks: ids go to their owners, unless they were `sent`, and rows come back.
    pub(super) fn resolve_with(
        &mut self,
        comm: &dyn Communicator,
        routes: &mut [TableRoute],
        sent: Option<Begun>,
        mode: Mode,
    ) -> Result<()> {
        let Self { tables, memory, dedups, wire, wire_format, dims, size, .. } = self;
        let trains = mode != Mode::Evaluate;
        let sent = match sent {
            Some(sent) => sent,
            None => wire.begin_ids(comm, routes, trains)?,
        };
        let received = wire.finish_ids(comm, sent, tables.len(), trains)?;
        let done: Vec<Result<()>> = tables
            .par_iter_mut()
            .zip(routes.par_iter_mut())
            .zip(dedups)
            .enumerate()
            .map(|(t, ((table, route), dedup))| {
                route.merge(dedup, received.iter().map(|rank| rank[t]));
                find(table, &dedup.ids, &dedup.counts, mode, memory, &mut route.slots)
            })
            .collect();
        let done = done.into_iter().collect::<Result<()>>();
        // Tables grow alike on all ranks: where one has no memory left, many will not.
        if trains {
            collectives::agree(comm, done)?;
        }

        let (out, into) = (Layout::of_received(routes, dims, *size), Layout::of_sent(routes, dims, *size));
        wire.rows_out.resize(out.len(), 0.0);
        let parts = out.split_mut(&mut wire.rows_out);
        tables.par_iter().zip(routes.par_iter()).zip(parts).for_each(|((table, route), parts)| {
            for (peer, part) in parts.into_iter().enumerate() {
                table.gather(&route.slots_of(peer), part);
            }
        });
        let format = if mode == Mode::Evaluate { WireFormat::F32 } else { *wire_format };
        wire.exchange_rows(comm, format, &out, &into)?;
        routes.par_iter_mut().zip(into.split(&wire.rows_in)).for_each(|(route, parts)| {
            route.rows.clear();
            parts.iter().for_each(|part| route.rows.extend_from_slice(part));
        });
        Ok(())
    }

    fn pool(&self, routes: &[TableRoute], rows: usize) -> Vec<f32> {
        let width = self.pooled_width;
        let mut pooled = vec![0.0; rows * width];
        pooled.par_chunks_mut((POOL_ROWS * width).max(1)).enumerate().for_each(|(chunk, out)| {
            for (bag, pool) in self.pooled_bags() {
                let route = &routes[bag.spec.table];
                let dim = self.dims[bag.spec.table];
                route.bags[bag.nth].pool(pool, &route.rows, dim, chunk * POOL_ROWS, out, (bag.start, width));
            }
        });
        pooled
    }

    fn unroll(&self, routes: &[TableRoute], rows: usize) -> Vec<SequenceRows> {
        let sequences: Vec<(&Bag, usize)> = self.sequence_bags().collect();
        sequences
            .par_iter()
            .map(|(bag, max_len)| {
                let (route, dim) = (&routes[bag.spec.table], self.dims[bag.spec.table]);
                let (values, mask) = (vec![0.0; rows * max_len * dim], vec![0.0; rows * max_len]);
                let mut out = SequenceRows { values, mask, trained: !self.is_frozen(bag.spec.table) };
                route.bags[bag.nth].unroll(&route.rows, dim, *max_len, &mut out.values, &mut out.mask);
                out
            })
            .collect()
    }
}

fn find(
    table: &mut Table,
    ids: &[u64],
    counts: &[u32],
    mode: Mode,
    memory: &Memory,
    slots: &mut Vec<u32>,
) -> Result<()> {
    match mode {
        Mode::Train { step } => table.train_all(ids, counts, step, memory, slots),
        Mode::Evaluate => {
            table.find_all(ids, slots);
            Ok(())
        }
    }
}
