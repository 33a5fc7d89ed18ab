//! The dense parameters' optimizer: gradients are reduce-scattered, moments live on this rank's slice,
//! parameters are gathered. See [`Layout`] for the picture.

use super::layout::Layout;
use crate::balance::gram;
use crate::comm::{Communicator, WireFormat, collectives};
use crate::error::{Error, Result};
use crate::nn::ParamStore;
use crate::optim::{DenseOptimizer, clip};
use candle_core::backprop::GradStore;

/// This rank's slice of the dense parameters and of the optimizer's moments.
pub struct DensePart {
    layout: Layout,
    optimizer: Box<dyn DenseOptimizer>,
    clip_norm: Option<f64>,
    /// Of the gradients on their way to their slices.
    wire: WireFormat,
    updates: u64,
    /// This rank's slice of the parameters: `layout.slice()` floats.
    params: Vec<f32>,
    /// One vector of `layout.slice()` floats per moment.
    moments: Vec<Vec<f32>>,
    buffers: Buffers,
}

/// Buffers kept from step to step.
#[derive(Default)]
struct Buffers {
    /// One parameter's gradient.
    parameter: Vec<f32>,
    /// What this rank sends: `ranks × layout.block(rows)`.
    send: Vec<f32>,
    /// What it receives: `layout.block(rows)`.
    block: Vec<f32>,
    /// The update direction on the slice.
    direction: Vec<f32>,
    /// Everybody's slice.
    gathered: Vec<f32>,
}

/// What the ranks agree on after the gradients are reduced.
#[derive(Debug, Clone, PartialEq)]
pub struct Reduced {
    /// Row-major Gram matrix of the global shared gradients, `rows × rows`.
    pub gram: Vec<f64>,
    /// Squared norm of the tasks' own parameters' gradient.
    pub own_square: f64,
}

impl DensePart {
    /// Takes over the parameters of `store`; `shared[i]` says that two or more losses reach parameter i.
    pub fn new(
        store: &ParamStore,
        shared: &[bool],
        optimizer: Box<dyn DenseOptimizer>,
        clip_norm: Option<f64>,
        wire: WireFormat,
        comm: &dyn Communicator,
    ) -> Result<Self> {
        let lens: Vec<usize> = store.vars().iter().map(|v| v.elem_count()).collect();
        let layout = Layout::new(&lens, shared, comm.size());
        let moments = vec![vec![0.0; layout.slice()]; optimizer.slot_names().len()];
        let mut part = Self {
            layout,
            optimizer,
            clip_norm,
            wire,
            updates: 0,
            params: Vec::new(),
            moments,
            buffers: Buffers::default(),
        };
        part.params = part.slice_of(comm.rank(), |index, values| store.read(index, values))?;
        Ok(part)
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Names of the optimizer's moments.
    pub fn moment_names(&self) -> &'static [&'static str] {
        self.optimizer.slot_names()
    }

    /// Floats of the parameters that two or more losses reach.
    pub fn shared_len(&self) -> usize {
        self.layout.shared_len()
    }

    /// Base learning rate.
    pub fn lr(&self) -> f64 {
        self.optimizer.lr()
    }

    /// Starts a step whose shared part has `rows` gradient rows.
    pub fn begin(&mut self, rows: usize, ranks: usize) {
        let Buffers { send, block, .. } = &mut self.buffers;
        send.clear();
        send.resize(ranks * self.layout.block(rows), 0.0);
        block.resize(self.layout.block(rows), 0.0);
    }

    /// Adds the gradients of one backward pass: shared parameters to row `row` of `rows`, own ones as they are.
    pub fn put(&mut self, store: &ParamStore, grads: &GradStore, row: usize, rows: usize) -> Result<()> {
        for index in 0..self.layout.parameters() {
            store.with_gradient(grads, index, |gradient| {
                self.layout.scatter(index, row, rows, gradient, &mut self.buffers.send);
            })?;
        }
        Ok(())
    }

    /// Sums the gradients over ranks, each rank keeping its slice, and forms the Gram matrix of the sums.
    pub fn reduce(&mut self, comm: &dyn Communicator, rows: usize) -> Result<Reduced> {
        collectives::reduce_scatter_sum(comm, self.wire, &self.buffers.send, &mut self.buffers.block)?;
        let (shared, own) = self.buffers.block.split_at(rows * self.layout.shared_slice());
        let mut sums = gram::partial(shared, rows);
        sums.push(own.iter().map(|&v| f64::from(v) * f64::from(v)).sum());
        collectives::all_reduce_sum(comm, &mut sums)?;
        let own_square = sums.pop().unwrap_or(0.0);
        Ok(Reduced { gram: sums, own_square })
    }

