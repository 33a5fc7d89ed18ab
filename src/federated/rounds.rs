//! The loop over rounds.

mod prepare;

use super::accountant::epsilon;
use super::client::Client;
use super::events::{End, Evaluation, Guarantee, Notice, Observer, Round, Start};
use super::exchange::Exchange;
use super::reports::{self, Report, Reports};
use super::saved::{self, Saved, SavedUnit};
use super::unit::Shared;
use super::{privacy, tables};
use crate::checkpoint::Progress;
use crate::comm::{Comm, collectives};
use crate::config::Every;
use crate::config::job::{Federated, Job};
use crate::error::Result;
use crate::train::events::Saved as SavedNotice;
use crate::train::goal::Goal;
use crate::train::run::{Ending, Local};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Instant;

/// A federation that is ready for its next round; each rank holds the clients that it hosts.
pub struct Federation {
    world: Comm,
    /// The job, with everything that was left to tandem filled in.
    pub job: Job,
    federated: Federated,
    run_dir: PathBuf,
    names: Vec<String>,
    rows: Vec<u64>,
    weights: Vec<f64>,
    clients: Vec<Client>,
    units: Vec<Shared>,
    exchange: Exchange,
    round: u64,
    progress: Progress,
    best: Goal,
    stop: Option<Goal>,
}

impl Federation {
    /// The sizes of the federation.
    pub fn start_notice(&self) -> Start {
        let rows = self.names.iter().cloned().zip(self.rows.iter().map(|&rows| Value::from(rows)));
        let sent = self.units.iter().map(|shared| (shared.unit.name.clone(), Value::from(shared.unit.len)));
        Start {
            job: self.job.name.clone(),
            method: name_of(&self.federated),
            step: self.round,
            total_steps: self.federated.rounds as u64,
            ranks: self.world.size(),
            backend: self.world.backend(),
            clients: rows.collect(),
            dense_parameters: self.clients[0].run.trainable.store.len(),
            sent: sent.collect(),
        }
    }

    /// Runs the rounds that are left, or until `stop_asked` answers true on some rank: a round that is under way is then given up,
    /// the last whole one is saved. `observer` is told on rank 0. Collective.
    pub fn train(&mut self, observer: &mut dyn Observer, stop_asked: &dyn Fn() -> bool) -> Result<Ending> {
        let began = Instant::now();
        let mut ending = if self.is_stale() { Some(Ending::EarlyStop) } else { None };
        while ending.is_none() && self.round < self.federated.rounds as u64 {
            ending = self.one_round(observer, stop_asked)?;
        }
        let ending = ending.unwrap_or(Ending::Done);
        let seconds = began.elapsed().as_secs_f64();
        let end = End { step: self.round, reason: ending.name(), seconds, privacy: self.guarantee() };
        self.tell(observer, Notice::End(end))?;
        Ok(ending)
    }

    /// Evaluates each client's model of the best round on its rows of `data.test`, if there are any. Collective.
    pub fn test(&mut self, observer: &mut dyn Observer) -> Result<Option<Report>> {
        if self.job.data.test.is_none() {
            return Ok(None);
        }
        let mine = self.each_client(Client::on_test)?;
        let step = self.progress.best.map_or(self.round, |(round, _)| round);
        let report = self.report(&mine)?;
        self.tell(observer, Notice::Eval(Evaluation { step, split: "test", report: report.clone() }))?;
        Ok(Some(report))
    }

