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
    /// Numbers of rows that are not to be trained in this step; none yet.
    pub left_alone: &'a mut Vec<usize>,
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

    /// Replaces the tasks' gradients of every row by one, which `combine` makes of those of all tables.
    ///
    /// # Errors
    /// What `combine` answers, or values of another length than one task's.
    pub fn combine<T>(&mut self, combine: impl FnOnce(Vec<TableGradients>) -> Result<T>) -> Result<T> {
        let expected: Vec<usize> = self.routes.iter().map(|route| route.rows.len() / self.tasks).collect();
        let mut left_alone = vec![Vec::new(); self.routes.len()];
        let tables = self.routes.iter_mut().zip(&self.dims).zip(&mut left_alone);
        let tables = tables.map(|((route, &dim), left_alone)| {
            let values = &mut route.rows;
            TableGradients { dim, values, left_alone }
        });
        let answer = combine(tables.collect())?;
        for (route, rows) in self.routes.iter_mut().zip(left_alone) {
            rows.into_iter().for_each(|row| route.slots[row] = NO_SLOT);
        }
        if !self.routes.iter().map(|route| route.rows.len()).eq(expected) {
            return Err(Error::internal("combined row gradients do not fit their table"));
        }
        self.tasks = 1;
        Ok(answer)
    }

    /// [`RowGradients::combine`] by Σ `weights[k]` · (gradient of task k).
    ///
    /// # Errors
    /// Another number of weights than tasks.
    pub fn weigh(&mut self, weights: &[f64]) -> Result<()> {
        if weights.len() != self.tasks {
            return Err(Error::internal(format!(
                "{} weights for the gradients of {} tasks",
                weights.len(),
                self.tasks
            )));
        }
        self.combine(|tables| {
            tables.into_iter().for_each(|table| weigh_table(table.values, weights));
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

/// Leaves Σ `weights[k]` · (block k).
fn weigh_table(values: &mut Vec<f32>, weights: &[f64]) {
    let len = values.len() / weights.len();
    let (sum, rest) = values.split_at_mut(len);
    sum.iter_mut().for_each(|value| *value *= weights[0] as f32);
    for (values, &weight) in rest.chunks_exact(len.max(1)).zip(&weights[1..]) {
        sum.iter_mut().zip(values).for_each(|(sum, &value)| *sum += weight as f32 * value);
    }
    values.truncate(len);
}

fn clear_unadmitted(route: &mut TableRoute, dim: usize) {
    let TableRoute { slots, rows, .. } = route;
    for rows in rows.chunks_exact_mut((slots.len() * dim).max(1)) {
        for (row, _) in rows.chunks_exact_mut(dim).zip(&*slots).filter(|(_, slot)| **slot == NO_SLOT) {
            row.fill(0.0);
        }
    }
}
