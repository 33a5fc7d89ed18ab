//! The only place where anything of a client's model is sent.

use crate::comm::{Comm, collectives};
use crate::error::{Error, Result};

/// Sends the updates of this rank's clients to all ranks.
pub struct Exchange {
    world: Comm,
    clients: usize,
    /// Whether this rank speaks for its clients: the first of a client's ranks does.
    speaks: bool,
}

/// Embedding rows of one table from one rank.
pub struct Rows {
    /// Rows of each of the rank's clients.
    pub counts: Vec<u64>,
    /// Their ids, client by client.
    pub ids: Vec<u64>,
    /// Their values.
    pub values: Vec<f32>,
}

impl Exchange {
    /// Between `clients` clients on the ranks of `world`.
    pub fn new(world: Comm, clients: usize, speaks: bool) -> Self {
        Self { world, clients, speaks }
    }

    /// The numbers of all clients, in client order: `mine` has one vector of `len` numbers for each client that this rank hosts.
    /// Collective.
    pub fn gather(&self, mine: &[Vec<f32>], len: usize) -> Result<Vec<Vec<f32>>> {
        let send = if self.speaks { mine.concat() } else { Vec::new() };
        let (all, _) = collectives::all_gather(self.world.as_ref(), &send)?;
        if all.len() != self.clients * len {
            let what = format!("{} clients sent {} numbers, {len} each were expected", self.clients, all.len());
            return Err(Error::internal(what));
        }
        Ok(all.chunks_exact(len.max(1)).map(<[f32]>::to_vec).collect())
    }

    /// Embedding rows of all ranks: `counts` has the number of rows of each client that this rank hosts, `ids` and `values` the rows
    /// themselves. A client on several ranks has its rows on all of them, so every rank speaks. Returns the three by rank. Collective.
    pub fn rows(&self, counts: &[u64], ids: &[u64], values: &[f32]) -> Result<Vec<Rows>> {
        let counts = by_rank(collectives::all_gather(self.world.as_ref(), counts)?);
        let ids = by_rank(collectives::all_gather(self.world.as_ref(), ids)?);
        let values = by_rank(collectives::all_gather(self.world.as_ref(), values)?);
        let rows = counts.into_iter().zip(ids).zip(values);
        Ok(rows.map(|((counts, ids), values)| Rows { counts, ids, values }).collect())
    }

    /// A message of each rank that speaks, in rank order: of its clients, in client order. Collective.
    pub fn messages(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = collectives::all_gather_messages(self.world.as_ref(), if self.speaks { mine } else { &[] })?;
        Ok(all.into_iter().filter(|message| !message.is_empty()).collect())
    }
}

/// Cuts what was gathered into each rank's part.
fn by_rank<T: Clone>((all, counts): (Vec<T>, Vec<usize>)) -> Vec<Vec<T>> {
    let mut rest = all.as_slice();
    let mut take = |count: usize| {
        let (head, tail) = rest.split_at(count);
        rest = tail;
        head.to_vec()
    };
    counts.into_iter().map(&mut take).collect()
}
