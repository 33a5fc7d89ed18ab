//! The fused exchange: which ids go to which owner, and the layout of the messages that carry rows.
//!
//! Rows travel twice on the same routes: values from the owners in lookup, gradients to them in update. Both
//! follow the order of the ids of the lookup, so ids are sent once.
//!
//! ```text
//! float message, by peer:   rows of table 0 | rows of table 1 | …      (each in the order of the ids sent)
//! ```

use super::bucket::Buckets;
use super::dedup::Dedup;
use super::message::{self, TableIds};
use super::pool::{self, BagRoute};
use crate::comm::{self, Communicator, WireFormat, collectives};
use crate::error::Result;
use std::ops::Range;

/// How the rows of one table travel in one step.
#[derive(Debug, Default)]
pub struct TableRoute {
    /// Distinct ids of this rank's batch, grouped by owner.
    pub ids: Vec<u64>,
    /// Occurrences of each in this rank's batch.
    pub counts: Vec<u32>,
    /// `ids[starts[r]..starts[r + 1]]` belong to rank r.
    starts: Vec<usize>,
    /// The bags that read this table.
    pub bags: Vec<BagRoute>,
    /// `ids.len() × dim`: values after lookup, gradients during update.
    pub rows: Vec<f32>,
    /// Position among the distinct ids owned here of each id received, rank after rank.
    merged: Vec<u32>,
    /// Ends of the ranks' ids in `merged`.
    merged_starts: Vec<usize>,
    /// Slots of the distinct ids owned here.
    pub slots: Vec<u32>,
}

impl TableRoute {
    /// Positions in `ids` of what goes to `peer`.
    pub fn sent(&self, peer: usize) -> Range<usize> {
        self.starts[peer]..self.starts[peer + 1]
    }

    /// What goes to `peer`.
    fn ids_to(&self, peer: usize) -> TableIds<'_> {
        TableIds { ids: &self.ids[self.sent(peer)], counts: &self.counts[self.sent(peer)] }
    }

    /// Positions in `merged` of what came from `peer`.
    pub fn received(&self, peer: usize) -> Range<usize> {
        self.merged_starts[peer]..self.merged_starts[peer + 1]
    }

    /// Takes over the distinct ids that `dedup` found while the bags were read.
    pub fn take_ids(&mut self, dedup: &mut Dedup, buckets: &Buckets, size: usize) {
        self.starts.clear();
        if size == 1 {
            std::mem::swap(&mut self.ids, &mut dedup.ids);
            std::mem::swap(&mut self.counts, &mut dedup.counts);
            self.starts.extend([0, self.ids.len()]);
        } else {
            self.group_by_owner(dedup, buckets, size);
        }
    }

    /// A counting sort by owner, after which the bags' positions are renamed.
    fn group_by_owner(&mut self, dedup: &Dedup, buckets: &Buckets, size: usize) {
        self.starts.resize(size + 1, 0);
        for &id in &dedup.ids {
            self.starts[buckets.owner(id) + 1] += 1;
        }
        for rank in 0..size {
            self.starts[rank + 1] += self.starts[rank];
        }
        self.ids.resize(dedup.ids.len(), 0);
        self.counts.resize(dedup.ids.len(), 0);
        let mut next = self.starts.clone();
        let renamed: Vec<u32> = dedup
            .ids
            .iter()
            .zip(&dedup.counts)
            .map(|(&id, &count)| {
                let next = &mut next[buckets.owner(id)];
                let place = *next;
                *next += 1;
                self.ids[place] = id;
                self.counts[place] = count;
                place as u32
            })
            .collect();
        for bag in &mut self.bags {
            bag.positions.iter_mut().for_each(|p| *p = renamed[*p as usize]);
        }
    }

    /// As owner: finds the distinct ids among those that all ranks sent, with their occurrences in `dedup`.
    pub fn merge<'a>(&mut self, dedup: &mut Dedup, ranks: impl Iterator<Item = TableIds<'a>>) {
        dedup.begin();
        self.merged.clear();
        self.merged_starts.clear();
        self.merged_starts.push(0);
        for TableIds { ids, counts } in ranks {
            if counts.is_empty() {
                self.merged.extend(ids.iter().map(|&id| dedup.insert(id, 0)));
            } else {
                self.merged.extend(ids.iter().zip(counts).map(|(&id, &count)| dedup.insert(id, count)));
            }
            self.merged_starts.push(self.merged.len());
        }
    }

    /// As owner: which of the distinct ids owned here stands at position `at` of those received.
    pub fn merged(&self, at: usize) -> usize {
        self.merged[at] as usize
    }

    /// As owner: the slots of the ids that `peer` sent, in its order.
    pub fn slots_of(&self, peer: usize) -> Vec<u32> {
        self.merged[self.received(peer)].iter().map(|&m| self.slots[m as usize]).collect()
    }

    /// As owner: adds up, rank after rank, the gradients of each distinct row into `rows`; none where `dim` is 0.
    pub fn sum_duplicates(&mut self, ranks: &[&[f32]], dim: usize) {
        self.rows.clear();
        if dim == 0 {
            return;
        }
        self.rows.resize(self.slots.len() * dim, 0.0);
        let grads = ranks.iter().flat_map(|grads| grads.chunks_exact(dim));
        for (&m, grad) in self.merged.iter().zip(grads) {
            pool::add(&mut self.rows[m as usize * dim..][..dim], grad);
        }
    }

    #[cfg(test)]
    pub fn for_test(ids: &[u64], counts: &[u32], starts: &[usize]) -> Self {
        Self { ids: ids.to_vec(), counts: counts.to_vec(), starts: starts.to_vec(), ..Self::default() }
    }
}

