//! Before the first round: the clients on their ranks, what they share, and what a saved round brings back.

use super::{Federation, agree, name_of};
use crate::comm::{Comm, collectives};
use crate::config::job::{Federated, Job, Weights};
use crate::config::{Bytes, Checked};
use crate::data::store::Store;
use crate::error::{Error, Result};
use crate::federated::client::Client;
use crate::federated::clients::{self, Member};
use crate::federated::exchange::Exchange;
use crate::federated::parts::{Unit, units};
use crate::federated::placement::hosted;
use crate::federated::saved::{self, Saved};
use crate::federated::unit::Shared;
use crate::train::goal::Goal;
use crate::train::run::Begin;
use std::path::Path;
use std::sync::Arc;

impl Federation {
    /// Opens every client's data and builds its model; with `resume`, goes on after the last whole round of `run_dir`. Collective.
    pub fn prepare(world: Comm, job: Checked, store: Arc<dyn Store>, run_dir: &Path, resume: bool) -> Result<Self> {
        let mut job = job.into_job();
        let federated = job.federated.clone().ok_or_else(|| Error::internal("a job without `federated`"))?;
        let (best, stop) = collectives::agree(world.as_ref(), goals(&job))?;
        let saved = collectives::agree(world.as_ref(), starting_point(run_dir, resume))?;
        let members = clients::of(&world, &job, &store, run_dir)?;
        let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        collectives::agree(world.as_ref(), check_same(saved.as_ref(), &names, &federated))?;

        let mine = hosted(members.len(), world.rank(), world.size());
        // Ranks of one client share its number; a rank with clients of its own is the first of them all.
        let group = world.split(mine.start as u32)?;
        let place = Place { group: &group, store: &store, run_dir, resume, saved: saved.as_ref() };
        let prepared = agree(&world, &group, place.prepare(members, mine, &federated))?;
        let shared_model = &prepared[0].shared().trainable.store;
        let chosen = collectives::agree(world.as_ref(), units(&federated, shared_model))?;
        let start = |unit: Unit| {
            let start = prepared[0].read(&unit)?;
            Ok(Shared::new(unit, start, &federated, names.len()))
        };
        let mut units = chosen.into_iter().map(start).collect::<Result<Vec<Shared>>>()?;
        if let Some(saved) = &saved {
            collectives::agree(world.as_ref(), saved::restore(run_dir, saved, &mut units))?;
        }

        resolve(&mut job, &prepared[0]);
        let exchange = Exchange::new(world.clone(), names.len(), group.rank() == 0);
        let rows = row_counts(&exchange, &prepared)?;
        let weights = weights(&rows, federated.weights);
        Ok(Self {
            world,
            job,
            federated,
            run_dir: run_dir.to_path_buf(),
            names,
            rows,
            weights,
            clients: prepared,
            units,
            exchange,
            round: saved.as_ref().map_or(0, |saved| saved.round),
            progress: saved.map(|saved| saved.progress).unwrap_or_default(),
            best,
            stop,
        })
    }
}

/// What preparing a client takes.
struct Place<'a> {
    group: &'a Comm,
    store: &'a Arc<dyn Store>,
    run_dir: &'a Path,
    resume: bool,
    saved: Option<&'a Saved>,
}

impl Place<'_> {
    fn prepare(
        &self,
        members: Vec<Member>,
        mine: std::ops::Range<usize>,
        federated: &Federated,
    ) -> Result<Vec<Client>> {
        let beside = mine.len() as u64;
        let mut clients = Vec::new();
        for (index, mut member) in members.into_iter().enumerate().filter(|(index, _)| mine.contains(index)) {
            let begin = match (self.saved, self.resume) {
                (Some(saved), _) => Begin::At(saved.clients[index].1),
                // What a run that was killed in its first round may have left.
                (None, true) => Begin::Anew,
                (None, false) => Begin::New,
            };
            member.job = share_memory(member.job, beside)?;
            let place = (self.run_dir, begin);
            clients.push(Client::prepare(index, member, self.group, self.store, place, federated)?);
        }
        Ok(clients)
    }
}

/// A rank's memory limit is that of all its clients together.
fn share_memory(job: Checked, beside: u64) -> Result<Checked> {
    let mut job = job.into_job();
    job.memory_limit = job.memory_limit.map(|Bytes(limit)| Bytes((limit / beside).max(1)));
    Checked::new(job)
}

fn goals(job: &Job) -> Result<(Goal, Option<Goal>)> {
    Ok((Goal::best(job)?, Goal::stop(job)?))
}

fn starting_point(run_dir: &Path, resume: bool) -> Result<Option<Saved>> {
    let newest = saved::newest(run_dir)?;
    match newest {
        Some(saved) if !resume => {
            Err(Error::job(format!("this run folder already holds round {} of a run", saved.round))
                .at("path", run_dir.display())
                .fix("go on from there with --resume, or choose another folder with --run-dir"))
        }
        newest => Ok(newest),
    }
}

/// A resumed federation must have the same clients and method.
fn check_same(saved: Option<&Saved>, names: &[String], federated: &Federated) -> Result<()> {
    let Some(saved) = saved else { return Ok(()) };
    let other = |what: String, key: &str| {
        Err(Error::job(what)
            .at("key", key)
            .fix("set it back to go on with this run, or train anew in another --run-dir"))
    };
    let before: Vec<&str> = saved.clients.iter().map(|(name, _)| name.as_str()).collect();
    if before != names {
        return other(
            format!("the clients were {}, and are {}", before.join(", "), names.join(", ")),
            "federated.clients",
        );
    }
    if saved.method != name_of(federated) {
        return other(
            format!("the method was `{}`, and is `{}`", saved.method, name_of(federated)),
            "federated.method",
        );
    }
    Ok(())
}

/// Writes into `job` what a client has filled in of it.
fn resolve(job: &mut Job, client: &Client) {
    let own = &client.run.job;
    job.model = own.model.clone();
    job.balance = own.balance.clone();
    job.optimizer = own.optimizer.clone();
    job.tables = own.tables.clone();
}

fn row_counts(exchange: &Exchange, clients: &[Client]) -> Result<Vec<u64>> {
    let mine: Vec<u64> = clients.iter().map(|client| client.run.rows()).collect();
    let all = exchange.messages(bytemuck::cast_slice(&mine))?;
    Ok(all.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec::<u8, u64>(bytes)).collect())
}

/// The clients' weights in a mean; they sum to 1.
fn weights(rows: &[u64], by: Weights) -> Vec<f64> {
    let total: u64 = rows.iter().sum();
    let weight = |&rows: &u64| match by {
        Weights::Rows => rows as f64 / total.max(1) as f64,
        Weights::Equal => 1.0,
    };
    let weights: Vec<f64> = rows.iter().map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}
