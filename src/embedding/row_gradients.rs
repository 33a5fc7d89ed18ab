//! The gradients of table rows at their owners, summed over ranks: of one loss, or of each task.
//!
//! ```text
//! rows of a table    task 1: slot 0 | slot 1 | …    task 2: slot 0 | …        each `dim` floats
//! ```

use super::exchange::TableRoute;
use super::table::NO_SLOT;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// See the module. Rows that were not admitted to their table have gradient 0.
#[derive(Debug)]
pub struct RowGradients {
    routes: Vec<TableRoute>,
    dims: Vec<usize>,
    tasks: usize,
    step: u64,
}

/// The rows of one table.
#[derive(Debug)]
pub struct TableGradients<'a> {
    /// Floats of a row.
    pub dim: usize,
    /// One block of `rows × dim` per task.
    pub values: &'a mut Vec<f32>,
}

impl RowGradients {
    pub(super) fn new(mut routes: Vec<TableRoute>, dims: &[usize], tasks: usize, step: u64) -> Self {
        if tasks > 1 {
            routes.par_iter_mut().zip(dims).for_each(|(route, &dim)| clear_unadmitted(route, dim));
        }
        Self { routes, dims: dims.to_vec(), tasks, step }
    }

    /// Tasks whose gradients are apart.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// The gradients of each task over all rows owned here, table by table.
    pub fn by_table(&self) -> Vec<Vec<&[f32]>> {
        let tables = self.routes.iter();
        tables.map(|route| route.rows.chunks_exact((route.rows.len() / self.tasks).max(1)).collect()).collect()
    }

    /// Replaces the tasks' gradients of every row by one, which `combine` makes of a table's.
    ///
    /// # Errors
    /// What `combine` answers, or values of another length than one task's.
    pub fn combine(&mut self, mut combine: impl FnMut(usize, TableGradients) -> Result<()>) -> Result<()> {
        for (table, (route, &dim)) in self.routes.iter_mut().zip(&self.dims).enumerate() {
            let expected = route.rows.len() / self.tasks;
            combine(table, TableGradients { dim, values: &mut route.rows })?;
            if route.rows.len() != expected {
                return Err(Error::internal("combined row gradients do not fit their table"));
            }
        }
        self.tasks = 1;
        Ok(())
    }

    /// [`RowGradients::combine`] by Σ `weights[k]` · (gradient of task k).
    pub fn weigh(&mut self, weights: &[f64]) -> Result<()> {
        if weights.len() != self.tasks {
            return Err(Error::internal(format!(
                "{} weights for the gradients of {} tasks",
                weights.len(),
                self.tasks
            )));
        }
        self.combine(|_, TableGradients { values, .. }| {
            let len = values.len() / weights.len();
            let (sum, rest) = values.split_at_mut(len);
            sum.iter_mut().for_each(|value| *value *= weights[0] as f32);
            for (values, &weight) in rest.chunks_exact(len.max(1)).zip(&weights[1..]) {
                sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += weight as f32 * value);
            }
            values.truncate(len);
            Ok(())
        })
    }

    pub(super) fn into_routes(self) -> Result<(Vec<TableRoute>, u64)> {
        match self.tasks {
            1 => Ok((self.routes, self.step)),
            tasks => Err(Error::internal(format!("row gradients of {tasks} tasks that were not combined"))),
        }
    }
}

fn clear_unadmitted(route: &mut TableRoute, dim: usize) {
    let TableRoute { slots, rows, .. } = route;
    for rows in rows.chunks_exact_mut((slots.len() * dim).max(1)) {
        for (row, _) in rows.chunks_exact_mut(dim).zip(&*slots).filter(|(_, slot)| **slot == NO_SLOT) {
            row.fill(0.0);
        }
    }
}
