//! Row gradients of several tasks on their way to the owners. Most rows are touched by few of the tasks, and only
//! those travel.
//!
//! ```text
//! mask message, by peer:    one u32 for every id that was sent, table after table: bit k says that task k touches it
//! float message, by peer:   rows of table 0 | rows of table 1 | …    (of each id, those of the tasks in its mask)
//! ```

use super::embeddings::Embeddings;
use super::exchange::{Layout, TableRoute};
use super::pool;
use crate::comm::{Communicator, collectives};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Tasks that a mask has room for.
const MOST_TASKS: usize = 32;

/// The masks of one table's ids, by peer.
type Masks = Vec<Vec<u32>>;

impl Embeddings {
    /// Sends every task's gradients to the owners; leaves in `rows` the sums of the distinct rows owned here, one task
    /// after the other.
    pub(super) fn return_task_gradients(
        &mut self,
        comm: &dyn Communicator,
        routes: &mut [TableRoute],
        tasks: usize,
    ) -> Result<()> {
        if tasks > MOST_TASKS {
            return Err(Error::job(format!("{tasks} tasks are too many for gradients by row"))
                .at("key", "balance")
                .fix(format!("use at most {MOST_TASKS} tasks, or `scope: shared`")));
        }
        let Self { wire, wire_format, gradient_dims: dims, size, .. } = self;
        let sent: Vec<Masks> =
            routes.par_iter().zip(&*dims).map(|(route, &dim)| masks(route, dim, tasks, *size)).collect();
        let received = exchange_masks(comm, routes, dims, &sent)?;
        let floats = |masks: &[Masks], peer: usize, table: usize| {
            masks[table][peer].iter().map(|mask| mask.count_ones() as usize).sum::<usize>() * dims[table]
        };
        let out = Layout::new(routes.len(), *size, |peer, table| floats(&sent, peer, table));
        let into = Layout::new(routes.len(), *size, |peer, table| floats(&received, peer, table));
        wire.rows_out.resize(out.len(), 0.0);
        let parts = out.split_mut(&mut wire.rows_out);
        routes.par_iter().zip(&sent).zip(parts).zip(&*dims).for_each(|(((route, masks), parts), &dim)| {
            for (peer, part) in parts.into_iter().enumerate() {
                pack(route, peer, &masks[peer], dim, part);
            }
        });
        wire.exchange_rows(comm, *wire_format, &out, &into)?;
        let parts = into.split(&wire.rows_in);
        routes.par_iter_mut().zip(&received).zip(parts).zip(&*dims).for_each(|(((route, masks), parts), &dim)| {
            sum_duplicates(route, masks, &parts, dim, tasks);
        });
        Ok(())
    }
}

/// Which tasks touch each id that goes to each peer: those whose gradient is not zero. Of a frozen table, whose
/// gradients have `dim` 0, no id is asked about.
fn masks(route: &TableRoute, dim: usize, tasks: usize, size: usize) -> Masks {
    if dim == 0 {
        return vec![Vec::new(); size];
    }
    let len = route.ids.len() * dim;
    let touches = |id: usize, task: usize| route.rows[task * len + id * dim..][..dim].iter().any(|&g| g != 0.0);
    let mask = |id: usize| (0..tasks).fold(0, |mask, task| mask | u32::from(touches(id, task)) << task);
    (0..size).map(|peer| route.sent(peer).map(mask).collect()).collect()
}

/// Sends the masks; returns those that came from each peer, by table.
fn exchange_masks(
    comm: &dyn Communicator,
    routes: &[TableRoute],
    dims: &[usize],
    sent: &[Masks],
) -> Result<Vec<Masks>> {
    let peers = 0..comm.size();
    let expected = |(route, &dim): (&TableRoute, &usize), peer| if dim == 0 { 0 } else { route.received(peer).len() };
    let send: Vec<u32> =
        peers.clone().flat_map(|peer| sent.iter().flat_map(move |masks| masks[peer].iter().copied())).collect();
    let counts: Vec<usize> = peers.clone().map(|peer| sent.iter().map(|masks| masks[peer].len()).sum()).collect();
    let received: Vec<usize> =
        peers.clone().map(|peer| routes.iter().zip(dims).map(|table| expected(table, peer)).sum()).collect();
    let all = collectives::all_to_all_known(comm, &send, &counts, &received)?;
    let mut rest = all.as_slice();
    let mut masks: Vec<Masks> = vec![Vec::with_capacity(comm.size()); routes.len()];
    for peer in peers {
        for (masks, table) in masks.iter_mut().zip(routes.iter().zip(dims)) {
            let (head, tail) = rest.split_at(expected(table, peer));
            masks.push(head.to_vec());
            rest = tail;
        }
    }
    Ok(masks)
}

/// Copies the gradients that go to `peer` into its part of the message.
fn pack(route: &TableRoute, peer: usize, masks: &[u32], dim: usize, part: &mut [f32]) {
    let len = route.ids.len() * dim;
    let mut places = part.chunks_exact_mut(dim.max(1));
    for (id, &mask) in route.sent(peer).zip(masks) {
        for (task, place) in bits(mask).zip(&mut places) {
            place.copy_from_slice(&route.rows[task * len + id * dim..][..dim]);
        }
    }
}

/// As owner: adds up, rank after rank, each task's gradients of each distinct row.
fn sum_duplicates(route: &mut TableRoute, masks: &Masks, parts: &[&[f32]], dim: usize, tasks: usize) {
    let len = route.slots.len() * dim;
    route.rows.clear();
    route.rows.resize(tasks * len, 0.0);
    for (peer, (masks, part)) in masks.iter().zip(parts).enumerate() {
        let mut gradients = part.chunks_exact(dim.max(1));
        for (at, &mask) in route.received(peer).zip(masks) {
            let row = route.merged(at) * dim;
            for (task, gradient) in bits(mask).zip(&mut gradients) {
                pool::add(&mut route.rows[task * len + row..][..dim], gradient);
            }
        }
    }
}

/// Positions of the ones in `mask`.
fn bits(mask: u32) -> impl Iterator<Item = usize> {
    (0..MOST_TASKS).filter(move |bit| mask >> bit & 1 == 1)
}