/// Message buffers, kept from step to step.
#[derive(Debug, Default)]
pub struct Wire {
    ids_out: Vec<u64>,
    ids_in: Vec<u64>,
    pub rows_out: Vec<f32>,
    pub rows_in: Vec<f32>,
}

/// Ids on their way.
pub struct Begun {
    begun: comm::Begun,
    /// Words that each rank sends here.
    words: Vec<usize>,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Begun").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Wire {
    /// Begins to send every owner its ids.
    pub fn begin_ids(&mut self, comm: &dyn Communicator, routes: &[TableRoute], train: bool) -> Result<Begun> {
        self.ids_out.clear();
        let mut sent = Vec::with_capacity(comm.size());
        for peer in 0..comm.size() {
            let before = self.ids_out.len();
            message::encode(routes.iter().map(|route| route.ids_to(peer)), train, &mut self.ids_out);
            sent.push(self.ids_out.len() - before);
        }
        let words: Vec<u64> = sent.iter().map(|&n| n as u64).collect();
        let words: Vec<usize> = comm.exchange_counts(&words)?.into_iter().map(|n| n as usize).collect();
        Ok(Begun { begun: comm.begin_words(&self.ids_out, &sent, &words)?, words })
    }

    /// Waits for the ids that were sent here; returns them by rank and table.
    pub fn finish_ids(
        &mut self,
        comm: &dyn Communicator,
        Begun { begun, words }: Begun,
        tables: usize,
        train: bool,
    ) -> Result<Vec<Vec<TableIds<'_>>>> {
        self.ids_in = comm.finish_words(begun)?;
        let mut rest = self.ids_in.as_slice();
        words
            .iter()
            .map(|&n| {
                let (message, tail) = rest.split_at(n);
                rest = tail;
                message::decode(message, tables, train)
            })
            .collect()
    }

    /// Sends `rows_out`, laid out by `out`; fills `rows_in`, laid out by `into`.
    pub fn exchange_rows(
        &mut self,
        comm: &dyn Communicator,
        format: WireFormat,
        out: &Layout,
        into: &Layout,
    ) -> Result<()> {
        self.rows_in.resize(into.len(), 0.0);
        let (sent, received) = (out.by_peer(), into.by_peer());
        collectives::all_to_all_floats(comm, format, &self.rows_out, &sent, &mut self.rows_in, &received)
    }
}

/// Where the rows of each (peer, table) stand in a float message.
#[derive(Debug, PartialEq)]
pub struct Layout {
    tables: usize,
    /// `starts[peer · tables + table]`, and the end.
    starts: Vec<usize>,
}

impl Layout {
    /// Of the rows of the ids that this rank sent: what it reads in lookup, and sends in update.
    pub fn of_sent(routes: &[TableRoute], dims: &[usize], size: usize) -> Self {
        Self::new(routes.len(), size, |peer, table| routes[table].sent(peer).len() * dims[table])
    }

    /// Of the rows of the ids that this rank received.
    pub fn of_received(routes: &[TableRoute], dims: &[usize], size: usize) -> Self {
        Self::new(routes.len(), size, |peer, table| routes[table].received(peer).len() * dims[table])
    }

