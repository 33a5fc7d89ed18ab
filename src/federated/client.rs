//! One client on the ranks that host it.

use super::clients::Member;
use super::parts::Unit;
use super::unit::Shared;
use crate::checkpoint::Progress;
use crate::comm::Comm;
use crate::config::job::{Federated, Method};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::metric::TaskReport;
use crate::train::run::{Begin, Local, Run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A client: its model, and for `ditto` the one that it shares.
pub struct Client {
    /// Its number.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The model that is evaluated.
    pub run: Run,
    /// `ditto`: the model that all clients share.
    general: Option<Run>,
    /// Steps of a round.
    steps: u64,
    /// What its units were when the round began.
    starts: Vec<Vec<f32>>,
}

/// Where a client's run writes.
pub fn folder(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join("clients").join(name)
}

impl Client {
    /// Opens its data and builds its models, or reads them from its checkpoint. Collective on `group`.
    pub fn prepare(
        index: usize,
        member: Member,
        group: &Comm,
        store: &Arc<dyn Store>,
        (run_dir, begin): (&Path, Begin),
        federated: &Federated,
    ) -> Result<Self> {
        let Member { name, job } = member;
        let home = folder(run_dir, &name);
        let prepare = |job, folder: &Path| -> Result<Run> {
            let prepared = Run::prepare_from(group.clone(), job, store.clone(), folder, begin);
            prepared.map_err(|error| error.at("client", &name))
        };
        let general = match federated.method {
            Method::Ditto => Some(prepare(job.clone(), &home.join("general"))?),
            _ => None,
        };
        let run = prepare(job, &home)?;
        let steps = federated.local.steps(run.steps_per_epoch());
        let steps = steps.ok_or_else(|| Error::internal("a round without local training"))?;
        let mut client = Self { index, name, run, general, steps, starts: Vec::new() };
        let total = steps.saturating_mul(federated.rounds as u64);
        client.runs().for_each(|run| run.plan(total));
        Ok(client)
    }

    fn runs(&mut self) -> impl Iterator<Item = &mut Run> {
        self.general.iter_mut().chain(std::iter::once(&mut self.run))
    }

    /// The model whose units leave the client.
    pub fn shared(&self) -> &Run {
        self.general.as_ref().unwrap_or(&self.run)
    }

    /// [`Client::shared`], to be changed.
    pub fn shared_mut(&mut self) -> &mut Run {
        self.general.as_mut().unwrap_or(&mut self.run)
    }

    /// The numbers of a unit.
    pub fn read(&self, unit: &Unit) -> Result<Vec<f32>> {
        unit.read(&self.shared().trainable.store)
    }

    /// Trains for a round: from where the client's units stand, its own model pulled with strength `mu` towards the mean of all
    /// clients' ones. Collective on its ranks.
    pub fn train(&mut self, units: &[Shared], mu: f64, stop_asked: &dyn Fn() -> bool) -> Result<Local> {
        self.starts = units.iter().map(|shared| self.read(&shared.unit)).collect::<Result<_>>()?;
        if mu > 0.0 {
            let store = &self.run.trainable.store;
            let mean = |index| {
                let mut units = units.iter();
                units.find_map(|shared| shared.unit.parameter(store, &shared.mean, index)).map(<[f32]>::to_vec)
            };
            let towards: Vec<Option<Vec<f32>>> = (0..store.names().len()).map(mean).collect();
            self.run.pull(mu, &towards)?;
        }
        let steps = self.steps;
        if let Some(general) = &mut self.general {
            let local = general.take_steps(steps, stop_asked)?;
            if local.stopped {
                return Ok(local);
            }
        }
        self.run.take_steps(steps, stop_asked)
    }

    /// What the round's training has changed of each unit.
    pub fn deltas(&self, units: &[Shared]) -> Result<Vec<Vec<f32>>> {
        let delta = |(shared, start): (&Shared, &Vec<f32>)| {
            let end = self.read(&shared.unit)?;
            Ok(end.iter().zip(start).map(|(end, start)| end - start).collect())
        };
        units.iter().zip(&self.starts).map(delta).collect()
    }

    /// Takes over what the aggregation has made of its units. Collective on its ranks.
    pub fn take(&mut self, units: &[Shared]) -> Result<()> {
        for shared in units {
            let values = shared.of_client(self.index, self.read(&shared.unit)?);
            shared.unit.write(&self.shared().trainable.store, &values)?;
        }
        self.shared_mut().parameters_changed()
    }

    /// Metrics on its own rows of `data.valid`. Collective on its ranks.
    pub fn on_valid(&mut self) -> Result<Option<Vec<TaskReport>>> {
        self.run.on_valid()
    }

    /// Metrics of its best checkpoint on its own rows of `data.test`. Collective on its ranks.
    pub fn on_test(&mut self) -> Result<Option<Vec<TaskReport>>> {
        self.run.on_test()
    }

    /// Saves its models. `evaluated` says whether the round was evaluated, `best` the value of the best round if that is this one.
    /// Collective on its ranks.
    pub fn save(&mut self, evaluated: bool, best: Option<f64>) -> Result<()> {
        for run in self.runs() {
            let (step, before) = (run.step(), run.progress().clone());
            run.save_as(Progress {
                evaluated: if evaluated { Some(step) } else { before.evaluated },
                best: best.map(|value| (step, value)).or(before.best),
                ..before
            })?;
        }
        Ok(())
    }
}
