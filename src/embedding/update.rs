//! The second half of a step: from the gradients of pooled rows to trained tables.

use super::embeddings::{Bag, Embeddings};
use super::exchange::{Layout, TableRoute};
use super::lookup::Lookup;
use super::row_gradients::RowGradients;
use super::spec::{BagKind, Mode};
use crate::comm::Communicator;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// One loss's gradient of what a lookup gave, on this rank.
#[derive(Debug, Clone, Copy)]
pub struct BatchGradient<'a> {
    /// Of [`Lookup::pooled`].
    pub pooled: &'a [f32],
    /// Of the values of each of [`Lookup::sequences`].
    pub sequences: &'a [Vec<f32>],
}

impl Embeddings {
    /// Brings the gradients of a training lookup's rows to their owners: of one loss, or of each of several tasks. The
    /// gradient of each distinct row of the *global* batch is the sum of its gradients over all ranks. Collective.
    ///
    /// # Errors
    /// A lookup that was made for evaluation, or before rows were dropped; a failed exchange.
    pub fn collect(
        &mut self,
        comm: &dyn Communicator,
        lookup: Lookup,
        gradients: &[BatchGradient],
    ) -> Result<RowGradients> {
        let step = self.check_update(&lookup, gradients)?;
        let mut routes = lookup.routes;
        self.unpool(&mut routes, gradients);
        if self.size > 1 && !self.tables.is_empty() {
            match gradients.len() {
                1 => self.return_gradients(comm, &mut routes)?,
                tasks => self.return_task_gradients(comm, &mut routes, tasks)?,
            }
        }
        Ok(RowGradients::new(routes, &self.dims, gradients.len(), step))
    }

    /// Trains each row once with its gradient. Then tables are cut to their limits.
    ///
    /// # Errors
    /// Gradients that were collected before rows were dropped, or that are still apart by task.
    pub fn apply(&mut self, gradients: RowGradients, lr_factor: f64) -> Result<()> {
        let (routes, step) = gradients.into_routes()?;
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

    /// [`Embeddings::collect`] of one loss, and [`Embeddings::apply`].
    ///
    /// # Errors
    /// As those.
    pub fn update(
        &mut self,
        comm: &dyn Communicator,
        lookup: Lookup,
        gradient: BatchGradient,
        lr_factor: f64,
    ) -> Result<()> {
        let gradients = self.collect(comm, lookup, &[gradient])?;
        self.apply(gradients, lr_factor)
    }

    fn check_update(&self, lookup: &Lookup, gradients: &[BatchGradient]) -> Result<u64> {
        let Mode::Train { step } = lookup.mode else {
            return Err(Error::internal("an update from an evaluation lookup"));
        };
        if lookup.generation != self.generation {
            return Err(Error::internal("an update from a lookup that is older than the last eviction or import"));
        }
        let floats = |bag: &Bag, max_len: usize| lookup.batch_rows * max_len * self.dims[bag.spec.table];
        let fits = |BatchGradient { pooled, sequences }: &BatchGradient| {
            pooled.len() == lookup.batch_rows * self.pooled_width
                && sequences.len() == self.sequence_bags().count()
                && self.sequence_bags().zip(*sequences).all(|((bag, max_len), d)| d.len() == floats(bag, max_len))
        };
        let fit = !gradients.is_empty() && gradients.iter().all(fits);
        if fit { Ok(step) } else { Err(Error::internal("embedding gradients do not fit the lookup")) }
    }

    /// Fills `rows` of each route with the gradients of this rank's distinct rows, one task after the other.
    fn unpool(&self, routes: &mut [TableRoute], gradients: &[BatchGradient]) {
        routes.par_iter_mut().zip(&self.bags_of).enumerate().for_each(|(t, (route, of_table))| {
            let dim = self.gradient_dims[t];
            let TableRoute { ids, bags, rows, .. } = route;
            rows.clear();
            if dim == 0 {
                return;
            }
            rows.resize(gradients.len() * ids.len() * dim, 0.0);
            for (rows, gradient) in rows.chunks_exact_mut((ids.len() * dim).max(1)).zip(gradients) {
                for (bag_route, &bag) in bags.iter().zip(of_table) {
                    let bag = &self.bags[bag];
                    match bag.spec.kind {
                        BagKind::Pooled(pool) => {
                            bag_route.unpool(pool, gradient.pooled, (bag.start, self.pooled_width), dim, rows);
                        }
                        BagKind::Sequence { max_len } => {
                            bag_route.roll(&gradient.sequences[bag.start], dim, max_len, rows);
                        }
                    }
                }
            }
        });
    }

    /// Sends gradients to the owners; leaves in `rows` the sums of the distinct rows owned here.
    fn return_gradients(&mut self, comm: &dyn Communicator, routes: &mut [TableRoute]) -> Result<()> {
        let Self { wire, wire_format, gradient_dims: dims, size, .. } = self;
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