    /// Moves the slice along Σ `weights[k]` g_k (own parameters along their own gradient), gathers all
    /// slices, and loads them into `store`. Returns the global norm of the direction before clipping.
    pub fn apply(
        &mut self,
        comm: &dyn Communicator,
        store: &ParamStore,
        reduced: &Reduced,
        weights: &[f64],
        lr: f64,
    ) -> Result<f64> {
        let norm = (gram::quadratic(&reduced.gram, weights) + reduced.own_square).max(0.0).sqrt();
        if !norm.is_finite() {
            return Err(Error::numeric("the gradient is not finite")
                .at("after step", self.updates)
                .fix("lower the learning rates, set optimizer.clip_norm, or standardize large numeric features")
                .agreed());
        }
        let factor = self.clip_norm.map_or(1.0, |limit| clip::factor(norm, limit));
        self.combine(weights, factor);
        self.updates += 1;
        self.optimizer.update(&mut self.params, &self.buffers.direction, &mut self.moments, lr, self.updates);
        self.publish(comm, store)?;
        Ok(norm)
    }

    fn combine(&mut self, weights: &[f64], factor: f64) {
        let slice = self.layout.shared_slice();
        let (rows, own) = self.buffers.block.split_at(weights.len() * slice);
        let direction = &mut self.buffers.direction;
        direction.clear();
        direction.resize(slice, 0.0);
        for (row, &weight) in rows.chunks_exact(slice.max(1)).zip(weights) {
            let weight = (weight * factor) as f32;
            for (d, &g) in direction.iter_mut().zip(row) {
                *d += weight * g;
            }
        }
        direction.extend(own.iter().map(|&g| g * factor as f32));
    }

    /// Gathers all slices and loads them into `store`.
    fn publish(&mut self, comm: &dyn Communicator, store: &ParamStore) -> Result<()> {
        let Buffers { gathered, parameter, .. } = &mut self.buffers;
        gathered.resize(self.layout.gathered_len(), 0.0);
        collectives::all_gather_into(comm, &self.params, gathered)?;
        for index in 0..self.layout.parameters() {
            parameter.resize(store.vars()[index].elem_count(), 0.0);
            self.layout.gather(index, gathered, parameter);
            store.load(index, parameter)?;
        }
        Ok(())
    }

    /// Every moment of every parameter, gathered from all ranks: `[moment][parameter]`.
    pub fn gather_moments(&self, comm: &dyn Communicator, store: &ParamStore) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut gathered = vec![0.0; self.layout.gathered_len()];
        let mut all = Vec::with_capacity(self.moments.len());
        for moment in &self.moments {
            collectives::all_gather_into(comm, moment, &mut gathered)?;
            let of = |index: usize| {
                let mut values = vec![0.0; store.vars()[index].elem_count()];
                self.layout.gather(index, &gathered, &mut values);
                values
            };
            all.push((0..self.layout.parameters()).map(of).collect());
        }
        Ok(all)
    }

    /// Restores what [`DensePart::gather_moments`] gave, and takes the parameters from `store` again.
    pub fn restore(
        &mut self,
        store: &ParamStore,
        moments: &[Vec<Vec<f32>>],
        updates: u64,
        comm: &dyn Communicator,
    ) -> Result<()> {
        let rank = comm.rank();
        self.updates = updates;
        self.params = self.slice_of(rank, |index, values| store.read(index, values))?;
        self.moments = moments
            .iter()
            .map(|moment| {
                self.slice_of(rank, |index, values| {
                    values.copy_from_slice(&moment[index]);
                    Ok(())
                })
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// This rank's slice of a vector that is given parameter by parameter.
    fn slice_of(&self, rank: usize, read: impl Fn(usize, &mut [f32]) -> Result<()>) -> Result<Vec<f32>> {
        let mut all = vec![0.0; self.layout.gathered_len()];
        let mut parameter = Vec::new();
        for index in 0..self.layout.parameters() {
            parameter.resize(self.layout.len_of(index), 0.0);
            read(index, &mut parameter)?;
            self.layout.spread(index, &parameter, &mut all);
        }
        let slice = self.layout.slice();
        Ok(all[rank * slice..(rank + 1) * slice].to_vec())
    }
}
