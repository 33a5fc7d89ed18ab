//! Rows of one table by id, apart from any batch: what ranking multiplies.

use super::embeddings::Embeddings;
use super::exchange::TableRoute;
use super::pool::BagRoute;
use super::spec::{BagKind, Mode, Pool};
use crate::comm::Communicator;
use crate::data::batch::IdColumn;
use crate::error::{Error, Result};

impl Embeddings {
    /// The rows of `ids` in table number `table`, `[ids, dim]`; zeros for an id without one. Nothing changes.
    /// Collective; every rank may ask for other ids, or none.
    pub fn fetch(&mut self, comm: &dyn Communicator, table: usize, ids: &[u64]) -> Result<Vec<f32>> {
        let Some(&dim) = self.dims.get(table) else {
            return Err(Error::internal(format!("there is no table number {table}")));
        };
        let column = IdColumn::one_each(ids.to_vec());
        let mut routes: Vec<TableRoute> = Vec::new();
        routes.resize_with(self.tables.len(), TableRoute::default);
        for (other, (route, dedup)) in routes.iter_mut().zip(&mut self.dedups).enumerate() {
            dedup.begin();
            if other == table {
                let mut bag = BagRoute::default();
                bag.read(&column, BagKind::Pooled(Pool::Sum), |id| dedup.insert(id, 1));
                route.bags.push(bag);
            }
            route.take_ids(dedup, &self.buckets, self.size);
        }
        match self.size {
            1 => self.resolve_alone(&mut routes, Mode::Evaluate)?,
            _ => self.resolve_with(comm, &mut routes, None, Mode::Evaluate)?,
        }
        let mut rows = vec![0.0; ids.len() * dim];
        let TableRoute { bags, rows: distinct, .. } = &routes[table];
        bags[0].pool(Pool::Sum, distinct, dim, 0, &mut rows, (0, dim));
        Ok(rows)
    }
}