    fn one_round(&mut self, observer: &mut dyn Observer, stop_asked: &dyn Fn() -> bool) -> Result<Option<Ending>> {
        let began = Instant::now();
        let mu = self.federated.mu.unwrap_or(0.0);
        let units = std::mem::take(&mut self.units);
        let trained = self.each_client(|client| client.train(&units, mu, stop_asked));
        self.units = units;
        let locals = trained?;
        let mut given_up = [u8::from(locals.iter().any(|local| local.stopped))];
        collectives::all_reduce_max(self.world.as_ref(), &mut given_up)?;
        if given_up[0] > 0 {
            return Ok(Some(Ending::Signal));
        }
        let local_s = began.elapsed().as_secs_f64();
        self.exchange()?;
        self.round += 1;
        let notice = self.round_notice(&locals, local_s, began.elapsed().as_secs_f64() - local_s)?;
        self.tell(observer, Notice::Round(notice))?;
        let best = if self.job.train.eval.every == Every::Never { None } else { self.validate(observer)? };
        self.save(observer, best)?;
        let mut asked = [u8::from(stop_asked())];
        collectives::all_reduce_max(self.world.as_ref(), &mut asked)?;
        Ok(match (self.is_stale(), asked[0] > 0 && self.round < self.federated.rounds as u64) {
            (true, _) => Some(Ending::EarlyStop),
            (false, true) => Some(Ending::Signal),
            (false, false) => None,
        })
    }

    /// Sends what the clients' training has changed, unit by unit, and gives each client what comes of it.
    fn exchange(&mut self) -> Result<()> {
        let round = self.round;
        let (units, privacy) = (&self.units, self.federated.privacy);
        let covered = |client: &Client| {
            let mut deltas = client.deltas(units)?;
            if let Some(privacy) = &privacy {
                privacy::cover(privacy, client.index, round, &mut deltas);
            }
            Ok(deltas)
        };
        let mut mine: Vec<Vec<Vec<f32>>> = self.clients.iter().map(covered).collect::<Result<_>>()?;
        for (u, shared) in self.units.iter_mut().enumerate() {
            let sent: Vec<Vec<f32>> = mine.iter_mut().map(|client| std::mem::take(&mut client[u])).collect();
            let deltas = self.exchange.gather(&sent, shared.unit.len)?;
            let aggregated = shared.aggregate(&deltas, &self.weights, &self.federated);
            collectives::agree(self.world.as_ref(), aggregated)?;
        }
        let units = std::mem::take(&mut self.units);
        let taken = self.each_client(|client| client.take(&units));
        self.units = units;
        taken?;
        if self.federated.embeddings {
            tables::average(&self.exchange, &mut self.clients, &self.weights)?;
        }
        Ok(())
    }

