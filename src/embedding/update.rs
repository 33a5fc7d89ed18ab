//! The second half of a step: from the gradients of pooled rows to trained tables.

use super::embeddings::{Bag, Embeddings};
use super::exchange::{Layout, TableRoute};
use super::lookup::Lookup;
use super::spec::{BagKind, Mode};
use crate::comm::Communicator;
use crate::error::{Error, Result};
use rayon::prelude::*;

impl Embeddings {
    /// Trains the rows of a training lookup: `d_pooled` is the gradient of [`Lookup::pooled`],
    /// `d_sequences` those of the sequences' values. Each distinct row of the *global* batch is updated once,
    /// with the sum of its gradients over all ranks. Then tables are cut to their limits. Collective.
    ///
    /// # Errors
    /// A lookup that was made for evaluation, or before rows were dropped; a failed exchange.
    pub fn update(
        &mut self,
        comm: &dyn Communicator,
        lookup: Lookup,
        d_pooled: &[f32],
        d_sequences: &[Vec<f32>],
        lr_factor: f64,
    ) -> Result<()> {
        let step = self.check_update(&lookup, d_pooled, d_sequences)?;
        let mut routes = lookup.routes;
        self.unpool(&mut routes, d_pooled, d_sequences);
        if self.size > 1 && !self.tables.is_empty() {
            self.return_gradients(comm, &mut routes)?;
        }
        let evicted = self
            .tables
            .par_iter_mut()
            .zip(&routes)
            .map(|(table, route)| {
                table.apply(&route.slots, &route.rows, lr_factor);
                table.evict(step)
            })
            .reduce(|| false, |a, b| a | b);
        self.generation += u64::from(evicted);
        self.spare = Some(routes);
        Ok(())
    }

    fn check_update(&self, lookup: &Lookup, d_pooled: &[f32], d_sequences: &[Vec<f32>]) -> Result<u64> {
        let Mode::Train { step } = lookup.mode else {
            return Err(Error::internal("an update from an evaluation lookup"));
        };
        if lookup.generation != self.generation {
            return Err(Error::internal("an update from a lookup that is older than the last eviction or import"));
        }
        let floats = |bag: &Bag, max_len: usize| lookup.batch_rows * max_len * self.dims[bag.spec.table];
        let fits = d_pooled.len() == lookup.batch_rows * self.pooled_width
            && d_sequences.len() == self.sequence_bags().count()
            && self.sequence_bags().zip(d_sequences).all(|((bag, max_len), d)| d.len() == floats(bag, max_len));
        if fits { Ok(step) } else { Err(Error::internal("embedding gradients do not fit the lookup")) }
    }

    /// Fills `rows` of each route with the gradients of this rank's distinct rows.
    fn unpool(&self, routes: &mut [TableRoute], d_pooled: &[f32], d_sequences: &[Vec<f32>]) {
        routes.par_iter_mut().zip(&self.bags_of).enumerate().for_each(|(t, (route, of_table))| {
            let dim = self.dims[t];
            let TableRoute { ids, bags, rows, .. } = route;
            rows.clear();
            rows.resize(ids.len() * dim, 0.0);
            for (bag_route, &bag) in bags.iter().zip(of_table) {
                let bag = &self.bags[bag];
                match bag.spec.kind {
                    BagKind::Pooled(pool) => {
                        bag_route.unpool(pool, d_pooled, (bag.start, self.pooled_width), dim, rows);
                    }
                    BagKind::Sequence { max_len } => bag_route.roll(&d_sequences[bag.start], dim, max_len, rows),
                }
            }
        });
    }

    /// Sends gradients to the owners; leaves in `rows` the sums of the distinct rows owned here.
    fn return_gradients(&mut self, comm: &dyn Communicator, routes: &mut [TableRoute]) -> Result<()> {
        let Self { wire, wire_format, dims, size, .. } = self;
        let (out, into) = (Layout::of_sent(routes, dims, *size), Layout::of_received(routes, dims, *size));
        wire.rows_out.resize(out.len(), 0.0);
        let parts = out.split_mut(&mut wire.rows_out);
        routes.par_iter().zip(parts).for_each(|(route, parts)| {
            let mut rest = route.rows.as_slice();
            for part in parts {
                let (head, tail) = rest.split_at(part.len());
                part.copy_from_slice(head);
                rest = tail;
            }
        });
        wire.exchange_rows(comm, *wire_format, &out, &into)?;
        let received = into.split(&wire.rows_in);
        routes
            .par_iter_mut()
            .zip(received)
            .zip(dims)
            .for_each(|((route, ranks), dim)| route.sum_duplicates(&ranks, *dim));
        Ok(())
    }
}
