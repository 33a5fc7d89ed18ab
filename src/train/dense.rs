//! The dense parameters' optimizer: gradients are reduce-scattered, moments live on this rank's slice,
//! parameters are gathered. See [`Layout`] for the picture.

mod pull;

use super::layout::{self, Layout};
use crate::balance::{OnSlices, Signal, Slices, gram};
use crate::comm::{Communicator, WireFormat, collectives};
use crate::error::{Error, Result};
use crate::nn::ParamStore;
use crate::optim::{DenseOptimizer, clip};
use candle_core::backprop::GradStore;
use pull::Pull;

/// This rank's slice of the dense parameters and of the optimizer's moments.
pub struct DensePart {
    /// The parameters that are not frozen, in order. The layout numbers them, and knows no others.
    trained: Vec<usize>,
    layout: Layout,
    optimizer: Box<dyn DenseOptimizer>,
    clip_norm: Option<f64>,
    /// The layer of each shared parameter.
    layers: Vec<usize>,
    /// Of the gradients on their way to their slices.
    wire: WireFormat,
    updates: u64,
    /// This rank's slice of the parameters: `layout.slice()` floats.
    params: Vec<f32>,
    /// One vector of `layout.slice()` floats per moment of the optimizer, then one per vector that the balancing method
    /// keeps (which uses the shared part only).
    moments: Vec<Vec<f32>>,
    moment_names: Vec<String>,
    /// λ of ½ λ ‖W‖² by place in the slice; empty if it is 0 everywhere.
    l2: Vec<f32>,
    pull: Option<Pull>,
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
    /// Takes over the parameters of `store` that are not frozen; `shared[i]` says that two or more losses reach parameter
    /// i. `kept` names the vectors that the balancing method keeps.
    pub fn new(
        store: &ParamStore,
        shared: &[bool],
        optimizer: Box<dyn DenseOptimizer>,
        kept: &[String],
        clip_norm: Option<f64>,
        wire: WireFormat,
        comm: &dyn Communicator,
    ) -> Result<Self> {
        let trained: Vec<usize> = (0..store.vars().len()).filter(|&index| !store.is_frozen(index)).collect();
        let lens: Vec<usize> = trained.iter().map(|&index| store.range(index).len()).collect();
        let shared: Vec<bool> = trained.iter().map(|&index| shared[index]).collect();
        let layout = Layout::new(&lens, &shared, comm.size());
        let names: Vec<&str> = trained.iter().map(|&index| store.names()[index].as_str()).collect();
        let layers = layout::layers(&names, &shared);
        let own = optimizer.slot_names().iter().map(ToString::to_string);
        let moment_names: Vec<String> = own.chain(kept.iter().map(|name| format!("balance.{name}"))).collect();
        let moments = vec![vec![0.0; layout.slice()]; moment_names.len()];
        let mut part = Self {
            trained,
            layout,
            optimizer,
            clip_norm,
            layers,
            wire,
            updates: 0,
            params: Vec::new(),
            moments,
            moment_names,
            l2: Vec::new(),
            pull: None,
            buffers: Buffers::default(),
        };
        part.params = part.slice_of(comm.rank(), |index, values| store.read(index, values))?;
        if part.trained.iter().any(|&index| store.l2(index) != 0.0) {
            part.l2 = part.slice_of(comm.rank(), |index, values| {
                values.fill(store.l2(index) as f32);
                Ok(())
            })?;
        }
        Ok(part)
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Names of the optimizer's moments, and of what the balancing method keeps.
    pub fn moment_names(&self) -> &[String] {
        &self.moment_names
    }

    /// Floats of the parameters that two or more losses reach.
    pub fn shared_len(&self) -> usize {
        self.layout.shared_len()
    }

    /// Base learning rate.
    pub fn lr(&self) -> f64 {
        self.optimizer.lr()
    }

    /// How gradients travel.
    pub fn wire(&self) -> WireFormat {
        self.wire
    }

    /// Starts a step whose shared part has `rows` gradient rows.
    pub fn begin(&mut self, rows: usize, ranks: usize) {
        let Buffers { send, block, .. } = &mut self.buffers;
        send.clear();
        send.resize(ranks * self.layout.block(rows), 0.0);
        block.resize(self.layout.block(rows), 0.0);
    }

    /// Adds the gradients of one backward pass: `weights.0` times those of shared parameters to row `row` of `rows`, and
    /// `weights.1` times those of the tasks' own parameters.
    pub fn put(
        &mut self,
        store: &ParamStore,
        grads: &GradStore,
        (row, rows): (usize, usize),
        weights: (f64, f64),
    ) -> Result<()> {
        let Self { trained, layout, buffers, .. } = self;
        for (at, &index) in trained.iter().enumerate() {
            let weight = if layout.is_shared(at) { weights.0 } else { weights.1 };
            store.with_gradient(grads, index, |gradient| {
                layout.accumulate(at, (row, rows), weight as f32, gradient, &mut buffers.send);
            })?;
        }
        Ok(())
    }

    /// Sums the gradients over ranks, each rank keeping its slice, and forms the Gram matrix of the sums. `sound` says that
    /// this rank's gradients of embedding rows are finite, as far as they are known; it rides on the message of the products.
    ///
    /// # Errors
    /// [`not_finite`] on all ranks, if a gradient is not.
    pub fn reduce(&mut self, comm: &dyn Communicator, rows: usize, sound: bool) -> Result<Reduced> {
        collectives::reduce_scatter_sum(comm, self.wire, &self.buffers.send, &mut self.buffers.block)?;
        let (shared, own) = self.buffers.block.split_at(rows * self.layout.shared_slice());
        let mut sums = gram::partial(shared, rows);
        let own_square: f64 = own.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        sums.push(if sound { own_square } else { f64::NAN });
        collectives::all_reduce_sum(comm, &mut sums)?;
        // A square hides no number that is not finite, and is finite of every other f32.
        if sums.iter().any(|sum| !sum.is_finite()) {
            return Err(not_finite());
        }
        let own_square = sums.pop().unwrap_or(0.0);
        Ok(Reduced { gram: sums, own_square })
    }

    /// Turns the summed gradients into the update direction Σ `weights[k]` g_k; own parameters go along their own
    /// gradient. Returns its global norm.
    pub fn combine(&mut self, reduced: &Reduced, weights: &[f64]) -> f64 {
        let (slice, mut direction) = self.zero_direction();
        let rows = self.buffers.block[..weights.len() * slice].chunks_exact(slice.max(1));
        for (row, &weight) in rows.zip(weights) {
            let weight = weight as f32;
            direction.iter_mut().zip(row).for_each(|(d, &g)| *d += weight * g);
        }
        self.buffers.direction = direction;
        (gram::quadratic(&reduced.gram, weights) + reduced.own_square).max(0.0).sqrt()
    }

    /// [`DensePart::combine`] by a method that works on the slices of the gradients: returns the weights that stand for
    /// it elsewhere, and the norm.
    pub fn combine_by(
        &mut self,
        comm: &dyn Communicator,
        method: &mut dyn OnSlices,
        signal: &Signal,
        reduced: &Reduced,
    ) -> Result<(Vec<f64>, f64)> {
        let (slice, mut direction) = self.zero_direction();
        let tensors = self.layout.shared_tensors(comm.rank());
        let tasks = signal.present.len();
        let gradients = &self.buffers.block[..tasks * slice];
        let slices = Slices { gradients, tasks, tensors: &tensors, layers: &self.layers };
        let kept = &mut self.moments[self.optimizer.slot_names().len()..];
        let mut slots: Vec<&mut [f32]> = kept.iter_mut().map(|slot| &mut slot[..slice]).collect();
        let sum = |values: &mut [f64]| collectives::all_reduce_sum(comm, values);
        let weights = method.direction(signal, &slices, &mut slots, &mut direction, &sum)?;
        let mut square = gram::partial(&direction, 1);
        collectives::all_reduce_sum(comm, &mut square)?;
        self.buffers.direction = direction;
        Ok((weights, (square.iter().sum::<f64>() + reduced.own_square).sqrt()))
    }

    /// The direction's buffer, zero and as long as the shared slice.
    fn zero_direction(&mut self) -> (usize, Vec<f32>) {
        let slice = self.layout.shared_slice();
        let mut direction = std::mem::take(&mut self.buffers.direction);
        direction.clear();
        direction.resize(slice, 0.0);
        (slice, direction)
    }

    /// Moves the slice along the direction, whose global norm is `norm`, gathers all slices, and loads them into
    /// `store`. `rows` is the number of gradient rows that the direction was made of.
    pub fn apply(
        &mut self,
        comm: &dyn Communicator,
        store: &ParamStore,
        (rows, norm): (usize, f64),
        lr: f64,
    ) -> Result<()> {
        if !norm.is_finite() {
            return Err(not_finite().at("after step", self.updates));
        }
        let Buffers { block, direction, .. } = &mut self.buffers;
        direction.extend_from_slice(&block[rows * self.layout.shared_slice()..]);
        let factor = self.clip_norm.map_or(1.0, |limit| clip::factor(norm, limit)) as f32;
        if factor != 1.0 {
            direction.iter_mut().for_each(|d| *d *= factor);
        }
        // The penalty is no task's: it is not balanced, and does not count in the norm.
        let pulls = self.l2.iter().zip(&self.params).map(|(l2, parameter)| l2 * parameter);
        direction.iter_mut().zip(pulls).for_each(|(d, pull)| *d += pull);
        if let Some(pull) = &self.pull {
            pull.add_to(direction, &self.params);
        }
        self.updates += 1;
        let moments = &mut self.moments[..self.optimizer.slot_names().len()];
        self.optimizer.update(&mut self.params, &self.buffers.direction, moments, lr, self.updates);
        self.publish(comm, store)
    }

    /// Gathers all slices and loads them into `store`.
    fn publish(&mut self, comm: &dyn Communicator, store: &ParamStore) -> Result<()> {
        let Buffers { gathered, parameter, .. } = &mut self.buffers;
        gathered.resize(self.layout.gathered_len(), 0.0);
        collectives::all_gather_into(comm, &self.params, gathered)?;
        for (at, &index) in self.trained.iter().enumerate() {
            parameter.resize(self.layout.len_of(at), 0.0);
            self.layout.gather(at, gathered, parameter);
            store.load(index, parameter)?;
        }
        Ok(())
    }

    /// Every moment of every parameter, gathered from all ranks, in the order of [`DensePart::moment_names`]:
    /// `[moment][parameter]`, empty for a frozen parameter.
    pub fn gather_moments(&self, comm: &dyn Communicator, store: &ParamStore) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut gathered = vec![0.0; self.layout.gathered_len()];
        let mut all = Vec::with_capacity(self.moments.len());
        for moment in &self.moments {
            collectives::all_gather_into(comm, moment, &mut gathered)?;
            let mut of_parameters = vec![Vec::new(); store.vars().len()];
            for (at, &index) in self.trained.iter().enumerate() {
                of_parameters[index].resize(self.layout.len_of(at), 0.0);
                self.layout.gather(at, &gathered, &mut of_parameters[index]);
            }
            all.push(of_parameters);
        }
        Ok(all)
    }