    /// Of `floats(peer, table)` floats each.
    pub fn new(tables: usize, size: usize, floats: impl Fn(usize, usize) -> usize) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for peer in 0..size {
            for table in 0..tables {
                end += floats(peer, table);
                starts.push(end);
            }
        }
        Self { tables, starts }
    }

    /// Floats of the whole message.
    pub fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Floats of each peer's part.
    fn by_peer(&self) -> Vec<usize> {
        self.starts.windows(self.tables + 1).step_by(self.tables).map(|w| w[self.tables] - w[0]).collect()
    }

    /// The parts of `message`, by table and then by peer.
    pub fn split<'a>(&self, message: &'a [f32]) -> Vec<Vec<&'a [f32]>> {
        let part = |at: usize| &message[self.starts[at]..self.starts[at + 1]];
        let peers = (self.starts.len() - 1) / self.tables;
        (0..self.tables).map(|table| (0..peers).map(|peer| part(peer * self.tables + table)).collect()).collect()
    }

    /// [`Layout::split`] for writing.
    pub fn split_mut<'a>(&self, mut message: &'a mut [f32]) -> Vec<Vec<&'a mut [f32]>> {
        let mut parts: Vec<Vec<&mut [f32]>> = (0..self.tables).map(|_| Vec::new()).collect();
        for (at, bounds) in self.starts.windows(2).enumerate() {
            let (head, tail) = message.split_at_mut(bounds[1] - bounds[0]);
            message = tail;
            parts[at % self.tables].push(head);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::IdColumn;
    use crate::embedding::{BagKind, Pool};

    #[test]
    fn ids_are_grouped_by_owner_and_bags_still_find_them() {
        let column = IdColumn::one_each(vec![40, 3, 40, 17, 3, 99]);
        for size in 1..=4 {
            let buckets = Buckets::new(8, 0, size).unwrap();
            let (mut route, mut dedup) = (TableRoute::default(), Dedup::default());
            let mut bag = BagRoute::default();
            dedup.begin();
            bag.read(&column, BagKind::Pooled(Pool::Sum), |id| dedup.insert(id, 1));
            route.bags.push(bag);
            route.take_ids(&mut dedup, &buckets, size);
            let read: Vec<u64> = route.bags[0].positions.iter().map(|&p| route.ids[p as usize]).collect();
            assert_eq!(read, column.ids());
            let mut pairs: Vec<_> = route.ids.iter().copied().zip(route.counts.iter().copied()).collect();
            pairs.sort_unstable();
            assert_eq!(pairs, [(3, 2), (17, 1), (40, 2), (99, 1)]);
            for peer in 0..size {
                assert!(route.ids[route.sent(peer)].iter().all(|&id| buckets.owner(id) == peer));
            }
        }
    }

    #[test]
    fn duplicates_from_several_ranks_become_one_row() {
        let (mut route, mut dedup) = (TableRoute::default(), Dedup::default());
        let ranks = [
            TableIds { ids: &[5, 6], counts: &[1, 2] },
            TableIds { ids: &[], counts: &[] },
            TableIds { ids: &[6, 7], counts: &[10, 20] },
        ];
        route.merge(&mut dedup, ranks.into_iter());
        assert_eq!((dedup.ids.as_slice(), dedup.counts.as_slice()), (&[5, 6, 7][..], &[1, 12, 20][..]));
        route.slots = vec![50, 60, 70];
        assert_eq!(route.slots_of(2), [60, 70]);
        assert!(route.slots_of(1).is_empty());
        route.sum_duplicates(&[&[1.0, 2.0], &[], &[3.0, 4.0]], 1);
        assert_eq!(route.rows, [1.0, 5.0, 4.0]);
    }

    #[test]
    fn a_layout_splits_by_table_and_peer() {
        let routes =
            [TableRoute::for_test(&[1, 2, 3], &[1, 1, 1], &[0, 1, 3]), TableRoute::for_test(&[4], &[1], &[0, 1, 1])];
        let layout = Layout::of_sent(&routes, &[2, 3], 2);
        assert_eq!((layout.len(), layout.by_peer()), (9, vec![5, 4]));
        let mut message: Vec<f32> = (0..9).map(|x| x as f32).collect();
        let want = vec![vec![vec![0.0, 1.0], vec![5.0, 6.0, 7.0, 8.0]], vec![vec![2.0, 3.0, 4.0], vec![]]];
        assert_eq!(layout.split(&message), want);
        assert_eq!(layout.split_mut(&mut message), want);
    }
}