    /// Evaluates on `data.valid`; the value of the goal if this round is the best so far.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<Option<f64>> {
        let mine = self.each_client(Client::on_valid)?;
        let report = self.report(&mine)?;
        if report.tasks.is_empty() {
            return Ok(None);
        }
        self.tell(observer, Notice::Eval(Evaluation { step: self.round, split: "valid", report: report.clone() }))?;
        self.progress.evaluated = Some(self.round);
        let better = self.best.better(&report.tasks, self.progress.best.map(|(_, best)| best))?;
        if let Some(value) = better {
            self.progress.best = Some((self.round, value));
        }
        if let Some(goal) = &self.stop {
            match goal.better(&report.tasks, self.progress.stop_best)? {
                Some(value) => (self.progress.stop_best, self.progress.stale) = (Some(value), 0),
                None => self.progress.stale += 1,
            }
        }
        Ok(better)
    }

    fn report(&self, mine: &Reports) -> Result<Report> {
        Ok(Report::new(&self.names, &reports::gather(&self.exchange, mine)?))
    }

    /// Saves all clients, and then the round that makes their checkpoints belong together.
    fn save(&mut self, observer: &mut dyn Observer, best: Option<f64>) -> Result<()> {
        let evaluated = self.progress.evaluated == Some(self.round);
        self.each_client(|client| client.save(evaluated, best))?;
        let steps = self.gather_numbers(self.clients.iter().map(|client| client.run.step()))?;
        let saved = Saved {
            round: self.round,
            method: name_of(&self.federated),
            clients: self.names.iter().cloned().zip(steps).collect(),
            units: self.units.iter().map(SavedUnit::of).collect(),
            progress: self.progress.clone(),
            vectors: crate::checkpoint::FileEntry::default(),
        };
        let first = self.world.rank() == 0;
        let written = if first { saved::write(&self.run_dir, saved, &self.units) } else { Ok(()) };
        collectives::agree(self.world.as_ref(), written)?;
        let path = self.run_dir.join("clients").display().to_string();
        self.tell(observer, Notice::Saved(SavedNotice { step: self.round, path, best: best.is_some() }))
    }

    fn round_notice(&self, locals: &[Local], local_s: f64, exchange_s: f64) -> Result<Round> {
        let tasks = self.job.tasks.len();
        let losses =
            self.gather_numbers(locals.iter().flat_map(|local| local.losses.iter().map(|loss| loss.to_bits())))?;
        let by_task = |losses: &[u64]| -> Value {
            let named = self.job.tasks.iter().zip(losses);
            Value::Object(named.map(|(task, &bits)| (task.name.clone(), Value::from(f64::from_bits(bits)))).collect())
        };
        let losses = self.names.iter().cloned().zip(losses.chunks(tasks.max(1)).map(by_task));
        let shared = self.units.iter().filter(|shared| !shared.shares.is_empty());
        let by_client = |shared: &Shared| -> Value {
            let named = self.names.iter().cloned().zip(shared.shares.iter().map(|&share| Value::from(share)));
            Value::Object(named.collect())
        };
        Ok(Round {
            step: self.round,
            local_s,
            exchange_s,
            losses: losses.collect(),
            shares: shared.map(|shared| (shared.unit.name.clone(), by_client(shared))).collect(),
            epsilon: self.guarantee().map(|guarantee| guarantee.epsilon),
        })
    }

    /// Numbers of all clients on every rank, in client order.
    fn gather_numbers(&self, mine: impl Iterator<Item = u64>) -> Result<Vec<u64>> {
        let mine: Vec<u64> = mine.collect();
        let all = self.exchange.messages(bytemuck::cast_slice(&mine))?;
        Ok(all.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec::<u8, u64>(bytes)).collect())
    }

    /// What noise there is guarantees after the rounds so far.
    fn guarantee(&self) -> Option<Guarantee> {
        let privacy = self.federated.privacy.filter(|privacy| privacy.noise > 0.0)?;
        Some(Guarantee { epsilon: epsilon(privacy.noise, self.round, privacy.delta), delta: privacy.delta })
    }

    fn is_stale(&self) -> bool {
        let stop = self.job.train.eval.stop.as_ref();
        stop.is_some_and(|stop| self.progress.stale >= stop.patience.max(1))
    }

    /// Does something with every client of this rank; an error of any client is everybody's. Collective.
    fn each_client<T>(&mut self, mut act: impl FnMut(&mut Client) -> Result<T>) -> Result<Vec<T>> {
        let named = |client: &mut Client| {
            let done = act(client);
            done.map_err(|error| error.at("client", &client.name))
        };
        let done = self.clients.iter_mut().map(named).collect();
        agree(&self.world, self.clients[0].run.comm(), done)
    }

    /// Tells `observer` on rank 0; its failure is everybody's. Collective.
    pub fn tell(&self, observer: &mut dyn Observer, notice: Notice) -> Result<()> {
        let told = if self.world.rank() == 0 { observer.notice(&notice) } else { Ok(()) };
        collectives::agree(self.world.as_ref(), told)
    }
}

/// Makes the error of a client everybody's. One that the other ranks of its client do not hold too, and so wait in their group,
/// cannot be agreed on: it is left to end the job.
fn agree<T>(world: &Comm, group: &Comm, mine: Result<T>) -> Result<T> {
    match mine {
        Err(error) if group.size() > 1 && !error.is_agreed() => Err(error),
        mine => collectives::agree(world.as_ref(), mine),
    }
}

/// The method as it stands in a job.
fn name_of(federated: &Federated) -> String {
    serde_json::to_value(federated.method).ok().and_then(|name| name.as_str().map(String::from)).unwrap_or_default()
}