    /// Restores what [`DensePart::gather_moments`] gave, and takes the parameters from `store` again. A moment that is
    /// empty or missing begins with zeros.
    pub fn restore(
        &mut self,
        store: &ParamStore,
        moments: &[Vec<Vec<f32>>],
        updates: u64,
        comm: &dyn Communicator,
    ) -> Result<()> {
        let rank = comm.rank();
        self.updates = updates;
        self.reload(store, comm)?;
        let of_moment = |moment: usize| {
            self.slice_of(rank, |index, values| {
                match moments.get(moment).map_or(&[][..], |moment| &moment[index]) {
                    [] => values.fill(0.0),
                    saved => values.copy_from_slice(saved),
                }
                Ok(())
            })
        };
        self.moments = (0..self.moment_names.len()).map(of_moment).collect::<Result<_>>()?;
        Ok(())
    }

    /// Takes the parameters from `store` again, after something else has changed them there.
    pub fn reload(&mut self, store: &ParamStore, comm: &dyn Communicator) -> Result<()> {
        self.params = self.slice_of(comm.rank(), |index, values| store.read(index, values))?;
        Ok(())
    }

    /// This rank's slice of a vector that is given parameter by parameter.
    fn slice_of(&self, rank: usize, read: impl Fn(usize, &mut [f32]) -> Result<()>) -> Result<Vec<f32>> {
        let mut all = vec![0.0; self.layout.gathered_len()];
        let mut parameter = Vec::new();
        for (at, &index) in self.trained.iter().enumerate() {
            parameter.resize(self.layout.len_of(at), 0.0);
            read(index, &mut parameter)?;
            self.layout.spread(at, &parameter, &mut all);
        }
        let slice = self.layout.slice();
        Ok(all[rank * slice..(rank + 1) * slice].to_vec())
    }
}

/// What all ranks return when a gradient of the global batch is not finite.
pub(super) fn not_finite() -> Error {
    Error::numeric("the gradient is not finite")
        .fix("lower the learning rates, set optimizer.clip_norm, or standardize large numeric features")
        .agreed()
}
